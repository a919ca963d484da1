"""The client against the real gateway, with the scripted adapter behind it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice.gateway.v1 import usage_service_pb2 as usage_pb
from sluice.provider.v1 import provider_service_pb2 as provider_pb
from sluice_client import RetryPolicy, SluiceClient, question
from sluice_kit.errors import CancelledByOwnerError, DeadlineError, InvalidRequestError, NotFoundError
from sluice_kit.testing import Mesh, mesh

from .fake import Line

QUICK = RetryPolicy(initial=0.02, maximum=0.1, patience=60.0)


@pytest.fixture
async def gateway() -> AsyncIterator[Mesh]:
    async with mesh() as running:
        yield running


@pytest.fixture
async def line(gateway: Mesh) -> AsyncIterator[Line]:
    between = Line(gateway.address)
    await between.start()
    yield between
    await between.stop()


def scripted(script: str) -> chat_pb.ChatSpec:
    return question("go", model=f"scripted/{script}")


async def test_an_answer_survives_every_cut_of_its_line(line: Line) -> None:
    async with SluiceClient(line.address, retry=QUICK) as client:
        whole = await client.stream_chat(scripted("text?tokens=60")).text()
        cuts = 0
        seen = []
        async with client.stream_chat(scripted("text?tokens=60&delay_ms=10")) as stream:
            async for item in stream:
                seen.append(item)
                if item.sequence % 20 == 5:
                    line.cut()
                    cuts += 1
        assert cuts >= 3
        assert line.connections > cuts
        assert [item.sequence for item in seen] == list(range(1, len(seen) + 1))
        assert "".join(item.event.text_delta.text for item in seen) == whole
        response = await client.get_response(stream.response or "")
        assert response.state == chat_pb.RESPONSE_STATE_COMPLETED
        assert response.answer.text == whole
        assert len(response.answer.completed.attempts) == 1


async def test_the_fold_of_a_stream_is_the_answer_in_one_piece(gateway: Mesh) -> None:
    async with SluiceClient(gateway.address) as client:
        for script in ("text?tokens=20", "reason", "tool", "json"):
            folded = await client.stream_chat(scripted(script)).fold()
            whole = await client.chat(scripted(script))
            assert folded.text == whole.text
            assert folded.message == whole.message
            assert folded.target == whole.target
            assert folded.completed.finish_reason == whole.completed.finish_reason
            stored = (await client.get_response(folded.response)).answer
            assert stored == folded


async def test_leaving_a_stream_ends_the_response_at_once(gateway: Mesh) -> None:
    async with SluiceClient(gateway.address) as client:
        async with client.stream_chat(scripted("text?tokens=100000&delay_ms=5")) as stream:
            async for item in stream:
                if item.kind == "text_delta":
                    break
        assert stream.response is not None
        assert (await client.get_response(stream.response)).state == chat_pb.RESPONSE_STATE_CANCELLED
        with pytest.raises(CancelledByOwnerError):
            await client.resume_chat(stream.response).text()


async def test_a_response_that_is_detached_can_be_resumed_by_another(gateway: Mesh) -> None:
    async with SluiceClient(gateway.address) as client, SluiceClient(gateway.address) as other:
        async with client.stream_chat(scripted("text?tokens=30&delay_ms=5")) as stream:
            first = [await anext(stream) for _ in range(4)]
            stream.detach()
        assert stream.response is not None
        async with other.resume_chat(stream.response, stream.last_sequence) as rest:
            numbers = [item.sequence async for item in rest]
        assert numbers == list(range(first[-1].sequence + 1, numbers[-1] + 1))


async def test_the_deadline_of_a_stream_ends_the_response(gateway: Mesh) -> None:
    async with SluiceClient(gateway.address) as client:
        for seconds in (0.4, 4.0, 40.0):  # time enough to be accepted, on any machine
            stream = client.stream_chat(scripted("text?tokens=100000&delay_ms=5"), timeout=seconds)
            with pytest.raises(DeadlineError):
                await stream.text()
            if stream.response is not None:
                break
        assert stream.response is not None
        state = (await client.get_response(stream.response)).state
        assert state in (chat_pb.RESPONSE_STATE_CANCELLED, chat_pb.RESPONSE_STATE_FAILED)


async def test_two_with_one_request_id_share_one_response(gateway: Mesh) -> None:
    identity = "0b1d9b54-6a52-4a53-9d6c-3a9f6f0f7b11"
    async with SluiceClient(gateway.address) as client:
        streams = [client.stream_chat(scripted("text?tokens=10&delay_ms=5"), request_id=identity) for _ in range(2)]
        texts = await asyncio.gather(*(stream.text() for stream in streams))
        assert texts[0] == texts[1]
        assert streams[0].response == streams[1].response


async def test_models_routes_and_integrations(gateway: Mesh) -> None:
    async with SluiceClient(gateway.address) as client:
        names = [one.name async for one in client.list_models(refresh=True)]
        assert "scripted/text" in names
        assert (await client.get_model("scripted/text")).integration == "scripted"
        assert (await client.list_routes()).default_alias == "default"
        assert [one.id async for one in client.list_integrations()] == ["scripted"]
        assert not (await client.integration_health("scripted")).missing_settings
        vectors = await client.embed("scripted/embed", ["a", "b"])
        assert len(vectors.embeddings) == 2


async def test_texts_are_ordered_and_tokens_counted(gateway: Mesh) -> None:
    async with SluiceClient(gateway.address) as client:
        texts = ["cats sleep", "dogs bark loudly", "dogs and cats"]
        ranked = await client.rerank("scripted/rerank", "Do dogs bark?", texts)
        assert [result.index for result in ranked.results] == [1, 2, 0]
        assert ranked.target.model == "rerank"
        best = await client.rerank("scripted/rerank", "Do dogs bark?", texts, top_n=1)
        assert [result.index for result in best.results] == [1]
        with pytest.raises(NotFoundError):
            await client.rerank("scripted/echo", "x", texts)
        with pytest.raises(InvalidRequestError) as caught:
            await client.rerank("scripted/rerank", "x", [])
        assert caught.value.violations[0].field == "texts"
        spec = question("How many tokens are these?")
        counted = await client.count_tokens("scripted/echo", spec.messages)
        assert counted.tokens > 0
        assert counted.target.model == "echo"
        assert (counted.margin > 0) == (counted.kind == provider_pb.TOKEN_COUNT_KIND_ESTIMATED)
        more = await client.count_tokens("scripted/echo", spec.messages, system="Be brief, and then briefer still.")
        assert more.tokens > counted.tokens


async def test_failures_have_their_types(gateway: Mesh) -> None:
    async with SluiceClient(gateway.address) as client:
        with pytest.raises(NotFoundError):
            await client.stream_chat(question("x", model="scripted-no/such")).text()
        with pytest.raises(InvalidRequestError) as caught:
            await client.chat(chat_pb.ChatSpec())
        assert caught.value.violations[0].field == "spec.messages"


async def test_usage_adds_up(gateway: Mesh) -> None:
    async with SluiceClient(gateway.address) as client:
        for script in ("text?tokens=2", "text?tokens=3"):
            await client.chat(scripted(script))
        model = usage_pb.USAGE_DIMENSION_MODEL
        start = datetime.now(UTC) - timedelta(hours=1)
        pager = client.query_usage(start, granularity=usage_pb.USAGE_GRANULARITY_WEEK, group_by=[model], page_size=1)
        assert [(row.model, row.figures.completed) for row in await pager.all()] == [
            ("text?tokens=2", 1),
            ("text?tokens=3", 1),
        ]
        first = await anext(pager.pages())
        assert first.totals.requests == 2
        with pytest.raises(ValueError, match="time zone"):
            client.query_usage(start.replace(tzinfo=None))
