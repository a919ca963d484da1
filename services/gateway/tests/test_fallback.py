"""Fallback before the first content: visible, in order, and only where another target may do better."""

from typing import Any

import pytest

from sluice.chat.v1.event_pb2 import AttemptOutcome
from sluice.error.v1.error_reason_pb2 import ErrorReason

R = ErrorReason
GOOD = "scripted/text?tokens=3"
NO_RETRY = {"limits": {"retries": 0}}


@pytest.mark.parametrize(
    "fault", ["UPSTREAM_OVERLOADED", "UPSTREAM_RATE_LIMITED", "UPSTREAM_UNAVAILABLE", "empty", "unstarted", "cut@0"]
)
async def test_the_next_target_takes_over(start: Any, ask: Any, placement: str, fault: str) -> None:
    async with start(NO_RETRY, placement=placement) as client:
        seen = await client.stream(ask(f"scripted/text?fault={fault}", fallbacks=[GOOD]))
        rows = await client.rows("attempts")
    assert seen.error is None
    assert seen.kinds[:3] == ["accepted", "route_changed", "started"]
    changed = seen.events[1][1].route_changed
    assert changed.target.model == "text?tokens=3"
    assert changed.previous.model == f"text?fault={fault}"
    attempts = seen.last.completed.attempts
    assert [attempt.outcome for attempt in attempts] == [
        AttemptOutcome.ATTEMPT_OUTCOME_FAILED,
        AttemptOutcome.ATTEMPT_OUTCOME_COMPLETED,
    ]
    assert attempts[0].error_reason == changed.reason
    assert [(row["number"], row["outcome"]) for row in rows] == [(1, "failed"), (2, "completed")]


async def test_an_adapter_that_is_down_falls_back_too(start: Any, ask: Any) -> None:
    gateway = {
        "integrations": {"gone": {"address": "unix:/nonexistent/sluice.sock"}},
        "routes": {"default": {"targets": ["gone/model", GOOD]}},
    }
    async with start(gateway) as client:
        seen = await client.stream(ask(""))
    assert seen.error is None
    assert seen.events[1][1].route_changed.reason == R.ERROR_REASON_SERVICE_UNREACHABLE


async def test_a_missed_first_token_falls_back(start: Any, ask: Any) -> None:
    routes = {"default": {"targets": ["scripted/text?ttft_ms=30000", GOOD], "ttft_seconds": 1.0}}
    async with start({"routes": routes}) as client:
        seen = await client.stream(ask("default"))
    assert seen.error is None
    assert seen.events[1][1].route_changed.reason == R.ERROR_REASON_UPSTREAM_TIMEOUT


@pytest.mark.parametrize("fault", ["CONTENT_FILTERED", "UPSTREAM_INVALID_ARGUMENT", "UPSTREAM_PERMISSION"])
async def test_what_the_request_is_at_fault_for_is_not_evaded(client: Any, ask: Any, fault: str) -> None:
    seen = await client.stream(ask(f"scripted/text?fault={fault}", fallbacks=[GOOD]))
    assert seen.error is not None
    assert seen.error.reason_name == fault
    assert seen.kinds == ["accepted"]


async def test_after_the_first_content_there_is_no_other_target(client: Any, ask: Any) -> None:
    seen = await client.stream(ask("scripted/text?fault=cut@1", fallbacks=[GOOD]))
    assert seen.error is not None
    assert "route_changed" not in seen.kinds


async def test_when_all_fail_the_last_failure_counts(start: Any, ask: Any) -> None:
    async with start(NO_RETRY) as client:
        seen = await client.stream(
            ask("scripted/text?fault=UPSTREAM_OVERLOADED", fallbacks=["scripted/text?fault=UPSTREAM_RATE_LIMITED"])
        )
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_UPSTREAM_RATE_LIMITED
    assert seen.error.metadata["attempts"] == "2"


async def test_costs_add_up_over_attempts(start: Any, ask: Any) -> None:
    prices = {
        "scripted/text?fault=UPSTREAM_OVERLOADED": {"input": 1, "output": 1},
        GOOD: {"input": 0.5, "output": 2},
    }
    async with start({"prices": prices, **NO_RETRY}) as client:
        seen = await client.stream(ask("scripted/text?fault=UPSTREAM_OVERLOADED", fallbacks=[GOOD]))
        unpriced = await client.stream(ask("scripted/echo"))
    completed = seen.last.completed
    usage = completed.attempts[1].usage
    # Half a dollar and two dollars for a million tokens are 500 and 2000 nano-dollars for one.
    assert completed.attempts[1].cost_nano_usd == usage.input_tokens * 500 + usage.output_tokens * 2000
    assert completed.cost_nano_usd == sum(attempt.cost_nano_usd for attempt in completed.attempts)
    assert not unpriced.last.completed.HasField("cost_nano_usd")
