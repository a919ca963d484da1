"""Telling: what traces and metrics are told of attempts. Nothing that a caller or a vendor wrote, but names of models."""

from typing import Final

from sluice.chat.v1.event_pb2 import AttemptOutcome
from sluice.chat.v1.target_pb2 import Target
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_kit.errors import Reason, reason_name
from sluice_kit.telemetry import current
from sluice_kit.telemetry.base import AttemptEnd
from sluice_kit.telemetry.spans import NO_SPAN, Span

_OUTCOMES: Final = {
    AttemptOutcome.ATTEMPT_OUTCOME_COMPLETED: "completed",
    AttemptOutcome.ATTEMPT_OUTCOME_FAILED: "failed",
    AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED: "cancelled",
}


def attempt_span(parent: Span, operation: str, record: AttemptRecord) -> Span:
    """Begins the span of an attempt."""
    if parent is NO_SPAN:
        return parent
    target = record.target
    return parent.child(
        f"attempt {record.number}",
        {
            "sluice.attempt": record.number,
            "sluice.operation": operation,
            "sluice.provider": target.provider,
            "sluice.model": target.model,
        },
    )


def tell_route_change(span: Span, record: AttemptRecord, previous: Target, reason: Reason) -> None:
    """Tells the span of a response that another target takes over, and why."""
    if span is not NO_SPAN:
        span.event(
            "RouteChanged",
            {
                "sluice.attempt": record.number,
                "sluice.provider": record.target.provider,
                "sluice.model": record.target.model,
                "sluice.previous": f"{previous.provider}/{previous.model}",
                "sluice.reason": reason_name(reason),
            },
        )


def tell_attempt(operation: str, record: AttemptRecord) -> None:
    """Tells how an attempt ended, once what it used is settled."""
    telemetry = current()
    span, usage = record.span, record.usage
    if span is NO_SPAN and not telemetry.metrics:
        return
    reason = reason_name(record.error_reason) if record.error_reason else ""
    outcome = _OUTCOMES.get(record.outcome, "cancelled")
    span.set(
        {
            "sluice.outcome": outcome,
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
        }
    )
    if outcome != "completed":
        span.failed(reason or "CANCELLED")
    span.end()
    tokens = {
        "input": usage.input_tokens,
        "cached_input": usage.cached_input_tokens,
        "output": usage.output_tokens,
        "reasoning": usage.reasoning_tokens,
    }
    target = record.target
    telemetry.attempt_ended(
        AttemptEnd(operation, target.provider, target.model, outcome, reason, tokens, record.cost_nano_usd, record.ttft)
    )
