"""Attempt: one try at one target, within its time limits."""

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from sluice.chat.v1.event_pb2 import Attempt, AttemptOutcome
from sluice.chat.v1.target_pb2 import Target
from sluice.chat.v1.usage_pb2 import Usage, UsageSource
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1.provider_service_pb2 import GenerateRequest
from sluice_gateway.config import RoutePolicy
from sluice_gateway.pipeline.relay import Relay
from sluice_kit.call import Call
from sluice_kit.errors import Reason, SluiceError, make_error
from sluice_kit.ids import new_uuid
from sluice_kit.ports import Generator
from sluice_kit.telemetry.spans import NO_SPAN, Span

if TYPE_CHECKING:
    Outcome: TypeAlias = AttemptOutcome.ValueType
else:
    Outcome = int


# Looked up once: the enums of protobuf resolve a name anew each time.
_RUNNING = AttemptOutcome.ATTEMPT_OUTCOME_UNSPECIFIED
_COMPLETED = AttemptOutcome.ATTEMPT_OUTCOME_COMPLETED
_FAILED = AttemptOutcome.ATTEMPT_OUTCOME_FAILED
_CANCELLED = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
_ESTIMATED = UsageSource.USAGE_SOURCE_ESTIMATED
_NO_REASON = ErrorReason.ERROR_REASON_UNSPECIFIED
_CHARS_PER_TOKEN = 4
"""Of English text and code, about."""


class AttemptRecord:
    """What is known of one attempt, for the ledger and for `Completed`. Times are in seconds."""

    __slots__ = (
        "cost_nano_usd",
        "duration",
        "error_reason",
        "expected_tokens",
        "id",
        "key",
        "number",
        "outcome",
        "output_bytes",
        "probe",
        "rates",
        "span",
        "started",
        "target",
        "ttft",
        "usage",
    )

    def __init__(
        self,
        number: int,
        target: Target,
        *,
        probe: bool = False,
        expected_tokens: int = 0,
        rates: tuple[int, int] | None = None,
    ) -> None:
        self.id = new_uuid()
        self.key = 0
        """Key of its row in the ledger."""
        self.number = number
        self.target = target
        self.probe = probe
        """Whether it is the one that shows if its target is back."""
        self.expected_tokens = expected_tokens
        """What it is taken to read, where nobody comes to know better."""
        self.rates = rates
        """What a thousand tokens read, and generated, cost in nano-US-dollars; None: there is no price."""
        self.span: Span = NO_SPAN
        """What traces show of it."""
        self.outcome: Outcome = _RUNNING
        self.error_reason: Reason = _NO_REASON
        self.usage = Usage()
        self.output_bytes = 0
        self.cost_nano_usd: int | None = None
        self.started = 0.0
        self.ttft: float | None = None
        self.duration: float | None = None

    def never_begins(self) -> None:
        """Notes that it was cancelled after it was put on record, and before it asked for anything."""
        self.outcome = _CANCELLED
        self.usage.source = _ESTIMATED
        if self.rates is not None:
            self.cost_nano_usd = 0

    def describe(self, attempt: Attempt) -> None:
        """Writes it as clients see it."""
        attempt.attempt_id = self.id
        attempt.target.CopyFrom(self.target)
        attempt.outcome = self.outcome
        attempt.error_reason = self.error_reason
        attempt.usage.CopyFrom(self.usage)
        if self.cost_nano_usd is not None:
            attempt.cost_nano_usd = self.cost_nano_usd
        if self.ttft is not None:
            attempt.time_to_first_token.FromNanoseconds(int(self.ttft * 1e9))
        if self.duration is not None:
            attempt.duration.FromNanoseconds(int(self.duration * 1e9))


class _Watchdog:
    """Ends an attempt that keeps silent: before its first content after `ttft_seconds`, later after `idle_seconds`.

    Also one whose content is held to see how fast it comes, if that is too slow. One timer, re-armed when it fires; the
    hot path only notes the time of the last batch.
    """

    __slots__ = ("_limits", "_loop", "_patient", "_relay", "_scope", "_timer", "limit")

    def __init__(self, scope: asyncio.Timeout, relay: Relay, limits: RoutePolicy, *, patient: bool) -> None:
        """With `patient`, the first content may come at any time, as long as the adapter gives signs of life."""
        self._loop = asyncio.get_running_loop()
        self._scope = scope
        self._relay = relay
        self._limits = limits
        self._patient = patient
        self.limit = ""
        first = min(limits.ttft_seconds, limits.idle_seconds)
        if relay.prove_chars:
            first = min(first, limits.commit_window_seconds)
        self._timer = self._loop.call_at(relay.record.started + first, self._check)

    def _check(self) -> None:
        relay, limits, record = self._relay, self._limits, self._relay.record
        now = self._loop.time()
        name, due = "idle", relay.last_batch + limits.idle_seconds
        again = due
        if not relay.committed:
            if record.ttft is None:
                if not self._patient:
                    # Heartbeats and Started keep a slow thinker alive until its time to first token is over.
                    name, due = "ttft", record.started + limits.ttft_seconds
                # Once there is content the idle limit counts, or how fast it comes: look again by then.
                soon = limits.commit_window_seconds if relay.prove_chars else limits.idle_seconds
                again = min(due, now + soon)
            else:
                rate_due = record.started + record.ttft + limits.commit_window_seconds
                name, due = ("rate", rate_due) if rate_due < due else (name, due)
                again = due
        if now >= due:
            self.limit = name
            self._scope.reschedule(now)
        else:
            self._timer = self._loop.call_at(again, self._check)

    def stop(self) -> None:
        self._timer.cancel()

    def error(self) -> SluiceError:
        """Returns the failure of an attempt that missed a limit."""
        target, limits = self._relay.record.target, self._limits
        if self.limit == "rate":
            what = f"sent less than {limits.min_tokens_per_second:g} tokens/s for {limits.commit_window_seconds:g} s"
        else:
            seconds = limits.ttft_seconds if self.limit == "ttft" else limits.idle_seconds
            what = f"sent nothing for {seconds:g} s"
        return make_error(
            ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT,
            f"{target.provider}/{target.model} {what}",
            metadata={"limit": self.limit, "provider": target.provider},
        )


async def run_attempt(
    generator: Generator, request: GenerateRequest, call: Call, limits: RoutePolicy, relay: Relay
) -> None:
    """Runs one attempt to its `Completed`. Raises SluiceError for anything else, UPSTREAM_TIMEOUT for a missed limit."""
    loop = asyncio.get_running_loop()
    record = relay.record
    record.started = relay.last_batch = loop.time()
    try:
        if request.whole:  # it has no first token; its deadline is its limit
            await generator.generate(request, call, relay.deliver)
        else:
            await _generate_watched(generator, request, call, limits, relay)
        relay.check_completed()
        await relay.verify()
        record.outcome = _COMPLETED
    except asyncio.CancelledError:
        record.outcome = _CANCELLED
        raise
    except SluiceError as error:
        record.outcome = _FAILED
        record.error_reason = error.reason
        raise
    except Exception:
        record.outcome = _FAILED
        record.error_reason = ErrorReason.ERROR_REASON_INTERNAL
        raise
    finally:
        record.duration = loop.time() - record.started


async def _generate_watched(
    generator: Generator, request: GenerateRequest, call: Call, limits: RoutePolicy, relay: Relay
) -> None:
    """Has a stream made, and ends it where it misses a limit. Raises UPSTREAM_TIMEOUT then."""
    if limits.min_tokens_per_second > 0:
        expected = limits.min_tokens_per_second * limits.commit_window_seconds
        relay.prove_chars = max(1, int(expected * _CHARS_PER_TOKEN))
    scope = asyncio.timeout(None)
    # Of what runs in the background nobody waits for the first token: it may stand in a vendor's queue.
    watchdog = _Watchdog(scope, relay, limits, patient=request.background)
    try:
        async with scope:
            await generator.generate(request, call, relay.deliver)
    except TimeoutError:
        if not watchdog.limit:
            raise
        raise watchdog.error() from None
    finally:
        watchdog.stop()
