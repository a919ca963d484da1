"""What telemetry is told: every response and every attempt once, however it ends, and watchers that stall."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sluice.gateway.v1.chat_service_pb2 import CACHE_POLICY_USE, MidstreamPolicy, StreamChatRequest
from sluice_kit import telemetry
from sluice_kit.telemetry.base import AttemptEnd, Telemetry

from .conftest import Start

GOOD = "scripted/text?tokens=3"


class Told(Telemetry):
    """Keeps what it is told."""

    metrics = True

    def __init__(self) -> None:
        self.responses: list[tuple[str, str]] = []
        self.attempts: list[AttemptEnd] = []
        self.firsts = 0
        self.cached = 0
        self.stalled = 0

    def response_ended(self, outcome: str, reason: str, seconds: float) -> None:
        assert seconds >= 0
        self.responses.append((outcome, reason))

    def first_content(self, seconds: float) -> None:
        self.firsts += 1

    def attempt_ended(self, end: AttemptEnd) -> None:
        self.attempts.append(end)

    def answered_from_cache(self) -> None:
        self.cached += 1

    def watcher_stalled(self) -> None:
        self.stalled += 1


@pytest.fixture
def told() -> Iterator[Told]:
    with contextlib.ExitStack() as stack:
        told = Told()
        stack.callback(telemetry.switch, telemetry.switch(told))
        yield told


async def test_an_answer_and_its_attempt_are_told_with_what_they_took(told: Told, start: Start, ask: Any) -> None:
    async with start({"prices": {GOOD: {"input": 1.0, "output": 2.0}}}) as client:
        await client.stream(ask(GOOD))
    (attempt,) = told.attempts
    assert (attempt.operation, attempt.provider, attempt.model) == ("chat", "scripted", "text?tokens=3")
    assert (attempt.outcome, attempt.reason) == ("completed", "")
    assert attempt.tokens["input"] > 0
    assert attempt.cost_nano_usd is not None
    assert attempt.ttft is not None
    assert told.responses == [("completed", "")]
    assert told.firsts == 1


async def test_the_loser_of_a_hedge_is_told_as_cancelled(told: Told, start: Start, ask: Any) -> None:
    async with start() as client:
        slow = "scripted/text?tokens=2&ttft_ms=60000"
        await client.stream(ask(slow, fallbacks=[GOOD], hedge={"delay": {"nanos": 5_000_000}}))
    assert Counter(attempt.outcome for attempt in told.attempts) == {"completed": 1, "cancelled": 1}
    assert told.responses == [("completed", "")]


async def test_a_restart_is_two_attempts_and_one_first_content(told: Told, start: Start, ask: Any) -> None:
    policy = MidstreamPolicy.MIDSTREAM_POLICY_RESTART
    async with start() as client:
        await client.stream(ask("scripted/text?tokens=4&fault=cut@2&times=1", midstream_policy=policy))
    assert [(attempt.outcome, attempt.reason) for attempt in told.attempts] == [
        ("failed", "UPSTREAM_PROTOCOL_ERROR"),
        ("completed", ""),
    ]
    assert told.firsts == 1


async def test_a_failure_is_told_by_its_reason(told: Told, start: Start, ask: Any) -> None:
    async with start() as client:
        await client.stream(ask("scripted/text?fault=UPSTREAM_AUTHENTICATION"))
    assert told.responses == [("failed", "UPSTREAM_AUTHENTICATION")]
    assert told.firsts == 0


async def test_a_response_that_nobody_waits_for_is_told_as_cancelled(told: Told, start: Start, ask: Any) -> None:
    async with start() as client:
        seen = await client.collect(
            client.chat.StreamChat(StreamChatRequest(spec=ask("scripted/text?tokens=2&ttft_ms=60000"))),
            until=lambda seen: bool(seen.events),
        )
        response = await client.gateway.responses.find(seen.response, "local")
        response.cancel()
        await response.done
    assert told.responses == [("cancelled", "CANCELLED")]
    assert [attempt.outcome for attempt in told.attempts] == ["cancelled"]


async def test_a_client_that_takes_nothing_is_told(told: Told, start: Start, ask: Any) -> None:
    async with start() as client:
        spec = ask("scripted/text?tokens=2&ttft_ms=60000", detach_grace={"seconds": 60})
        call = client.chat.StreamChat(StreamChatRequest(spec=spec))
        seen = await client.collect(call, until=lambda seen: bool(seen.events))
        response = await client.gateway.responses.find(seen.response, "local")
        (watcher,) = response.watchers
        assert watcher.scope is not None
        watcher.scope.reschedule(asyncio.get_running_loop().time())  # what `tend` does
        assert (await client.collect(call)).error is not None
    assert told.stalled == 1


async def test_an_answer_from_the_cache_is_told_as_one_and_is_no_attempt(told: Told, start: Start, ask: Any) -> None:
    async with start() as client:
        spec = ask(GOOD, cache=CACHE_POLICY_USE)
        await client.stream(spec)
        await client.stream(spec)
    assert told.cached == 1
    assert len(told.attempts) == 1
    assert told.responses == [("completed", "")] * 2
