"""`EmbeddingService`: vectors, orders of relevance and token counts, through the same routes as answers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from sluice.chat.v1.target_pb2 import Target
from sluice.gateway.v1 import embedding_service_pb2 as pb
from sluice.provider.v1 import provider_service_pb2 as provider_pb
from sluice_gateway.integrations import Integration, Integrations
from sluice_gateway.pipeline.plan import Planner
from sluice_kit.call import Call
from sluice_kit.errors import DeadlineError, SluiceError

log = logging.getLogger(__name__)

T = TypeVar("T")
_MAX_SECONDS: Final = 300.0


class EmbeddingService:
    """Implements sluice.gateway.v1.EmbeddingService."""

    def __init__(self, integrations: Integrations, planner: Planner) -> None:
        self._integrations = integrations
        self._planner = planner

    async def Embed(self, request: pb.EmbedRequest, call: Call) -> pb.EmbedResponse:
        async def embed(integration: Integration, target: Target, limited: Call) -> pb.EmbedResponse:
            inner = provider_pb.EmbedRequest(target=target, texts=request.texts, task=request.task)
            if request.HasField("dimensions"):
                inner.dimensions = request.dimensions
            answer = await integration.generator.embed(inner, limited)
            return pb.EmbedResponse(embeddings=answer.embeddings, usage=answer.usage, target=target)

        # Vectors of two models cannot be compared, so there is no other target to fall back to.
        return await self._first(request.model, call, embed)

    async def Rerank(self, request: pb.RerankRequest, call: Call) -> pb.RerankResponse:
        async def rerank(integration: Integration, target: Target, limited: Call) -> pb.RerankResponse:
            inner = provider_pb.RerankRequest(target=target, query=request.query, texts=request.texts)
            if request.HasField("top_n"):
                inner.top_n = request.top_n
            answer = await integration.generator.rerank(inner, limited)
            return pb.RerankResponse(results=answer.results, usage=answer.usage, target=target)

        return await self._first(request.model, call, rerank)

    async def CountTokens(self, request: pb.CountTokensRequest, call: Call) -> pb.CountTokensResponse:
        async def count(integration: Integration, target: Target, limited: Call) -> pb.CountTokensResponse:
            inner = provider_pb.CountTokensRequest(target=target, messages=request.messages, tools=request.tools)
            if request.HasField("system_instruction"):
                inner.system_instruction = request.system_instruction
            answer = await integration.generator.count_tokens(inner, limited)
            return pb.CountTokensResponse(tokens=answer.tokens, kind=answer.kind, margin=answer.margin, target=target)

        return await self._first(request.model, call, count)

    async def _first(self, model: str, call: Call, function: Callable[[Integration, Target, Call], Awaitable[T]]) -> T:
        """Asks the first target of the model's route."""
        plan = self._planner.plan(model)
        target = plan.targets[0]
        limited = call.with_timeout(_MAX_SECONDS)
        try:
            async with asyncio.timeout_at(limited.deadline):
                return await function(self._integrations.get(target.provider), target, limited)
        except TimeoutError:
            raise DeadlineError("the time for this call is over") from None
        except SluiceError as error:
            log.info("call of an adapter failed", extra={"integration": target.provider, "reason": error.reason_name})
            raise
