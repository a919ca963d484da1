"""Retries: only where a failure may pass, within the time there is, and never so many that they add to an overload."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_gateway.config import RetryConfig
from sluice_gateway.pipeline.budget import Budget
from sluice_gateway.pipeline.retry import wait_before_retry
from sluice_kit.errors import SluiceError, make_error

R = ErrorReason
QUICK = {"resilience": {"retry": {"initial_seconds": 0.001}}}
CONFIG = RetryConfig(initial_seconds=1, max_seconds=5)


def failed(reason: Any, retry_after: float | None = None) -> SluiceError:
    return make_error(reason, "no", retry_after=retry_after)


def wait(failure: SluiceError, tried: int = 0, drawn: float = 1.0, **options: Any) -> float | None:
    return wait_before_retry(CONFIG, 5, failure, tried, draw=lambda: drawn, **options)


def test_the_limit_of_waits_doubles_and_each_is_drawn_below_it() -> None:
    overloaded = failed(R.ERROR_REASON_UPSTREAM_OVERLOADED)
    assert [wait(overloaded, tried) for tried in range(6)] == [1, 2, 4, 5, 5, None]
    assert [wait(overloaded, tried, drawn=0.25) for tried in range(3)] == [0.25, 0.5, 1]


def test_what_the_target_asks_for_comes_first() -> None:
    limited = R.ERROR_REASON_UPSTREAM_RATE_LIMITED
    assert wait(failed(limited, 3), drawn=0.5) == 3.5
    assert wait(failed(limited)) is None  # nobody knows when
    assert wait(failed(limited, 6)) is None  # longer than anybody waits
    assert wait(failed(R.ERROR_REASON_UPSTREAM_UNAVAILABLE, 2), drawn=0) == 2


@pytest.mark.parametrize(
    "reason",
    [
        R.ERROR_REASON_INVALID_REQUEST,
        R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT,
        R.ERROR_REASON_UPSTREAM_PERMISSION,
        R.ERROR_REASON_CONTENT_FILTERED,
        R.ERROR_REASON_DEADLINE_EXCEEDED,
        R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        R.ERROR_REASON_MODEL_NOT_FOUND,
        R.ERROR_REASON_INTERNAL,
    ],
)
def test_what_does_not_pass_is_not_tried_again(reason: Any) -> None:
    assert wait(failed(reason)) is None
    assert wait(failed(reason), midstream=True) is None


def test_a_broken_stream_is_tried_again_only_after_it_began() -> None:
    for reason in (R.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR, R.ERROR_REASON_UPSTREAM_TIMEOUT):
        assert wait(failed(reason)) is None
        assert wait(failed(reason), midstream=True) is not None


@given(
    share=st.floats(0.01, 1),
    reserve=st.integers(1, 20),
    calls=st.lists(st.booleans(), max_size=400),
)
def test_extra_calls_are_a_share_of_the_others(share: float, reserve: int, calls: list[bool]) -> None:
    budget = Budget(share, reserve)
    earned = spent = 0
    for extra in calls:
        if extra:
            spent += budget.spend()
        else:
            budget.earn()
            earned += 1
        assert spent <= reserve + share * earned + 0.001


def test_a_share_of_nothing_allows_nothing() -> None:
    budget = Budget(0, 10)
    budget.earn()
    assert not budget.spend()


@pytest.mark.parametrize("fault", ["UPSTREAM_OVERLOADED", "UPSTREAM_UNAVAILABLE", "SERVICE_UNREACHABLE", "DRAINING"])
async def test_a_failure_that_passes_is_tried_again(start: Any, ask: Any, placement: str, fault: str) -> None:
    async with start(QUICK, placement) as client:
        seen = await client.stream(ask(f"scripted/text?tokens=2&fault={fault}&times=2"))
        rows = await client.rows("attempts")
    assert seen.error is None
    assert seen.kinds[:4] == ["accepted", "route_changed", "route_changed", "started"]
    assert seen.numbers == list(range(1, len(seen.events) + 1))
    attempts = seen.last.completed.attempts
    for (_, event), attempt in zip(seen.events[1:3], attempts[1:], strict=True):
        changed = event.route_changed
        assert changed.reason == R.Value(f"ERROR_REASON_{fault}")
        assert changed.target == changed.previous
        assert changed.attempt_id == attempt.attempt_id
    assert [(row["number"], row["outcome"]) for row in rows] == [(1, "failed"), (2, "failed"), (3, "completed")]


async def test_retry_info_is_honoured(client: Any, ask: Any) -> None:
    limited = "scripted/text?tokens=1&fault=UPSTREAM_RATE_LIMITED&times=1&retry_after_s="
    soon = await client.stream(ask(f"{limited}0.01"))
    late = await client.stream(ask(f"{limited}60"))
    assert soon.error is None
    assert late.error is not None
    assert late.error.reason == R.ERROR_REASON_UPSTREAM_RATE_LIMITED
    assert late.error.retry_after == 60
    assert late.kinds == ["accepted"]


async def test_when_retries_are_spent_the_next_target_is_tried(start: Any, ask: Any) -> None:
    async with start(QUICK) as client:
        seen = await client.stream(ask("scripted/text?fault=UPSTREAM_OVERLOADED", fallbacks=["scripted/text?tokens=1"]))
    assert seen.error is None
    models = [attempt.target.model for attempt in seen.last.completed.attempts]
    assert models == ["text?fault=UPSTREAM_OVERLOADED"] * 3 + ["text?tokens=1"]


async def test_no_attempt_begins_with_less_time_than_it_can_use(start: Any, ask: Any) -> None:
    """The wait would outlast the response, so its failure is told at once instead of a deadline later."""
    gateway = {"resilience": {"retry": {"max_seconds": 100}}}
    async with start(gateway) as client:
        model = "scripted/text?fault=UPSTREAM_OVERLOADED&retry_after_s=50"
        seen = await client.stream(ask(model, max_duration={"seconds": 20}))
        rows = await client.rows("attempts")
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_UPSTREAM_OVERLOADED
    assert len(rows) == 1


async def test_nothing_is_tried_again_after_the_first_content(client: Any, ask: Any) -> None:
    seen = await client.stream(ask("scripted/text?tokens=5&fault=UPSTREAM_OVERLOADED@2&times=1"))
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_UPSTREAM_OVERLOADED
    assert "route_changed" not in seen.kinds
    assert len(await client.rows("attempts")) == 1


async def test_under_overload_retries_are_a_share_of_all_attempts(start: Any, ask: Any) -> None:
    resilience = {"retry": {"initial_seconds": 0.001, "reserve": 1}, "breaker": {"failures": 10000}}
    async with start({"resilience": resilience}) as client:
        for _ in range(40):
            await client.stream(ask("scripted/text?fault=UPSTREAM_OVERLOADED"))
        attempts = len(await client.rows("attempts"))
    assert 40 < attempts <= 40 + 1 + 4


async def test_what_is_on_record_is_ended_however_little_time_there_is(start: Any, ask: Any, until: Any) -> None:
    async with start() as client:
        for nanos in (1, 1_000_000, 20_000_000):
            await client.stream(ask("scripted/text?ttft_ms=9000", max_duration={"nanos": nanos}))
        await until(lambda: client.gateway.responses.running == 0)
        rows = await client.rows("attempts")
    assert {row["outcome"] for row in rows} <= {"cancelled", "failed"}


async def test_what_is_cancelled_before_it_begins_is_ended_on_record(
    client: Any, ask: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, on_record = client.gateway._ledger, asyncio.Event()
    start = ledger.attempt_started

    async def slowly(*arguments: Any) -> None:
        await start(*arguments)
        on_record.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(ledger, "attempt_started", slowly)
    spec = ask("scripted/text?fault=MODEL_NOT_FOUND", fallbacks=["scripted/text"])
    call = client.chat.StreamChat(pb.StreamChatRequest(spec=spec))
    await on_record.wait()
    call.cancel()
    await until(lambda: client.gateway.responses.running == 0)
    rows = await client.rows("attempts")
    assert [(row["outcome"], row["usage_source"]) for row in rows] == [
        ("failed", "estimated"),
        ("cancelled", "estimated"),
    ]


async def test_an_integration_that_is_gone_since_the_plan_falls_back(start: Any, ask: Any) -> None:
    async with start() as client:
        integrations, planner = client.gateway._integrations, client.gateway.responses._planner
        spec = ask("scripted/text?tokens=2", fallbacks=["scripted/text?tokens=1"])
        planned = planner.plan(spec.model, spec.fallbacks)
        planner.plan = lambda *_: planned
        get, asked = integrations.get, []

        def gone_once(name: str) -> Any:
            asked.append(name)
            if len(asked) == 1:
                raise make_error(R.ERROR_REASON_MODEL_NOT_FOUND, "no integration")
            return get(name)

        integrations.get = gone_once
        seen = await client.stream(spec)
        rows = await client.rows("attempts")
    assert seen.error is None
    assert [(row["outcome"], row["reason"]) for row in rows] == [("failed", "MODEL_NOT_FOUND"), ("completed", "")]
