"""Circuit breakers: when they open, who counts against whom, and how they close again."""

import asyncio
from typing import Any

import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_gateway.config import BreakerConfig
from sluice_gateway.pipeline.breaker import Breaker, Circuit

R = ErrorReason
REASON = R.ERROR_REASON_UPSTREAM_OVERLOADED
CONFIG = BreakerConfig(failures=3, share=0.5, half_life_seconds=10, open_seconds=5, max_open_seconds=15)
GOOD = "scripted/text?tokens=1"
BAD = "scripted/text?tokens=1&fault=UPSTREAM_OVERLOADED"


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(CONFIG)
    assert [breaker.failed(now, REASON) for _ in range(3)] == [False, False, True]
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = opened()
    assert breaker.circuit is Circuit.OPEN
    assert breaker.reason == REASON
    assert not breaker.admits(4.9)
    assert breaker.reopens_in(2.0) == 3.0


def test_a_small_share_of_failures_does_not() -> None:
    breaker = Breaker(CONFIG)
    for _ in range(100):
        breaker.succeeded(0.0)
        breaker.succeeded(0.0)
        breaker.failed(0.0, REASON)
    assert breaker.circuit is Circuit.CLOSED


def test_what_is_long_past_does_not_count() -> None:
    breaker = Breaker(CONFIG)
    for now in range(0, 1000, 30):
        assert not breaker.failed(now, REASON)


def test_one_probe_at_a_time_decides() -> None:
    breaker = opened()
    assert breaker.would_admit(5.0)
    assert breaker.admits(5.0)
    assert breaker.circuit is Circuit.HALF_OPEN
    assert not breaker.would_admit(5.0)
    assert not breaker.admits(5.0)
    assert breaker.succeeded(6.0)  # which closes it
    assert breaker.admits(6.0)
    assert breaker.admits(6.0)


def test_each_failed_probe_doubles_the_pause_up_to_its_limit() -> None:
    breaker = opened()
    now, pauses = 5.0, []
    for _ in range(4):
        assert breaker.admits(now)
        assert breaker.failed(now, REASON)
        pauses.append(breaker.reopens_in(now))
        now += pauses[-1]
    assert pauses == [10, 15, 15, 15]
    assert breaker.admits(now)
    breaker.succeeded(now)
    # Once it was closed, it begins anew.
    assert [breaker.failed(now + 100, REASON) for _ in range(3)][-1]
    assert breaker.reopens_in(now + 100) == 5


def test_a_probe_that_says_nothing_leaves_the_next_one_its_turn() -> None:
    breaker = opened()
    assert breaker.admits(5.0)
    breaker.released()
    assert breaker.circuit is Circuit.HALF_OPEN
    assert breaker.admits(5.0)


def test_the_end_of_a_call_that_began_before_closes_nothing() -> None:
    breaker = opened()
    assert not breaker.succeeded(1.0)
    assert breaker.circuit is Circuit.OPEN
    assert not breaker.failed(1.0, REASON)
    assert breaker.reopens_in(1.0) == 4.0


def gateway(**breaker: Any) -> dict[str, Any]:
    return {"limits": {"retries": 0}, "resilience": {"breaker": {"failures": 2, "open_seconds": 60, **breaker}}}


async def test_an_open_circuit_means_the_next_target_at_once(
    start: Any, ask: Any, placement: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with start(gateway(), placement) as client:
        for _ in range(2):
            assert (await client.stream(ask(BAD))).error is not None
        seen = await client.stream(ask(BAD, fallbacks=[GOOD]))
        rows = await client.rows("attempts")
    assert seen.error is None
    changed = seen.events[1][1].route_changed
    assert changed.reason == R.ERROR_REASON_CIRCUIT_OPEN
    assert (changed.previous.model, changed.target.model) == (BAD.partition("/")[2], GOOD.partition("/")[2])
    assert [attempt.target.model for attempt in seen.last.completed.attempts] == [GOOD.partition("/")[2]]
    assert [row["outcome"] for row in rows] == ["failed", "failed", "completed"]
    [record] = [record for record in caplog.records if record.message == "circuit opened"]
    assert vars(record)["circuit"] == BAD
    assert vars(record)["reason"] == "UPSTREAM_OVERLOADED"


async def test_if_all_are_open_the_request_is_refused_before_it_is_accepted(start: Any, ask: Any) -> None:
    async with start(gateway()) as client:
        for _ in range(2):
            await client.stream(ask(BAD))
        seen = await client.stream(ask(BAD))
        grounded = await client.stream(ask(BAD, grounding={"corpora": ["corpora/docs"]}))
        assert len(await client.rows("responses")) == 2
    for refused in (seen, grounded):
        assert refused.events == []
        assert refused.error is not None
        assert refused.error.reason == R.ERROR_REASON_CIRCUIT_OPEN
        assert 0 < refused.error.retry_after <= 60


@pytest.mark.parametrize("fault", ["UPSTREAM_INVALID_ARGUMENT", "CONTENT_FILTERED", "MODEL_NOT_FOUND"])
async def test_what_the_request_is_at_fault_for_does_not_count(start: Any, ask: Any, fault: str) -> None:
    async with start(gateway()) as client:
        for _ in range(4):
            seen = await client.stream(ask(f"scripted/text?fault={fault}"))
            assert seen.error is not None
            assert seen.error.reason_name == fault


async def test_transport_failures_count_against_every_target_of_the_integration(start: Any, ask: Any) -> None:
    settings = gateway() | {"integrations": {"gone": {"address": "unix:/nonexistent/sluice.sock"}}}
    async with start(settings) as client:
        for model in ("gone/a", "gone/b"):
            seen = await client.stream(ask(model))
            assert seen.error is not None
            assert seen.error.reason == R.ERROR_REASON_SERVICE_UNREACHABLE
        seen = await client.stream(ask("gone/c"))
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_CIRCUIT_OPEN


async def test_one_probe_closes_it_at_its_first_content(start: Any, ask: Any, until: Any) -> None:
    model = "scripted/text?tokens=400&delay_ms=10&fault=UPSTREAM_OVERLOADED&times=2"
    async with start(gateway(open_seconds=0.05)) as client:
        standings = client.gateway.pipeline.standings
        for _ in range(2):
            await client.stream(ask(model))
        assert set(standings.circuits()) == {model}
        await asyncio.sleep(0.06)  # what is waited for is the breaker's own clock
        probe = client.chat.StreamChat(pb.StreamChatRequest(spec=ask(model)))
        await client.collect(probe, until=lambda seen: "text_delta" in seen.kinds)
        assert standings.circuits() == {}
        probe.cancel()
        await until(lambda: client.gateway.responses.running == 0)


async def test_a_probe_that_never_begins_gives_its_turn_back(start: Any, ask: Any) -> None:
    async with start(gateway(open_seconds=0.05)) as client:
        for _ in range(2):
            await client.stream(ask("scripted/text?tokens=1&fault=UPSTREAM_OVERLOADED&times=2"))
        await asyncio.sleep(0.06)  # what is waited for is the breaker's own clock
        ledger = client.gateway._ledger
        await ledger._writer.ask(lambda connection: connection.exec_driver_sql("ALTER TABLE attempts RENAME TO away"))
        lost = await client.stream(ask("scripted/text?tokens=1&fault=UPSTREAM_OVERLOADED&times=2"))
        await ledger._writer.ask(lambda connection: connection.exec_driver_sql("ALTER TABLE away RENAME TO attempts"))
        seen = await client.stream(ask("scripted/text?tokens=1&fault=UPSTREAM_OVERLOADED&times=2"))
    assert lost.error is not None
    assert lost.error.reason == R.ERROR_REASON_STORE_UNAVAILABLE
    assert seen.error is None
