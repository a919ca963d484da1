"""Run: makes one answer, from its acceptance to its end. The task of a response."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sluice.chat.v1.event_pb2 import Event
from sluice.chat.v1.passage_pb2 import Passage
from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1.chat_service_pb2 import ChatSpec
from sluice_gateway.cache.answers import AnswerCache, completed_from
from sluice_gateway.cache.store import Entry
from sluice_gateway.catalog import Catalog
from sluice_gateway.config import ResilienceConfig
from sluice_gateway.conversations.talk import Talk
from sluice_gateway.counter import TokenCounter
from sluice_gateway.integrations import Integrations
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_gateway.pipeline.attempts import Attempts, Means
from sluice_gateway.pipeline.budget import Budget
from sluice_gateway.pipeline.expect import tokens_of_spec
from sluice_gateway.pipeline.form import Form, form_of
from sluice_gateway.pipeline.ground import Grounder
from sluice_gateway.pipeline.needs import Need
from sluice_gateway.pipeline.plan import Plan
from sluice_gateway.pipeline.prompts import Prompts, Template
from sluice_gateway.pipeline.rank import Ranking
from sluice_gateway.pipeline.relay import Relay
from sluice_gateway.pipeline.settle import Prices, settle_response
from sluice_gateway.pipeline.standing import Standings
from sluice_gateway.records.ledger import Claim, Ledger
from sluice_gateway.responses.response import Response, State
from sluice_gateway.retrieval import Retrieval
from sluice_kit.call import Call
from sluice_kit.errors import DeadlineError, SluiceError, internal_error, make_error
from sluice_kit.ids import new_id
from sluice_kit.telemetry import current

log = logging.getLogger(__name__)

_R = ErrorReason


@dataclass(frozen=True, slots=True)
class Job:
    """One request for an answer, admitted and planned."""

    method: str
    request_id: str
    spec: ChatSpec
    plan: Plan
    call: Call
    whole: bool
    """The caller reads the answer only when it is whole."""
    talk: Talk | None = None
    """Its share in the conversation that the request names."""
    form: Form | None = None
    """What the answer has to look like; None: free text."""
    needs: Sequence[Need] = ()
    """What it asks of a model."""


class Pipeline:
    """Makes answers. One for the whole gateway."""

    def __init__(
        self,
        integrations: Integrations,
        retrieval: Retrieval,
        ledger: Ledger,
        prices: Prices,
        resilience: ResilienceConfig,
        catalog: Catalog,
        cache: AnswerCache,
        prompts: Prompts,
    ) -> None:
        self._retrieval = retrieval
        self._grounder = Grounder(retrieval)
        self._cache = cache
        self._prompts = prompts
        self._ledger = ledger
        self.standings = Standings(resilience)
        """What recent attempts say of each target."""
        self._ranking = Ranking(self.standings, prices, catalog)
        hedges = Budget(resilience.hedge.share, resilience.hedge.reserve)
        self._means = Means(
            integrations, ledger, prices, self.standings, resilience, catalog, hedges, TokenCounter(integrations)
        )

    async def run(self, response: Response, job: Job) -> None:
        """Makes one answer and ends the response, however it goes. Never raises."""
        state = State.COMPLETED
        error: SluiceError | None = None
        last: list[Event] = []
        try:
            async with asyncio.timeout_at(job.call.deadline):
                last = await self._answer(response, job)
        except TimeoutError:
            state, error = State.FAILED, DeadlineError("the time for this response is over")
        except asyncio.CancelledError:
            # The task is the gateway's own and this is its end; nobody above waits for the cancellation.
            state, error = response.cancelled_as()
        except SluiceError as failure:
            state, error = State.FAILED, failure
        except Exception:
            error_id = new_id()[:12]
            log.exception("a response failed unexpectedly", extra={"error_id": error_id, "response": response.name})
            state, error = State.FAILED, internal_error(error_id)
        if job.talk is not None:
            # Before anybody knows: whoever has seen the end may go on with the conversation at once.
            notice = await job.talk.end(state, error, last)
            if notice is not None and last:
                last.insert(-1, notice)
        if last:
            response.emit(*last)
        response.finish(state, error)
        self._ledger.response_ended(response)

    async def _answer(self, response: Response, job: Job) -> list[Event]:
        """Makes the answer and returns its last events, up to `Completed`."""
        spec, plan = job.spec, job.plan
        plan = self._ranking.choose(plan, spec, job.needs)
        if spec.HasField("response_format"):
            job = replace(job, form=await form_of(spec))
        grounded = spec.HasField("grounding")
        cached = self._cache.lookup(spec, plan, response.tenant)
        standings = self.standings
        # Where something else comes before the first attempt, that one is not on record yet.
        later = grounded or job.talk is not None or cached is not None
        if (later or plan.default) and cached is None and not self._admits(plan.targets):
            if not self._admits(plan.default):
                raise standings.refusal(plan.targets)
            plan = plan.substitute(plan.targets[0], _R.ERROR_REASON_CIRCUIT_OPEN)
        if plan is not job.plan:
            job = replace(job, plan=plan)
        if job.talk is not None:
            await job.talk.check()
        first = None if later else self._first(plan.targets, spec)
        row = self._ledger.response_row(response, job.method, job.request_id, spec.model, spec.labels)
        try:
            claim = await self._ledger.accept(response, row, first)
            if claim is not None:
                raise _already_claimed(claim, response)
        except BaseException as error:
            if first is not None:
                if isinstance(error, asyncio.CancelledError):
                    # It is on record, or will be in a moment, and will never begin.
                    first.never_begins()
                    self._ledger.attempt_ended(first)
                if first.probe:
                    standings.released(first.target)
            raise
        template = self._prompts.template_for(spec, plan.limits)
        response.emit(_accepted(response, plan, template))
        if job.talk is not None:
            await job.talk.begin()
        passages: list[Passage] = []
        if grounded:
            with job.call.span.child("ground") as span:
                past = () if job.talk is None else job.talk.past
                passages = await self._grounder.find(spec, job.call.under(span), response.emit, past)
                span.set({"sluice.passages": len(passages)})
        if cached is None:
            last, _ = await self._from_attempts(response, job, template, passages, first)
            return last
        try:
            entry = await cached.find_or_wait(template, passages, job.call)
            if entry is not None:
                return await self._from_cache(response, job, entry)
            last, relay = await self._from_attempts(response, job, template, passages, first)
            cached.keep(response, last, relay.record.target, relay.collector, passages)
            return last
        finally:
            cached.leave()

    async def _from_attempts(
        self,
        response: Response,
        job: Job,
        template: Template | None,
        passages: list[Passage],
        first: AttemptRecord | None,
    ) -> tuple[list[Event], Relay]:
        """Makes an answer and returns its last events, and what it came through."""
        attempts = Attempts(self._means, response, job, template, passages, first)
        try:
            relay = await attempts.run()
        except SluiceError as error:
            if len(attempts.records) > 1:
                error.metadata.setdefault("attempts", str(len(attempts.records)))
            raise
        citations = [] if relay.collector is None else await relay.collector.check(self._retrieval, job.call)
        assert relay.completed is not None  # run_attempt checks it
        completed = settle_response(relay.completed, attempts.records)
        last = [*relay.tail, *(Event(citation=citation) for citation in citations), Event(completed=completed)]
        return last, relay

    async def _from_cache(self, response: Response, job: Job, entry: Entry) -> list[Event]:
        """Sends a kept answer and returns its last events. What it cites is checked as if it were new."""
        self._ledger.answered_from_cache(response, AttemptRecord(1, entry.target))
        current().answered_from_cache()
        if response.append(entry.count, entry.body):
            await response.room()
        citations = [] if entry.collector is None else await entry.collector.check(self._retrieval, job.call)
        return [*(Event(citation=citation) for citation in citations), Event(completed=completed_from(entry))]

    def _admits(self, targets: tuple[Target, ...]) -> bool:
        """Whether an attempt at any of them may begin."""
        return any(self.standings.would_admit(target) for target in targets)

    def _first(self, targets: tuple[Target, ...], spec: ChatSpec) -> AttemptRecord:
        """Returns an attempt at the first target that is not left alone. Raises CIRCUIT_OPEN if all are."""
        standings = self.standings
        for target in targets:
            if standings.admits(target):
                return AttemptRecord(
                    1,
                    target,
                    probe=standings.is_probe(target),
                    expected_tokens=tokens_of_spec(spec),
                    rates=self._means.prices.rates(target),
                )
        raise standings.refusal(targets)


def _already_claimed(claim: Claim, response: Response) -> SluiceError:
    if claim.fingerprint != response.fingerprint.hex():
        return make_error(_R.ERROR_REASON_REQUEST_ID_REUSED, "this request_id was used for another request")
    return make_error(
        _R.ERROR_REASON_RESPONSE_LOST,
        "the response of this request_id is no longer kept; ask again with a new one",
        metadata={"resource": f"responses/{claim.response_id}", "state": claim.state},
    )


def _accepted(response: Response, plan: Plan, template: Template | None) -> Event:
    event = Event()
    accepted = event.accepted
    accepted.response = response.name
    accepted.targets.extend(plan.targets)
    accepted.accept_time.FromNanoseconds(response.accept_time_ns)
    if template is not None:
        accepted.template_id, accepted.template_sha256 = template.id, template.sha256
    return event
