"""The stream of an answer: numbers, ends, resumption, retries, cancellation."""

import asyncio
import uuid

import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice_client import ChatStream, NumberedEvent, RetryPolicy, SluiceClient, StreamProtocolError, question
from sluice_kit.errors import (
    CancelledByOwnerError,
    DeadlineError,
    NotFoundError,
    UnavailableError,
    make_error,
)

from .fake import RESPONSE, UNKNOWN, FakeChat, Line, accepted, completed, script, serving, text

QUICK = RetryPolicy(initial=0.01, maximum=0.05, patience=60.0)
SPEC = question("why?")


def client_of(line: Line) -> SluiceClient:
    return SluiceClient(line.address, retry=QUICK)


async def drained(stream: ChatStream) -> None:
    """Reads without `async with`, as people do."""
    async for _ in stream:
        pass


async def read(chat: FakeChat) -> list[NumberedEvent]:
    async with serving(chat) as line, client_of(line) as client, client.stream_chat(SPEC) as stream:
        return [item async for item in stream]


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
async def test_events_come_singly_with_their_numbers(batch: int) -> None:
    chat = FakeChat(script("a", "b", "c"))
    chat.batch = batch
    items = await read(chat)
    assert [item.sequence for item in items] == [1, 2, 3, 4, 5]
    assert [item.kind for item in items] == ["accepted", "text_delta", "text_delta", "text_delta", "completed"]


async def test_unknown_kinds_are_skipped_but_counted() -> None:
    items = await read(FakeChat([accepted(), UNKNOWN, text("a"), UNKNOWN, completed()]))
    assert [(item.sequence, item.kind) for item in items] == [(1, "accepted"), (3, "text_delta"), (5, "completed")]


@pytest.mark.parametrize(
    ("events", "first"),
    [
        ([accepted(), completed(), text("late")], 1),
        ([accepted(), completed(), completed()], 1),
        ([accepted(), text("a")], 1),
        ([text("a"), completed()], 1),
        ([accepted(), text("a"), completed()], 2),
        ([], 1),
    ],
    ids=["after the end", "two ends", "no end", "no accepted", "gap", "nothing"],
)
async def test_a_broken_promise_is_an_error(events: list[object], first: int) -> None:
    chat = FakeChat(events)  # type: ignore[arg-type]  # parametrized
    chat.first_number = first
    with pytest.raises(StreamProtocolError):
        await read(chat)


async def test_a_gap_in_the_middle_is_an_error() -> None:
    chat = FakeChat(script("a", "b"))
    gate = chat.gates[3] = asyncio.Event()
    async with serving(chat) as line, client_of(line) as client, client.stream_chat(SPEC) as stream:
        assert [(await anext(stream)).sequence, (await anext(stream)).sequence] == [1, 2]
        chat.first_number = 2
        gate.set()
        with pytest.raises(StreamProtocolError, match="expected event 3, but 4"):
            await anext(stream)
    assert chat.cancels == [RESPONSE]


async def test_a_cut_stream_goes_on_where_it_was() -> None:
    words = [f"{index} " for index in range(40)]
    chat = FakeChat(script(*words))
    gates = {number: asyncio.Event() for number in (5, 17, 30)}
    chat.gates = dict(gates)
    seen = []
    async with serving(chat) as line, client_of(line) as client, client.stream_chat(SPEC) as stream:
        for number in sorted(gates):
            while stream.last_sequence < number - 1:
                seen.append(await anext(stream))
            await chat.waiting.wait()
            chat.waiting.clear()
            line.cut()
            gates[number].set()
        seen.extend([item async for item in stream])
    assert [item.sequence for item in seen] == list(range(1, 43))
    assert "".join(item.event.text_delta.text for item in seen) == "".join(words)
    assert chat.resumed == [4, 16, 29]
    assert len(chat.requests) == 1
    assert chat.requests[0].spec.detach_grace.seconds == 30
    assert chat.cancels == []


async def test_before_accepted_the_same_request_is_made_again() -> None:
    chat = FakeChat(script("a"))
    gate = chat.gates[1] = asyncio.Event()
    async with serving(chat) as line, client_of(line) as client:
        reading = asyncio.create_task(client.stream_chat(SPEC).text())
        await chat.waiting.wait()
        line.cut()
        gate.set()
        assert await reading == "a"
    assert len(chat.requests) == 2
    assert chat.requests[0] == chat.requests[1]
    assert str(uuid.UUID(chat.requests[0].request_id)) == chat.requests[0].request_id
    assert chat.resumed == []


async def test_a_failure_that_was_decided_is_not_answered_by_another_try() -> None:
    overloaded = make_error(ErrorReason.ERROR_REASON_UPSTREAM_OVERLOADED, "the vendor is overloaded")
    chat = FakeChat(script("a"))
    chat.ends = [(2, overloaded)]
    with pytest.raises(UnavailableError, match="overloaded") as caught:
        await read(chat)
    assert caught.value.reason == ErrorReason.ERROR_REASON_UPSTREAM_OVERLOADED
    assert chat.resumed == []
    assert chat.cancels == []


@pytest.mark.parametrize("reason", ["DRAINING", "WATCHER_STALLED"])
async def test_a_gateway_that_lets_go_is_resumed(reason: str) -> None:
    moved = make_error(ErrorReason.Value(f"ERROR_REASON_{reason}"), "later", retry_after=0.01)
    chat = FakeChat(script("a", "b"))
    chat.ends = [(2, moved)]
    assert [item.sequence for item in await read(chat)] == [1, 2, 3, 4]
    assert chat.resumed == [2]


async def test_an_error_has_its_type_and_reason() -> None:
    chat = FakeChat(script("a"))
    chat.ends = [(0, make_error(ErrorReason.ERROR_REASON_MODEL_NOT_FOUND, "no model 'x'", metadata={"model": "x"}))]
    with pytest.raises(NotFoundError) as caught:
        await read(chat)
    assert caught.value.reason_name == "MODEL_NOT_FOUND"
    assert caught.value.metadata == {"model": "x"}


async def test_without_resume_a_cut_stream_fails_and_asks_for_no_grace() -> None:
    chat = FakeChat(script("a"))
    chat.gates[2] = asyncio.Event()
    async with serving(chat) as line, client_of(line) as client:
        stream = client.stream_chat(SPEC, resume=False)
        async with stream:
            assert (await anext(stream)).kind == "accepted"
            line.cut()
            with pytest.raises(UnavailableError):
                await anext(stream)
    assert chat.resumed == []
    assert not chat.requests[0].spec.HasField("detach_grace")


async def test_leaving_early_cancels_the_response() -> None:
    chat = FakeChat(script("a", "b"))
    chat.gates[3] = asyncio.Event()
    async with serving(chat) as line, client_of(line) as client:
        async with client.stream_chat(SPEC) as stream:
            async for item in stream:
                if item.kind == "text_delta":
                    break
        assert chat.cancels == [RESPONSE]


async def test_a_detached_response_goes_on() -> None:
    chat = FakeChat(script("a", "b"))
    gate = chat.gates[3] = asyncio.Event()
    async with serving(chat) as line, client_of(line) as client:
        async with client.stream_chat(SPEC) as stream:
            await anext(stream)
            await anext(stream)
            stream.detach()
        assert chat.cancels == []
        gate.set()
        assert stream.response == RESPONSE
        async with client.resume_chat(stream.response, stream.last_sequence) as rest:
            assert [item.sequence async for item in rest] == [3, 4]


@pytest.mark.parametrize("entered", [True, False])
@pytest.mark.parametrize("gate", [1, 3], ids=["before accepted", "amid the answer"])
async def test_cancelling_the_task_cancels_the_response(entered: bool, gate: int) -> None:
    chat = FakeChat(script("a", "b"))
    chat.gates[gate] = asyncio.Event()

    async def use(client: SluiceClient) -> None:
        stream = client.stream_chat(SPEC)
        await (stream.text() if entered else drained(stream))

    async with serving(chat) as line, client_of(line) as client:
        task = asyncio.create_task(use(client))
        await chat.waiting.wait()
        task.cancel()
        if gate == 1:
            chat.gates[1].set()
            chat.gates[2] = asyncio.Event()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert chat.cancels == [RESPONSE]


async def test_cancel_is_heard_by_the_reader() -> None:
    chat = FakeChat(script("a"))
    gate = chat.gates[2] = asyncio.Event()
    chat.ends = [(2, make_error(ErrorReason.ERROR_REASON_CANCELLED, "cancelled by its owner"))]
    async with serving(chat) as line, client_of(line) as client, client.stream_chat(SPEC) as stream:
        await anext(stream)
        await stream.cancel()
        gate.set()
        with pytest.raises(CancelledByOwnerError):
            async for _ in stream:
                pass
    assert chat.cancels == [RESPONSE]


@pytest.mark.parametrize("entered", [True, False])
async def test_the_deadline_ends_the_response_too(entered: bool) -> None:
    for seconds in (0.3, 3.0, 30.0):  # time enough to be accepted, on any machine
        chat = FakeChat(script("a"))
        chat.gates[2] = asyncio.Event()
        async with serving(chat) as line, client_of(line) as client:
            stream = client.stream_chat(SPEC, timeout=seconds)
            with pytest.raises(DeadlineError):
                await (stream.text() if entered else drained(stream))
        if stream.response is not None:
            break
    assert chat.cancels == [RESPONSE]
    assert chat.requests[0].spec.max_duration.ToMilliseconds() == seconds * 1000


async def test_a_gateway_out_of_reach_is_named() -> None:
    async with SluiceClient("127.0.0.1:1", retry=RetryPolicy(initial=0.01, patience=0.1)) as client:
        with pytest.raises(UnavailableError, match="gateway service does not answer") as caught:
            await client.stream_chat(SPEC).text()
    assert caught.value.metadata == {"service": "gateway"}


async def test_patience_ends_when_the_gateway_stays_away() -> None:
    chat = FakeChat(script("a"))
    chat.gates[2] = asyncio.Event()
    async with serving(chat) as line:
        client = SluiceClient(line.address, retry=RetryPolicy(initial=0.01, maximum=0.05, patience=0.2))
        spec = chat_pb.ChatSpec()
        spec.CopyFrom(SPEC)
        spec.detach_grace.FromMilliseconds(200)
        async with client, client.stream_chat(spec) as stream:
            await anext(stream)
            await line.stop()
            with pytest.raises(UnavailableError):
                await anext(stream)


async def test_the_key_goes_with_every_call() -> None:
    chat = FakeChat(script("a"))
    async with serving(chat) as line, SluiceClient(line.address, "k-1") as client:
        assert await client.stream_chat(SPEC).text() == "a"
    assert chat.metadata[0]["authorization"] == "Bearer k-1"


async def test_the_callers_spec_stays_as_it_was() -> None:
    spec = question("why?")
    before = spec.SerializeToString(deterministic=True)
    chat = FakeChat(script("a"))
    async with serving(chat) as line, client_of(line) as client:
        await client.stream_chat(spec, timeout=60).text()
    assert spec.SerializeToString(deterministic=True) == before
