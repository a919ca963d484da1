"""Vectors of many texts, orders and counts: in order, within limits, on record, and by which target."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.chat.v1.target_pb2 import Target
from sluice.chat.v1.usage_pb2 import Usage, UsageSource
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice.gateway.v1 import embedding_service_pb2 as pb
from sluice.gateway.v1 import embedding_service_pb2_grpc as pb_grpc
from sluice.provider.v1 import provider_service_pb2 as provider_pb
from sluice_gateway.pipeline.calls import in_parallel
from sluice_gateway.records.left import end_all
from sluice_gateway.services.embeddings import split
from sluice_kit.call import Call
from sluice_kit.errors import Reason, SluiceError, from_rpc_error, make_error

from .adapter import Adapter

R = ErrorReason
NOTHING = R.ERROR_REASON_UNSPECIFIED
REPORTED = UsageSource.USAGE_SOURCE_PROVIDER


class Embedder(Adapter):
    """Embeds a text as its number, `t7` as 7, and counts the calls that are under way."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.failures: list[Reason] = []
        """Reasons that the next calls fail with."""
        self.fails: Callable[[list[str]], Reason] = lambda texts: NOTHING
        self.gate = asyncio.Event()
        self.gate.set()
        self.now = self.most = 0
        self.width = 1
        self.counts_tokens = True

    def rpcs(self) -> dict[str, Any]:
        calls = {"Embed": self.embed, "Rerank": self.rerank, "CountTokens": self.count_tokens}
        return super().rpcs() | calls

    async def _play(self, texts: list[str]) -> Usage | None:
        self.batches.append(texts)
        self.now += 1
        self.most = max(self.most, self.now)
        self.asked.set()
        try:
            await self.gate.wait()
        finally:
            self.now -= 1
        reason = self.failures.pop(0) if self.failures else self.fails(texts)
        if reason:
            raise make_error(reason, "as the test wants", metadata={"provider": "fake"})
        return Usage(input_tokens=len(texts), source=REPORTED) if self.counts_tokens else None

    async def embed(self, request: provider_pb.EmbedRequest, call: Call) -> provider_pb.EmbedResponse:
        usage = await self._play(list(request.texts))
        vectors = [provider_pb.Embedding(values=[float(text[1:])] * self.width) for text in request.texts]
        return provider_pb.EmbedResponse(embeddings=vectors, usage=usage)

    async def rerank(self, request: provider_pb.RerankRequest, call: Call) -> provider_pb.RerankResponse:
        usage = await self._play(list(request.texts))
        return provider_pb.RerankResponse(results=[provider_pb.RerankResult(index=0, score=1)], usage=usage)

    async def count_tokens(
        self, request: provider_pb.CountTokensRequest, call: Call
    ) -> provider_pb.CountTokensResponse:
        await self._play([])
        return provider_pb.CountTokensResponse(tokens=3, kind=provider_pb.TOKEN_COUNT_KIND_EXACT)

    async def until(self, batches: int) -> None:
        while len(self.batches) < batches:
            self.asked.clear()
            await self.asked.wait()


class Setting:
    """A gateway with two embedders, `one` and `two`."""

    def __init__(self, client: Any, one: Embedder, two: Embedder) -> None:
        self.client, self.one, self.two = client, one, two
        self.stub: Any = pb_grpc.EmbeddingServiceStub(client.channel)

    def embed(self, count: int, model: str = "one/m", **fields: Any) -> Any:
        texts = [f"t{number}" for number in range(count)]
        return self.stub.Embed(pb.EmbedRequest(model=model, texts=texts, **fields))

    async def rows(self) -> list[tuple[Any, ...]]:
        names = ("operation", "number", "provider", "outcome", "reason", "input_tokens", "usage_source")
        return sorted(tuple(row[name] for name in names) for row in await self.client.rows("attempts"))


@contextlib.asynccontextmanager
async def setting(start: Any, folder: Path, **gateway: Any) -> AsyncIterator[Setting]:
    one, two = Embedder(), Embedder()
    settings: dict[str, Any] = {
        "integrations": {name: {"address": f"unix:{folder}/{name}.sock"} for name in ("one", "two")},
        "routes": {
            "default": {"targets": ["one/m", "two/m"], "retries": 0},
            "mixed": {"targets": ["one/m", "two/other"], "retries": 0},
            "again": {"targets": ["one/m"], "retries": 2},
        },
        "embeddings": {"batch_texts": 3, "parallel": 2},
        "resilience": {"retry": {"initial_seconds": 0.001}},
        "limits": {"retries": 0},
    }
    async with (
        one.serving(f"unix:{folder}/one.sock"),
        two.serving(f"unix:{folder}/two.sock"),
        start(settings | gateway) as client,
    ):
        yield Setting(client, one, two)


async def failure_of(call: Any) -> SluiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_many_texts_go_in_batches_and_come_back_in_order(start: Any, tmp_path: Path) -> None:
    async with setting(start, tmp_path) as s:
        s.one.gate.clear()
        call = s.embed(10, labels={"team": "a"})
        await s.one.until(2)
        s.one.gate.set()
        answer = await call
        assert [vector.values[0] for vector in answer.embeddings] == list(range(10))
        assert sorted(map(len, s.one.batches)) == [1, 3, 3, 3]
        assert s.one.most == 2
        assert (answer.usage.input_tokens, answer.usage.source) == (10, REPORTED)
        assert (answer.target.provider, answer.target.model) == ("one", "m")
        rows = await s.client.rows("attempts")
        assert {row["response_key"] for row in rows} == {rows[0]["response_key"]}
        assert {(row["operation"], row["outcome"], row["labels"]) for row in rows} == {
            ("embed", "completed", '{"team": "a"}')
        }
        assert sum(row["input_tokens"] for row in rows) == 10
        assert await s.client.rows("responses") == []


async def test_a_batch_that_fails_fails_the_call_and_what_was_done_is_on_record(start: Any, tmp_path: Path) -> None:
    async with setting(start, tmp_path, embeddings={"batch_texts": 2, "parallel": 1}) as s:
        s.one.fails = lambda texts: R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT if "t4" in texts else NOTHING
        failure = await failure_of(s.embed(10))
        assert failure.reason == R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT
        assert await s.rows() == [
            ("embed", 1, "one", "completed", "", 2, "provider"),
            ("embed", 2, "one", "completed", "", 2, "provider"),
            ("embed", 3, "one", "failed", "UPSTREAM_INVALID_ARGUMENT", 0, "estimated"),
        ]


async def test_the_others_end_with_the_one_that_fails(start: Any, tmp_path: Path, until: Any) -> None:
    async with setting(start, tmp_path) as s:
        s.one.gate.clear()
        call = s.embed(9)
        await s.one.until(2)
        s.one.failures = [R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT]
        s.one.gate.set()
        s.one.gate.clear()  # only those that wait now go on
        assert (await failure_of(call)).reason == R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT
        await until(lambda: s.one.now == 0)
        outcomes = {row[3] for row in await s.rows()}
        assert "running" not in outcomes
        assert s.client.gateway.calls.in_flight == 0


async def test_who_leaves_leaves_an_estimate(start: Any, tmp_path: Path, until: Any) -> None:
    async with setting(start, tmp_path) as s:
        s.one.gate.clear()
        call = s.embed(3)
        await s.one.until(1)
        call.cancel()
        await until(lambda: s.one.now == 0 and s.client.gateway.calls.in_flight == 0)
        assert await s.rows() == [("embed", 1, "one", "cancelled", "", 2, "estimated")]
        late = s.stub.Embed(pb.EmbedRequest(model="one/m", texts=["t1"]), timeout=0.2)
        assert (await failure_of(late)).reason == R.ERROR_REASON_DEADLINE_EXCEEDED


async def test_so_does_a_gateway_that_is_killed(start: Any, tmp_path: Path) -> None:
    async with setting(start, tmp_path, prices={"one/m": {"input": 2, "output": 0}}) as s:
        s.one.gate.clear()
        call = s.embed(3)
        await s.one.until(1)
        ledger = s.client.gateway._ledger
        assert (await ledger._writer.ask(end_all)).rows == 1
        [row] = await s.client.rows("attempts")
        assert await s.rows() == [("embed", 1, "one", "failed", "", 2, "estimated")]
        assert row["cost_nano_usd"] == 2 * 2000
        s.one.gate.set()
        await call


async def test_only_the_same_model_takes_over(start: Any, tmp_path: Path, ask: Any) -> None:
    async with setting(start, tmp_path) as s:
        s.one.failures = [R.ERROR_REASON_UPSTREAM_OVERLOADED]
        answer = await s.embed(2, "default")
        assert answer.target.provider == "two"
        assert [row[2:5] for row in await s.rows()] == [
            ("one", "failed", "UPSTREAM_OVERLOADED"),
            ("two", "completed", ""),
        ]
        s.one.failures = [R.ERROR_REASON_UPSTREAM_OVERLOADED]
        assert (await failure_of(s.embed(2, "mixed"))).reason == R.ERROR_REASON_UPSTREAM_OVERLOADED
        # An order is whole, whoever makes it.
        s.one.failures = [R.ERROR_REASON_UPSTREAM_OVERLOADED]
        order = await s.stub.Rerank(pb.RerankRequest(model="mixed", query="q", texts=["t1"], labels={"a": "b"}))
        assert order.target.model == "other"
        rows = [row for row in await s.client.rows("attempts") if row["operation"] == "rerank"]
        assert [(row["model"], row["labels"]) for row in rows] == [("m", '{"a": "b"}'), ("other", '{"a": "b"}')]
        s.one.failures = [R.ERROR_REASON_UPSTREAM_OVERLOADED, R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT]
        question = pb.CountTokensRequest(messages=ask().messages)
        counted = await s.stub.CountTokens(question)
        assert counted.target.provider == "two"
        failure = await failure_of(s.stub.CountTokens(question))
        assert failure.reason == R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT


async def test_what_passes_is_tried_again(start: Any, tmp_path: Path) -> None:
    async with setting(start, tmp_path) as s:
        s.one.failures = [R.ERROR_REASON_UPSTREAM_OVERLOADED] * 2
        assert (await s.embed(2, "again")).usage.input_tokens == 2
        assert [row[1:4] for row in await s.rows()] == [
            (1, "one", "failed"),
            (2, "one", "failed"),
            (3, "one", "completed"),
        ]


async def test_a_target_that_keeps_failing_is_left_alone_and_found_out_by_one_batch(start: Any, tmp_path: Path) -> None:
    breaker = {"failures": 1, "open_seconds": 1000, "max_open_seconds": 1000}
    async with setting(start, tmp_path, resilience={"breaker": breaker}) as s:
        s.one.failures = [R.ERROR_REASON_UPSTREAM_UNAVAILABLE]
        assert (await failure_of(s.embed(1))).reason == R.ERROR_REASON_UPSTREAM_UNAVAILABLE
        refused = await failure_of(s.embed(9))
        assert refused.reason == R.ERROR_REASON_CIRCUIT_OPEN
        assert len(s.one.batches) == 1
        assert 0 < (refused.retry_after or 0) <= 1000
        standing = s.client.gateway.pipeline.standings._of(Target(provider="one", model="m"))
        standing.breaker._until = 0.0  # as if the pause that it asks for were over
        answer = await s.embed(9)
        assert [vector.values[0] for vector in answer.embeddings] == list(range(9))


async def test_calls_have_room_of_their_own(start: Any, tmp_path: Path, ask: Any, until: Any) -> None:
    admission = {"in_flight": 1, "calls_in_flight": 2, "calls_in_flight_per_tenant": 1}
    async with setting(start, tmp_path, admission=admission) as s:
        # The one response that may run does not keep calls from being made,
        running = s.client.chat.StreamChat(_stuck(ask))
        await until(lambda: s.client.gateway.responses.running == 1)
        assert len((await s.embed(1)).embeddings) == 1
        s.one.gate.clear()
        call = s.embed(1)
        await s.one.until(2)
        refused = await failure_of(s.embed(1))
        assert refused.reason == R.ERROR_REASON_TOO_MANY_IN_FLIGHT
        assert refused.retry_after
        assert refused.metadata["rule"] == "gateway.admission.calls_in_flight_per_tenant"
        s.one.gate.set()
        assert len((await call).embeddings) == 1
        # and a call that was refused took nothing away.
        assert len((await s.embed(1)).embeddings) == 1
        running.cancel()


def _stuck(ask: Any) -> chat_pb.StreamChatRequest:
    return chat_pb.StreamChatRequest(spec=ask("scripted/text?tokens=5&fault=stall@2"))


async def test_where_nobody_counts_tokens(start: Any, tmp_path: Path) -> None:
    prices = {"one/m": {"input": 1, "output": 1}}
    async with setting(start, tmp_path, prices=prices) as s:
        s.one.counts_tokens = False
        answer = await s.embed(4)
        assert (answer.usage.input_tokens, answer.usage.source) == (3, UsageSource.USAGE_SOURCE_ESTIMATED)
        await s.stub.Rerank(pb.RerankRequest(model="one/m", query="q", texts=["t1"]))
        rows = {(row["operation"], row["cost_nano_usd"] is None) for row in await s.client.rows("attempts")}
        assert rows == {("embed", False), ("rerank", True)}


async def test_vectors_that_do_not_fit_together_are_refused(start: Any, tmp_path: Path) -> None:
    async with setting(start, tmp_path, embeddings={"batch_texts": 1, "parallel": 1}) as s:

        def grow(texts: list[str]) -> Reason:
            s.one.width += 1
            return NOTHING

        s.one.fails = grow
        failure = await failure_of(s.embed(2))
        assert failure.reason == R.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR


async def test_more_vectors_than_a_message_holds_are_refused_before_they_are_paid_for(
    start: Any, tmp_path: Path
) -> None:
    async with setting(start, tmp_path, embeddings={"batch_texts": 256, "parallel": 4}) as s:
        failure = await failure_of(s.embed(4096, dimensions=3072))
        assert (failure.reason, failure.violations[0].field) == (R.ERROR_REASON_INVALID_REQUEST, "texts")
        assert s.one.batches == []
        # Where nobody said how long they are, the first batch tells.
        s.one.width = 3072
        failure = await failure_of(s.embed(4096))
        assert "2645 texts at a time" in failure.message
        assert len(s.one.batches) == 1


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=50), st.integers(1, 9), st.integers(1, 40))
def test_batches_hold_every_text_once_and_keep_their_limits(texts: list[str], most: int, characters: int) -> None:
    batches = split(texts, most, characters)
    assert [text for batch in batches for text in batch] == texts
    for batch in batches:
        assert 1 <= len(batch) <= most
        assert len(batch) == 1 or sum(map(len, batch)) <= characters


async def test_works_in_parallel_are_bounded_and_ended_together() -> None:
    running: set[int] = set()
    most = 0

    async def work(number: int) -> int:
        nonlocal most
        running.add(number)
        most = max(most, len(running))
        try:
            await asyncio.sleep(0)
            if number == 5:
                raise ValueError("the fifth")
            return number
        finally:
            running.discard(number)

    def works(count: int) -> list[Any]:
        return [lambda number=number: work(number) for number in range(count)]

    assert await in_parallel(works(5), 3) == [0, 1, 2, 3, 4]
    assert most == 3
    with pytest.raises(ValueError, match="the fifth"):
        await in_parallel(works(20), 3)
    assert not running
