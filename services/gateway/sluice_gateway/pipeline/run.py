"""Run: makes one answer, from its acceptance to its end. The task of a response."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from sluice.chat.v1.event_pb2 import Accepted, AttemptOutcome, Event, Notice, NoticeCode, RouteChanged
from sluice.chat.v1.passage_pb2 import Passage
from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1.chat_service_pb2 import ChatSpec
from sluice.provider.v1.provider_service_pb2 import GenerateRequest
from sluice_gateway.integrations import Integrations
from sluice_gateway.pipeline.attempt import AttemptRecord, run_attempt
from sluice_gateway.pipeline.citations import CitationCollector
from sluice_gateway.pipeline.ground import ground, template_for
from sluice_gateway.pipeline.plan import Plan
from sluice_gateway.pipeline.prompts import Template
from sluice_gateway.pipeline.relay import Relay
from sluice_gateway.pipeline.settle import Prices, settle_attempt, settle_response
from sluice_gateway.records.ledger import Claim, Ledger
from sluice_gateway.responses.response import Response, State
from sluice_gateway.retrieval import Retrieval
from sluice_kit.call import Call
from sluice_kit.errors import DeadlineError, SluiceError, UnavailableError, internal_error, make_error
from sluice_kit.ids import new_id

log = logging.getLogger(__name__)

_R = ErrorReason
# Before the first content these lead to the next target. What the request itself is at fault for, or what a vendor
# refuses on purpose, would be refused elsewhere too, or must not be evaded.
_FALL_BACK_ON: Final = frozenset(
    {
        _R.ERROR_REASON_SERVICE_UNREACHABLE,
        _R.ERROR_REASON_DRAINING,
        _R.ERROR_REASON_TOO_MANY_IN_FLIGHT,
        _R.ERROR_REASON_INTEGRATION_MISCONFIGURED,
        _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
        _R.ERROR_REASON_UPSTREAM_RATE_LIMITED,
        _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        _R.ERROR_REASON_UPSTREAM_OVERLOADED,
        _R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
        _R.ERROR_REASON_UPSTREAM_TIMEOUT,
        _R.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
        _R.ERROR_REASON_EMPTY_RESPONSE,
        _R.ERROR_REASON_MODEL_NOT_FOUND,
        _R.ERROR_REASON_INTERNAL,
    }
)
_LEAST_SECONDS: Final = 0.05
"""No attempt starts with less time left than this: it could not use it."""


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


class Pipeline:
    """Makes answers. One for the whole gateway."""

    def __init__(self, integrations: Integrations, retrieval: Retrieval, ledger: Ledger, prices: Prices) -> None:
        self._integrations = integrations
        self._retrieval = retrieval
        self._ledger = ledger
        self._prices = prices

    async def run(self, response: Response, job: Job) -> None:
        """Makes one answer and ends the response, however it goes. Never raises."""
        try:
            async with asyncio.timeout_at(job.call.deadline):
                completed = await self._answer(response, job)
        except TimeoutError:
            error = DeadlineError("the time for this response is over")
            response.finish(State.FAILED, error)
        except asyncio.CancelledError:
            # The task is the gateway's own and this is its end; nobody above waits for the cancellation.
            cancelling = response.cancelling or UnavailableError(
                "the gateway is shutting down", reason=_R.ERROR_REASON_DRAINING, retry_after=1.0
            )
            response.finish(State.CANCELLED, cancelling)
        except SluiceError as failure:
            response.finish(State.FAILED, failure)
        except Exception:
            error_id = new_id()[:12]
            log.exception("a response failed unexpectedly", extra={"error_id": error_id, "response": response.name})
            response.finish(State.FAILED, internal_error(error_id))
        else:
            response.emit(*completed)
            response.finish(State.COMPLETED)
        self._ledger.response_ended(response)

    async def _answer(self, response: Response, job: Job) -> list[Event]:
        """Makes the answer and returns its last events, up to `Completed`."""
        spec, plan = job.spec, job.plan
        grounded = spec.HasField("grounding")
        first = None if grounded else AttemptRecord(1, plan.targets[0])
        row = self._ledger.response_row(response, job.method, job.request_id, spec.model, spec.labels)
        try:
            claim = await self._ledger.accept(response, row, first)
        except asyncio.CancelledError:
            if first is not None:
                # It is on record, or will be in a moment, and will never begin.
                first.outcome = AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED
                self._ledger.attempt_ended(first)
            raise
        if claim is not None:
            raise _already_claimed(claim, response)
        template = template_for(spec)
        response.emit(_accepted(response, plan, template))
        passages: list[Passage] = []
        if grounded:
            found = await ground(spec, self._retrieval, job.call)
            passages = found.passages
            response.emit(found.event)
        attempts: list[AttemptRecord] = []
        try:
            relay, collector = await self._attempts(response, job, template, passages, attempts, first)
        except SluiceError as error:
            if len(attempts) > 1:
                error.metadata.setdefault("attempts", str(len(attempts)))
            raise
        citations = [] if collector is None else await collector.check(self._retrieval, job.call)
        assert relay.completed is not None  # run_attempt checks it
        completed = settle_response(relay.completed, attempts)
        return [*relay.tail, *(Event(citation=citation) for citation in citations), Event(completed=completed)]

    async def _attempts(
        self,
        response: Response,
        job: Job,
        template: Template | None,
        passages: list[Passage],
        attempts: list[AttemptRecord],
        first: AttemptRecord | None,
    ) -> tuple[Relay, CitationCollector | None]:
        """Tries the targets in order until one delivers; returns its relay and what it cited."""
        failure: SluiceError | None = None
        for target in job.plan.targets:
            if failure is not None:
                _check_time(job.call, failure)
            while True:
                record = first or AttemptRecord(len(attempts) + 1, target)
                if first is None:
                    await self._ledger.attempt_started(response, record)
                first = None
                if failure is not None and attempts[-1].target != target:
                    response.emit(_route_changed(record, failure, attempts[-1].target))
                attempts.append(record)
                collector = CitationCollector(passages) if passages else None
                relay = Relay(response, record, collector)
                request = _generate_request(job, record, template, passages)
                try:
                    await self._attempt(request, job, relay)
                except SluiceError as error:
                    failure = error
                else:
                    return relay, collector
                if relay.committed:
                    relay.show_tail()
                    raise failure
                if failure.reason == _R.ERROR_REASON_CONTEXT_TOO_LONG and passages:
                    passages = []
                    response.emit(_passages_dropped())
                    continue
                break
            if failure.reason not in _FALL_BACK_ON:
                raise failure
        assert failure is not None  # a plan has at least one target
        raise failure

    async def _attempt(self, request: GenerateRequest, job: Job, relay: Relay) -> None:
        record = relay.record
        generator = self._integrations.get(record.target.provider).generator
        try:
            await run_attempt(generator, request, job.call, job.plan.limits, relay)
        finally:
            final = relay.completed.usage if relay.completed is not None else None
            settle_attempt(record, final, request, self._prices)
            self._ledger.attempt_ended(record)


def _already_claimed(claim: Claim, response: Response) -> SluiceError:
    if claim.fingerprint != response.fingerprint.hex():
        return make_error(_R.ERROR_REASON_REQUEST_ID_REUSED, "this request_id was used for another request")
    return make_error(
        _R.ERROR_REASON_RESPONSE_LOST,
        "the response of this request_id is no longer kept; ask again with a new one",
        metadata={"resource": f"responses/{claim.response_id}", "state": claim.state},
    )


def _accepted(response: Response, plan: Plan, template: Template | None) -> Event:
    time = Timestamp()
    time.FromNanoseconds(response.accept_time_ns)
    accepted = Accepted(response=response.name, targets=plan.targets, accept_time=time)
    if template is not None:
        accepted.template_id, accepted.template_sha256 = template.id, template.sha256
    return Event(accepted=accepted)


def _route_changed(record: AttemptRecord, failure: SluiceError, previous: Target) -> Event:
    return Event(
        route_changed=RouteChanged(attempt_id=record.id, target=record.target, reason=failure.reason, previous=previous)
    )


def _passages_dropped() -> Event:
    return Event(
        notice=Notice(
            code=NoticeCode.NOTICE_CODE_PASSAGES_DROPPED,
            message="the prompt was too long for the model; it was sent once more without the passages",
        )
    )


def _check_time(call: Call, failure: SluiceError) -> None:
    left = call.time_remaining()
    if left is not None and left < _LEAST_SECONDS:
        raise failure


def _generate_request(
    job: Job, record: AttemptRecord, template: Template | None, passages: list[Passage]
) -> GenerateRequest:
    spec = job.spec
    request = GenerateRequest(
        attempt_id=record.id,
        target=record.target,
        messages=spec.messages,
        passages=passages,
        tools=spec.tools,
    )
    system = spec.system_instruction
    if spec.HasField("answer_language"):
        wish = f"Answer in the language with the BCP 47 tag {spec.answer_language}."
        system = f"{system}\n\n{wish}" if system else wish
    if system:
        request.system_instruction = system
    if template is not None and passages:
        request.grounding_instruction = template.text
    if spec.HasField("parameters"):
        request.parameters.CopyFrom(spec.parameters)
    if spec.HasField("tool_choice"):
        request.tool_choice.CopyFrom(spec.tool_choice)
    if spec.HasField("response_format"):
        request.response_format.CopyFrom(spec.response_format)
    if spec.lenient:
        request.lenient = True
    if job.whole:
        request.whole = True
    if spec.background:
        request.background = True
    return request
