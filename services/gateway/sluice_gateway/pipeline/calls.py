"""Calls: what is asked of models beside answers, through the same routes, limits and ledger.

They have an admission of their own. An answer that searches has embeddings made in its midst: counted with the answers,
it could wait for room that only its own end would make.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from sluice.chat.v1.event_pb2 import AttemptOutcome
from sluice.chat.v1.target_pb2 import Target
from sluice.chat.v1.usage_pb2 import Usage, UsageSource
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_gateway.config import AdmissionLimits, ResilienceConfig
from sluice_gateway.integrations import Integration, Integrations
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_gateway.pipeline.plan import Plan
from sluice_gateway.pipeline.retry import FALL_BACK_ON, LEAST_SECONDS, wait_before_retry
from sluice_gateway.pipeline.settle import Prices
from sluice_gateway.pipeline.standing import Standings
from sluice_gateway.pipeline.telling import attempt_span, tell_attempt
from sluice_gateway.records.ledger import Ledger, labels_text
from sluice_gateway.refusal import too_many
from sluice_kit.call import Call
from sluice_kit.errors import DeadlineError, SluiceError

T = TypeVar("T")
Ask = Callable[[Integration, Target, Call], Awaitable[T]]
"""Asks an integration for one target, within the call's deadline."""

_RUNNING: Final = AttemptOutcome.ATTEMPT_OUTCOME_UNSPECIFIED
_COMPLETED: Final = AttemptOutcome.ATTEMPT_OUTCOME_COMPLETED
_FAILED: Final = AttemptOutcome.ATTEMPT_OUTCOME_FAILED
_CANCELLED: Final = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
_UNSPECIFIED: Final = UsageSource.USAGE_SOURCE_UNSPECIFIED
_ESTIMATED: Final = UsageSource.USAGE_SOURCE_ESTIMATED
_TIMEOUT: Final = ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT
_CHARACTERS_PER_TOKEN: Final = 4


class Admission:
    """How many calls are under way, in all and by tenant; above a limit the next one is refused at once."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._by_tenant: Counter[str] = Counter()
        self.in_flight = 0

    @contextlib.contextmanager
    def admitted(self, tenant: str) -> Iterator[None]:
        """Counts a call for the length of the block. Raises TOO_MANY_IN_FLIGHT."""
        if self.in_flight >= self._limits.calls_in_flight:
            what, limit = "the gateway makes as many calls as it may", self._limits.calls_in_flight
            raise too_many(what, "admission.calls_in_flight", limit)
        if self._by_tenant[tenant] >= self._limits.calls_in_flight_per_tenant:
            what, limit = "this tenant makes as many calls as it may", self._limits.calls_in_flight_per_tenant
            raise too_many(what, "admission.calls_in_flight_per_tenant", limit)
        self.in_flight += 1
        self._by_tenant[tenant] += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._by_tenant[tenant] -= 1
            if not self._by_tenant[tenant]:
                del self._by_tenant[tenant]


@dataclass(frozen=True, slots=True)
class CallMeans:
    """What every call needs. One for the whole gateway."""

    integrations: Integrations
    ledger: Ledger
    prices: Prices
    standings: Standings
    config: ResilienceConfig


class PaidCall:
    """One call and its attempts, each on record from its start, with what it used and how it ended.

    `row_key`, `tenant`, `operation`, `conversation` and `labels` are what the ledger's rows say of it.
    """

    conversation = ""

    def __init__(self, means: CallMeans, operation: str, plan: Plan, call: Call, labels: Mapping[str, str]) -> None:
        self._means = means
        self._plan = plan
        self._call = call
        self.row_key = means.ledger.new_key()
        self.tenant = call.tenant
        self.operation = operation
        self.labels = labels_text(labels)
        self.records: list[AttemptRecord] = []
        """Every attempt, in the order they began."""

    async def first_of(
        self, targets: Sequence[Target], ask: Ask[T], usage_of: Callable[[T], Usage], characters: int
    ) -> T:
        """Returns what the first target says that delivers, each tried again where that may help.

        `characters` is the length of what is sent, for the estimate where nobody counts tokens. Raises the failure of
        the last target, or CIRCUIT_OPEN if none was asked.
        """
        failure: SluiceError | None = None
        for target in targets:
            tried = 0
            while self._means.standings.admits(target):
                try:
                    return await self._attempt(target, ask, usage_of, characters)
                except SluiceError as error:
                    failure = error
                if failure.reason not in FALL_BACK_ON:
                    raise failure
                wait = self._wait_before_retry(target, failure, tried)
                if wait is None:
                    break
                tried += 1
                await asyncio.sleep(wait)
        raise failure or self._means.standings.refusal(tuple(targets))

    async def _attempt(self, target: Target, ask: Ask[T], usage_of: Callable[[T], Usage], characters: int) -> T:
        means = self._means
        loop = asyncio.get_running_loop()
        record = AttemptRecord(
            len(self.records) + 1,
            target,
            probe=means.standings.is_probe(target),
            expected_tokens=-(-characters // _CHARACTERS_PER_TOKEN),
            rates=means.prices.rates(target),
        )
        self.records.append(record)
        if record.number == 1:
            means.standings.retries(target).earn()
        record.span = attempt_span(self._call.span, self.operation, record)
        usage = Usage()
        try:
            integration = means.integrations.get(target.provider)
            await means.ledger.attempt_started(self, record)
            record.started = loop.time()
            answer = await ask(integration, target, self._call.under(record.span))
            usage = usage_of(answer)
            record.outcome = _COMPLETED
        except SluiceError as error:
            record.outcome, record.error_reason = _FAILED, error.reason
            raise
        except Exception:
            record.outcome, record.error_reason = _FAILED, ErrorReason.ERROR_REASON_INTERNAL
            raise
        finally:
            if record.outcome == _RUNNING:
                record.outcome = _CANCELLED
            record.duration = loop.time() - record.started if record.started else 0.0
            self._settle(record, usage, characters)
            if record.key:
                means.ledger.attempt_ended(record)
            means.standings.ended(record)
            tell_attempt(self.operation, record)
        return answer

    def _settle(self, record: AttemptRecord, usage: Usage, characters: int) -> None:
        """Fixes what an attempt used and cost: as reported, else as estimated from the length of the texts.

        A failure is taken to have cost nothing, unless it left open how far the vendor came. An order of texts that a
        vendor counts no tokens for is not estimated, because it is not paid for by tokens.
        """
        if usage.source != _UNSPECIFIED:
            record.usage.CopyFrom(usage)
        elif record.outcome != _COMPLETED or self.operation != "rerank":
            record.usage.source = _ESTIMATED
            open_end = record.outcome == _CANCELLED or record.error_reason == _TIMEOUT
            if record.started and (record.outcome == _COMPLETED or open_end):
                record.usage.input_tokens = -(-characters // _CHARACTERS_PER_TOKEN)
        if record.usage.source != _UNSPECIFIED:
            record.cost_nano_usd = self._means.prices.cost(record)

    def _wait_before_retry(self, target: Target, failure: SluiceError, tried: int) -> float | None:
        standings = self._means.standings
        wait = wait_before_retry(self._means.config.retry, self._plan.limits.retries, failure, tried)
        left = self._call.time_remaining()
        if wait is None or (left is not None and left - wait < LEAST_SECONDS) or not standings.would_admit(target):
            return None
        return wait if standings.retries(target).spend() else None


@contextlib.asynccontextmanager
async def within(call: Call) -> AsyncIterator[None]:
    """Ends the block at the call's deadline. Raises DEADLINE_EXCEEDED then."""
    try:
        async with asyncio.timeout_at(call.deadline) as scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise DeadlineError("the time for this call is over") from None


async def in_parallel(works: Sequence[Callable[[], Awaitable[T]]], most: int) -> list[T]:
    """Runs works, at most so many at a time, and returns what they return, in their order.

    The first failure ends the others, and is raised once they have ended.
    """
    if len(works) == 1:
        return [await works[0]()]
    results: dict[int, T] = {}
    waiting = iter(enumerate(works))

    async def worker() -> None:
        for index, work in waiting:
            results[index] = await work()

    tasks = [asyncio.create_task(worker()) for _ in range(min(most, len(works)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return [results[index] for index in range(len(works))]
