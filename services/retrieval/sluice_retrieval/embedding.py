"""What models do for retrieval: dense vectors and reranking, by the gateway's EmbeddingService or the local model."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc

from sluice.auth.v1.identity_pb2 import Identity
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import embedding_service_pb2 as pb
from sluice.gateway.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.provider.v1.provider_service_pb2 import EmbedTask
from sluice_kit.channels import open_channel, trace_headers
from sluice_kit.errors import ConfigurationError, from_rpc_error, make_error
from sluice_kit.identity import IDENTITY_KEY, encode
from sluice_kit.peers import GATEWAY
from sluice_kit.tls import MeshTls
from sluice_retrieval.minilm.embedder import DIMENSIONS, MODEL, PROVIDER, LocalEmbedder

_BATCH_TEXTS: Final = 64
_CONCURRENT: Final = 2
_QUERY_SECONDS: Final = 20.0
_DOCUMENT_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """The embedder of a corpus."""

    provider: str
    model: str
    dimensions: int


def why_not_local(provider: str, model: str, dimensions: int) -> str | None:
    """Returns what is wrong with an embedder that names the local provider; None if nothing is."""
    if provider != PROVIDER or (model, dimensions) == (MODEL, DIMENSIONS):
        return None
    return f"the local model is {PROVIDER}/{MODEL} with {DIMENSIONS} dimensions"


class EmbeddingClient:
    """Embeds texts: those of the provider `local` on this machine, others by the gateway.

    Without a gateway's address, the latter raise INTEGRATION_MISCONFIGURED, naming the setting.
    """

    def __init__(self, address: str | None, tls: MeshTls | None = None) -> None:
        """`address` is the gateway's inside the mesh, `tls` the process's mutual TLS."""
        self._address = address
        self._tls = tls
        self._channel: grpc.aio.Channel | None = None
        self._slots = asyncio.Semaphore(_CONCURRENT)
        self._local = LocalEmbedder()

    async def query(self, identity: Identity, spec: EmbedderSpec, text: str) -> list[float]:
        """Returns the vector of a question."""
        if spec.provider == PROVIDER:
            return await self._local.query(text)
        found = await self._embed(identity, spec, [text], EmbedTask.EMBED_TASK_QUERY, _QUERY_SECONDS)
        return found[0]

    async def documents(self, identity: Identity, spec: EmbedderSpec, texts: Sequence[str]) -> list[list[float]]:
        """Returns the vectors of texts, in order."""
        if spec.provider == PROVIDER:
            return await self._local.documents(texts)

        async def batch(at: int) -> list[list[float]]:
            async with self._slots:
                part = texts[at : at + _BATCH_TEXTS]
                return await self._embed(identity, spec, part, EmbedTask.EMBED_TASK_DOCUMENT, _DOCUMENT_SECONDS)

        parts = await asyncio.gather(*(batch(at) for at in range(0, len(texts), _BATCH_TEXTS)))
        return [vector for part in parts for vector in part]

    async def rerank(
        self, identity: Identity, model: str, query: str, texts: Sequence[str], limit: float
    ) -> list[tuple[int, float]]:
        """Returns texts by number with their scores, best first, within `limit` seconds."""
        request = pb.RerankRequest(model=model, query=query, texts=texts)
        try:
            response: pb.RerankResponse = await self._stub().Rerank(
                request, timeout=limit, metadata=((IDENTITY_KEY, encode(identity)), *trace_headers())
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "gateway") from None
        return [(result.index, result.score) for result in response.results]

    async def close(self) -> None:
        """Closes the channel, and ends the local model."""
        await self._local.close()
        if self._channel is not None:
            await self._channel.close()

    async def _embed(
        self, identity: Identity, spec: EmbedderSpec, texts: Sequence[str], task: "EmbedTask.ValueType", limit: float
    ) -> list[list[float]]:
        request = pb.EmbedRequest(
            model=f"{spec.provider}/{spec.model}", texts=texts, dimensions=spec.dimensions, task=task
        )
        try:
            response: pb.EmbedResponse = await self._stub().Embed(
                request, timeout=limit, metadata=((IDENTITY_KEY, encode(identity)), *trace_headers())
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "gateway") from None
        vectors = [list(embedding.values) for embedding in response.embeddings]
        if len(vectors) != len(texts) or any(len(vector) != spec.dimensions for vector in vectors):
            raise make_error(
                ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
                f"the embedder {request.model} did not answer with {len(texts)} vectors of {spec.dimensions} numbers",
                metadata={"provider": spec.provider},
            )
        return vectors

    def _stub(self) -> EmbeddingServiceStub:
        if self._address is None:
            raise ConfigurationError(
                "this needs a model, but the retrieval service knows no gateway to reach it: set retrieval.gateway.address",
                metadata={"setting": "retrieval.gateway.address"},
            )
        if self._channel is None:
            self._channel = open_channel(self._address, tls=self._tls, service=GATEWAY)
        return EmbeddingServiceStub(self._channel)
