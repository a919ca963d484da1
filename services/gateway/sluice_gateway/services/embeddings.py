"""`EmbeddingService`: vectors, orders of relevance and token counts, through the same routes as answers."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Final

from sluice.chat.v1.target_pb2 import Target
from sluice.chat.v1.usage_pb2 import Usage
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import embedding_service_pb2 as pb
from sluice.provider.v1 import provider_service_pb2 as provider_pb
from sluice_gateway.config import EmbeddingConfig
from sluice_gateway.integrations import Integration
from sluice_gateway.pipeline.calls import Admission, CallMeans, PaidCall, in_parallel, within
from sluice_gateway.pipeline.plan import Plan, Planner
from sluice_gateway.pipeline.retry import FALL_BACK_ON
from sluice_gateway.pipeline.settle import total_usage
from sluice_gateway.services.storable import check_labels
from sluice_kit.call import Call
from sluice_kit.channels import MAX_MESSAGE_BYTES
from sluice_kit.errors import SluiceError, make_error
from sluice_kit.rpc import invalid_field

log = logging.getLogger(__name__)

_MAX_SECONDS: Final = 300.0
_MAX_BYTES: Final = MAX_MESSAGE_BYTES - 1024 * 1024
"""Of vectors in one response: what clients receive, less room for the rest of it."""
_NUMBER_BYTES: Final = 4
_FEW_TEXTS: Final = 1024
"""Vectors of up to 7,900 numbers fit for so many; no model has longer ones."""


class EmbeddingService:
    """Implements sluice.gateway.v1.EmbeddingService."""

    def __init__(self, means: CallMeans, planner: Planner, admission: Admission, config: EmbeddingConfig) -> None:
        self._means = means
        self._planner = planner
        self._admission = admission
        self._config = config

    async def Embed(self, request: pb.EmbedRequest, call: Call) -> pb.EmbedResponse:
        check_labels("labels", request.labels)
        plan, limited = self._plan(request.model, call)
        with self._admission.admitted(call.tenant):
            async with within(limited):
                paid = PaidCall(self._means, "embed", plan, limited, request.labels)
                try:
                    return await self._embed(request, plan, paid)
                except SluiceError as error:
                    _log_failure("Embed", plan, error)
                    raise

    async def _embed(self, request: pb.EmbedRequest, plan: Plan, paid: PaidCall) -> pb.EmbedResponse:
        # Vectors of two models cannot be compared: only the same model elsewhere is something to fall back to.
        targets = [target for target in plan.targets if target.model == plan.targets[0].model]
        if request.HasField("dimensions"):
            _check_room(request, request.dimensions)
        batches = split(request.texts, self._config.batch_texts, self._config.batch_characters)
        works = [partial(self._batch, request, texts, targets, paid) for texts in batches]
        head: list[provider_pb.EmbedResponse] = []
        if self._means.standings.is_probe(targets[0]) or len(request.texts) > _FEW_TEXTS:
            # One batch finds out whether the target is back, or how long its vectors are; the others would be turned
            # away meanwhile, or paid for in vain.
            head = [await works.pop(0)()]
            _check_room(request, len(head[0].embeddings[0].values))
        answers = head + (await in_parallel(works, self._config.parallel) if works else [])
        response = pb.EmbedResponse(usage=total_usage(paid.records), target=paid.records[-1].target)
        size = len(answers[0].embeddings[0].values)
        for answer in answers:
            if any(len(vector.values) != size for vector in answer.embeddings):
                raise _broken(targets[0], "returned vectors of different lengths")
            response.embeddings.extend(answer.embeddings)
        return response

    async def _batch(
        self, request: pb.EmbedRequest, texts: Sequence[str], targets: Sequence[Target], paid: PaidCall
    ) -> provider_pb.EmbedResponse:
        async def embed(integration: Integration, target: Target, call: Call) -> provider_pb.EmbedResponse:
            inner = provider_pb.EmbedRequest(target=target, texts=texts, task=request.task)
            if request.HasField("dimensions"):
                inner.dimensions = request.dimensions
            answer = await integration.generator.embed(inner, call)
            if len(answer.embeddings) != len(texts):
                raise _broken(target, f"returned {len(answer.embeddings)} vectors for {len(texts)} texts")
            return answer

        return await paid.first_of(targets, embed, _usage_of_vectors, sum(map(len, texts)))

    async def Rerank(self, request: pb.RerankRequest, call: Call) -> pb.RerankResponse:
        async def rerank(integration: Integration, target: Target, call: Call) -> pb.RerankResponse:
            inner = provider_pb.RerankRequest(target=target, query=request.query, texts=request.texts)
            if request.HasField("top_n"):
                inner.top_n = request.top_n
            answer = await integration.generator.rerank(inner, call)
            return pb.RerankResponse(results=answer.results, usage=answer.usage, target=target)

        check_labels("labels", request.labels)
        plan, limited = self._plan(request.model, call)
        # Scores compare within one response only, so the texts stay together, and another model may order them.
        with self._admission.admitted(call.tenant):
            async with within(limited):
                paid = PaidCall(self._means, "rerank", plan, limited, request.labels)
                characters = len(request.query) + sum(map(len, request.texts))
                try:
                    return await paid.first_of(plan.targets, rerank, _usage_of_order, characters)
                except SluiceError as error:
                    _log_failure("Rerank", plan, error)
                    raise

    async def CountTokens(self, request: pb.CountTokensRequest, call: Call) -> pb.CountTokensResponse:
        plan, limited = self._plan(request.model, call)
        with self._admission.admitted(call.tenant):
            async with within(limited):
                for target in plan.targets[:-1]:
                    try:
                        return await self._count(request, target, limited)
                    except SluiceError as error:
                        _log_failure("CountTokens", plan, error)
                        if error.reason not in FALL_BACK_ON:
                            raise
                    # An answer would go on to the next target, too, and the count says whose it is.
                return await self._count(request, plan.targets[-1], limited)

    async def _count(self, request: pb.CountTokensRequest, target: Target, call: Call) -> pb.CountTokensResponse:
        # Not on record: it is free at every vendor.
        inner = provider_pb.CountTokensRequest(target=target, messages=request.messages, tools=request.tools)
        if request.HasField("system_instruction"):
            inner.system_instruction = request.system_instruction
        answer = await self._means.integrations.get(target.provider).generator.count_tokens(inner, call)
        return pb.CountTokensResponse(tokens=answer.tokens, kind=answer.kind, margin=answer.margin, target=target)

    def _plan(self, model: str, call: Call) -> tuple[Plan, Call]:
        plan = self._planner.plan(model)
        return plan, call.with_timeout(min(_MAX_SECONDS, plan.limits.total_seconds))


def _check_room(request: pb.EmbedRequest, dimensions: int) -> None:
    most = _MAX_BYTES // (dimensions * _NUMBER_BYTES)
    if len(request.texts) > most:
        raise invalid_field("texts", f"vectors of {dimensions} numbers fit for {most} texts at a time")


def split(texts: Sequence[str], most: int, characters: int) -> list[Sequence[str]]:
    """Splits texts to batches of at most so many, and of at most so many characters unless one alone has more."""
    batches: list[Sequence[str]] = []
    start = size = 0
    for index, text in enumerate(texts):
        if index > start and (index - start >= most or size + len(text) > characters):
            batches.append(texts[start:index])
            start, size = index, 0
        size += len(text)
    batches.append(texts[start:])
    return batches


def _usage_of_vectors(answer: provider_pb.EmbedResponse) -> Usage:
    return answer.usage


def _usage_of_order(answer: pb.RerankResponse) -> Usage:
    return answer.usage


def _broken(target: Target, what: str) -> SluiceError:
    return make_error(
        ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
        f"{target.provider} {what}",
        metadata={"provider": target.provider},
    )


def _log_failure(method: str, plan: Plan, error: SluiceError) -> None:
    first = plan.targets[0]
    extra = {"method": method, "integration": first.provider, "model": first.model, "reason": error.reason_name}
    log.info("call of an adapter failed", extra=extra)
