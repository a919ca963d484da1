"""Attempts: the tries that make one answer, from the first to the one that delivers."""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sluice.chat.v1.event_pb2 import AttemptOutcome, Event, Restarted
from sluice.chat.v1.passage_pb2 import Passage
from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1.model_pb2 import Capability
from sluice_gateway.catalog import Catalog
from sluice_gateway.config import ResilienceConfig
from sluice_gateway.counter import TokenCounter
from sluice_gateway.integrations import Integrations
from sluice_gateway.pipeline.announce import default_model, hedged, route_changed
from sluice_gateway.pipeline.attempt import AttemptRecord, run_attempt
from sluice_gateway.pipeline.budget import Budget
from sluice_gateway.pipeline.citations import CitationCollector
from sluice_gateway.pipeline.fit import Fit
from sluice_gateway.pipeline.form import FormRelay
from sluice_gateway.pipeline.hedge import Race, hedge_delay
from sluice_gateway.pipeline.midstream import (
    CONTINUE,
    RESTART,
    ContinuedRelay,
    Partial,
    continue_from,
    partial_of,
    policy_of,
    tokens_left,
)
from sluice_gateway.pipeline.prompts import Template
from sluice_gateway.pipeline.relay import Relay
from sluice_gateway.pipeline.retry import FALL_BACK_ON, LEAST_SECONDS, UNAVAILABLE, wait_before_retry
from sluice_gateway.pipeline.settle import Prices, settle_attempt
from sluice_gateway.pipeline.standing import Standings
from sluice_gateway.pipeline.telling import attempt_span, tell_attempt, tell_route_change
from sluice_gateway.records.ledger import Ledger
from sluice_gateway.responses.response import Response
from sluice_kit.errors import DeadlineError, Reason, SluiceError, forget_frames
from sluice_kit.ports import Generator

if TYPE_CHECKING:
    from sluice_gateway.pipeline.run import Job

log = logging.getLogger(__name__)

_CONTEXT_TOO_LONG: Final = ErrorReason.ERROR_REASON_CONTEXT_TOO_LONG
_MODEL_NOT_FOUND: Final = ErrorReason.ERROR_REASON_MODEL_NOT_FOUND
_CIRCUIT_OPEN: Final = ErrorReason.ERROR_REASON_CIRCUIT_OPEN
_FAILED: Final = AttemptOutcome.ATTEMPT_OUTCOME_FAILED
_CANCELLED: Final = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED


@dataclass(frozen=True, slots=True)
class Means:
    """What every attempt needs. One for the whole gateway."""

    integrations: Integrations
    ledger: Ledger
    prices: Prices
    standings: Standings
    config: ResilienceConfig
    catalog: Catalog
    hedges: Budget
    counter: TokenCounter


class Attempts:
    """The attempts of one answer.

    A target is tried, and tried again where its failure may pass, then the next one; each change is an event. Every
    attempt is on record before it begins, and settled when it ends.
    """

    def __init__(
        self,
        means: Means,
        response: Response,
        job: "Job",
        template: Template | None,
        passages: list[Passage],
        first: AttemptRecord | None,
    ) -> None:
        """`first` is the first attempt if it is on record already, and admitted."""
        self._means = means
        self._response = response
        self._job = job
        self._fit = Fit(means.catalog, means.counter, response, job, template, passages)
        self._first = first
        self._targets = deque(job.plan.targets)
        self._hedge_delay = None if job.whole else hedge_delay(job.spec, job.plan.limits)
        """When a second target is asked beside the first, in seconds; None: not, or not any more."""
        self._failure: SluiceError | None = None
        self._given_up = job.plan.passed
        """The target that the next attempt takes over from, and why."""
        self._default = job.plan.default
        self._substituted: Reason | None = job.plan.passed[1] if job.plan.substituted and job.plan.passed else None
        """Why the default model is about to be asked instead; None: it is not, or that was told."""
        self._discard_from: int | None = None
        """RESTART: number of the first event that the next attempt's content makes void."""
        self._partial: Partial | None = None
        """CONTINUE: what the next attempt goes on from."""
        self._collector: CitationCollector | None = None
        self.records: list[AttemptRecord] = []
        """Every attempt that was made, in order."""

    async def run(self) -> Relay:
        """Makes attempts until one delivers, and returns its relay.

        Raises the failure of the last one, or CIRCUIT_OPEN if none could be made.
        """
        while self._targets or self._substitute():
            target = self._targets.popleft()
            if self._first is not None and self._first.target != target:
                self._pass_over(target, _CIRCUIT_OPEN)
                continue
            # One that is on record already has to begin, however little time is left.
            if self._first is None and not self._has_time(target):
                continue
            if (relay := await self._try(target)) is not None:
                return relay
        if self._failure is None:
            raise self._means.standings.refusal(self._job.plan.targets)
        raise self._failure

    async def _try(self, target: Target) -> Relay | None:
        """Tries one target, more than once where that may help. Returns None if the next one is to be tried."""
        tried = 0
        while True:
            if self._partial is not None and not await self._continues(target):
                assert self._failure is not None  # of the attempt that broke off
                self._failure.metadata.setdefault("midstream", "no_assistant_prefill")
                return None
            record = await self._begin(target)
            if record is None:
                return None
            if not tried:
                self._means.standings.retries(target).earn()
            relay, failure = await self._run(self._relay(record))
            await self._response.settled()  # what comes next may look at what was sent
            if failure is None:
                return relay
            target = relay.record.target
            self._failure = failure
            self._given_up = target, failure.reason
            if relay.committed:
                self._break_off(relay, failure)
            elif failure.reason == _CONTEXT_TOO_LONG:
                if self._fit.shorten(target):
                    continue
                if not await self._skip_smaller(target):
                    raise failure
                return None
            elif failure.reason not in FALL_BACK_ON:
                raise failure
            wait = self._wait_before_retry(target, failure, tried, midstream=relay.committed)
            if wait is None:
                return None
            tried += 1
            await asyncio.sleep(wait)

    async def _run(self, relay: Relay) -> tuple[Relay, SluiceError | None]:
        """Runs an attempt, perhaps with another beside it. Returns the one that counts, and its failure if it failed."""
        if self._hedge_delay is not None and self._partial is None and self._targets:
            self._means.hedges.earn()
            return await Race(
                relay, self._hedge_delay, attempt=self._attempt, second=self._second, abandon=self._abandon
            ).run()
        try:
            await self._attempt(relay)
        except SluiceError as error:
            forget_frames(error)
            return relay, error
        return relay, None

    async def _second(self, race: Race) -> Relay | None:
        """Puts an attempt at the next target on record, beside the one that runs, if there may be one."""
        means, first = self._means, self.records[-1]
        target = next((target for target in self._targets if means.standings.would_admit(target)), None)
        if target is None or not self._has_time(target) or not means.hedges.spend():
            return None
        try:
            record = await self._begin(target, beside=True)
        except SluiceError as error:
            # The answer that is on its way does not fail for this.
            log.warning("no hedge", extra={"reason": error.reason_name, "response": self._response.name})
            return None
        if record is None:
            return None
        relay = self._relay(record)
        if not race.undecided():
            self._abandon(relay)
            return None
        self._targets.remove(target)
        self._hedge_delay = None
        relay.preamble = (
            route_changed(record, first.target, ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT),
            *relay.preamble,
        )
        self._response.emit(hedged(record))
        return relay

    def _abandon(self, relay: Relay) -> None:
        relay.record.never_begins()
        self._means.ledger.attempt_ended(relay.record)
        if relay.record.probe:
            self._means.standings.released(relay.record.target)

    async def _begin(self, target: Target, *, beside: bool = False) -> AttemptRecord | None:
        """Puts an attempt on record, or one `beside` another. Returns None if the target is to be left alone."""
        standings = self._means.standings
        if self._first is None and not standings.would_admit(target):
            self._pass_over(target, _CIRCUIT_OPEN)
            return None
        # Before it is on record, because this may wait.
        if beside:
            await self._fit.recall(target)  # nothing more: what is left out would be so for both
        elif not await self._fit.prepare(target) and self._first is None and await self._skip_smaller(target):
            self._pass_over(target, _CONTEXT_TOO_LONG)
            return None
        record, self._first = self._first, None
        if record is None:
            if not standings.admits(target):
                self._pass_over(target, _CIRCUIT_OPEN)
                return None
            record = AttemptRecord(
                len(self.records) + 1,
                target,
                probe=standings.is_probe(target),
                expected_tokens=self._fit.tokens(target, "" if self._partial is None else self._partial.prefill),
                rates=self._means.prices.rates(target),
            )
            try:
                await self._means.ledger.attempt_started(self._response, record)
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError):
                    # It is on record, or will be in a moment, and will never begin.
                    record.never_begins()
                    self._means.ledger.attempt_ended(record)
                if record.probe:
                    standings.released(target)
                raise
        self.records.append(record)
        if self._given_up is not None:
            self._response.emit(route_changed(record, *self._given_up))
            tell_route_change(self._job.call.span, record, *self._given_up)
            self._given_up = None
        if self._substituted is not None:
            self._response.emit(default_model(record, self._substituted))
            self._substituted = None
        return record

    def _pass_over(self, target: Target, reason: Reason) -> None:
        # What an attempt failed with says more than that another target was not even asked.
        if self._given_up is None:
            self._given_up = target, reason

    async def _skip_smaller(self, target: Target) -> bool:
        """Takes the targets out of the list that are not known to read more than one that cannot read it all.

        Returns whether one is left.
        """
        left = [other for other in self._targets if await self._fit.reads_more(other, target)]
        if left:
            self._targets = deque(left)
        return bool(left)

    def _substitute(self) -> bool:
        """Puts the default model into the list if none of the targets could be used, whatever is asked of them.

        Returns whether there is anything in the list now.
        """
        default, self._default = self._default, ()
        if not default or not all(self._is_unavailable(record) for record in self.records):
            return False
        self._targets.extend(default)
        self._substituted = _CIRCUIT_OPEN if self._failure is None else self._failure.reason
        return True

    def _is_unavailable(self, record: AttemptRecord) -> bool:
        if record.error_reason == _MODEL_NOT_FOUND:
            return record.target.provider not in self._means.integrations  # it was removed since this was planned
        return record.outcome == _CANCELLED or record.error_reason in UNAVAILABLE

    def _relay(self, record: AttemptRecord) -> Relay:
        relay: Relay
        if self._partial is not None:
            relay = ContinuedRelay(self._response, record, self._collector, self._partial)
        else:
            passages, form = self._fit.passages, self._job.form
            self._collector = CitationCollector(passages) if passages else None
            if form is None:
                relay = Relay(self._response, record, self._collector)
            else:
                relay = FormRelay(self._response, record, self._collector, form, whole=self._job.whole)
        if self._discard_from is not None:
            restarted = Restarted(attempt_id=record.id, discard_from=self._discard_from)
            relay.preamble = (Event(restarted=restarted),)
            self._job.call.span.event("Restarted", {"sluice.attempt": record.number})
        if record.probe:
            relay.gate = lambda: self._means.standings.spoke(record.target)
        return relay

    async def _attempt(self, relay: Relay) -> None:
        means, job, record = self._means, self._job, relay.record
        record.span = attempt_span(job.call.span, self._response.operation, record)
        request = self._fit.request(record)
        if job.talk is not None:
            job.talk.tell(request)
        if self._partial is not None:
            continue_from(self._partial, request, tokens_left(request.parameters, self.records[:-1]))
        try:
            generator = self._generator(record)
            await run_attempt(generator, request, job.call.under(record.span), job.plan.limits, relay)
        finally:
            final = relay.completed.usage if relay.completed is not None else None
            settle_attempt(record, final, request, means.prices)
            means.ledger.attempt_ended(record)
            means.standings.ended(record)
            tell_attempt(self._response.operation, record)

    def _generator(self, record: AttemptRecord) -> Generator:
        try:
            return self._means.integrations.get(record.target.provider).generator
        except SluiceError as error:  # it was removed since the answer was planned
            record.outcome, record.error_reason, record.duration = _FAILED, error.reason, 0.0
            raise

    def _break_off(self, relay: Relay, failure: SluiceError) -> None:
        """Gets ready for an attempt that makes up for one that broke off after its first content.

        Raises its failure if there is to be none.
        """
        policy = policy_of(self._job.spec, self._job.plan.limits)
        if policy == RESTART and failure.reason in FALL_BACK_ON:
            self._discard_from = relay.first_sequence
            return
        relay.show_tail()
        if policy != CONTINUE or failure.reason not in FALL_BACK_ON:
            raise failure
        partial = partial_of(self._response, self._job.spec)
        limits = self._job.plan.parameters or self._job.spec.parameters
        if self._job.spec.parameters.HasField("max_output_tokens"):
            limits = self._job.spec.parameters
        left = tokens_left(limits, self.records)
        if relay.completed is not None:
            partial = "completed"
        elif left is not None and left <= 0:
            partial = "max_output_tokens"
        if isinstance(partial, str):
            failure.metadata["midstream"] = partial
            raise failure
        self._partial = partial
        self._collector = relay.collector

    async def _continues(self, target: Target) -> bool:
        """Whether a target goes on with a started message of the assistant, as far as its adapter knows."""
        try:
            model = await self._means.catalog.find(target, self._job.call)
        except SluiceError as error:
            log.info("capabilities are unknown", extra={"target": target.model, "reason": error.reason_name})
            return False
        return model is not None and Capability.CAPABILITY_ASSISTANT_PREFILL in model.capabilities

    def _wait_before_retry(self, target: Target, failure: SluiceError, tried: int, *, midstream: bool) -> float | None:
        means = self._means
        retries = self._job.plan.limits.retries
        wait = wait_before_retry(means.config.retry, retries, failure, tried, midstream=midstream)
        if wait is None or not self._has_time(target, wait) or not means.standings.would_admit(target):
            return None
        return wait if means.standings.retries(target).spend() else None

    def _has_time(self, target: Target, wait: float = 0.0) -> bool:
        """Whether an attempt that begins after a wait has time enough left to be of use.

        The first attempt is always worth a try, unless the time is as good as over.
        """
        left = self._job.call.time_remaining()
        if left is None:
            return True
        if not self.records:
            if left < LEAST_SECONDS:
                raise DeadlineError("the time for this response is over")
            return True
        return left - wait >= max(LEAST_SECONDS, self._means.standings.ttft(target) or 0.0)
