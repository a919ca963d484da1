"""Reads the replies of the OpenAI format that hold no answer: vectors, and texts in their order."""

from typing import Any, Final

import msgspec

from sluice.chat.v1 import usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_providers.failures import protocol_error


class _Vector(msgspec.Struct, gc=False):
    index: int
    embedding: list[float]


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens: int | None = None


class _Vectors(msgspec.Struct, gc=False):
    data: list[_Vector]
    model: str | None = None
    usage: _Usage | None = None


class _Rank(msgspec.Struct, gc=False):
    index: int
    relevance_score: float


class _Meta(msgspec.Struct, gc=False):
    tokens: _Usage | None = None


class _Ranks(msgspec.Struct, gc=False):
    results: list[_Rank] | None = None
    data: list[_Rank] | None = None
    model: str | None = None
    usage: _Usage | None = None
    tokens: _Usage | None = None
    meta: _Meta | None = None


_decode_vectors: Final = msgspec.json.Decoder(_Vectors).decode


def add_vectors(integration: str, payload: bytes, count: int, response: pb.EmbedResponse) -> None:
    """Adds the vectors of `count` texts, in their order. Raises msgspec.DecodeError, SluiceError."""
    reply = _decode_vectors(payload)
    rows = sorted(reply.data, key=lambda row: row.index)
    if [row.index for row in rows] != list(range(count)):
        raise protocol_error(integration, "the vectors do not match the texts")
    for row in rows:
        response.embeddings.add(values=row.embedding)
    if reply.usage is not None:
        response.usage.input_tokens += reply.usage.prompt_tokens or reply.usage.total_tokens or 0
        response.usage.source = usage_pb2.USAGE_SOURCE_PROVIDER
    response.model = reply.model or response.model


def read_ranks(integration: str, body: Any, model: str) -> pb.RerankResponse:
    """Returns the order of texts. `model` is the one asked, for servers that do not name it.

    The form is Cohere's and Jina's, which the others have taken over, some with `data` for `results`; tokens stand in
    `usage`, `tokens` or `meta`. Raises msgspec.DecodeError, SluiceError.
    """
    reply = msgspec.convert(body, _Ranks)
    rows = reply.results if reply.results is not None else reply.data
    if rows is None:
        raise protocol_error(integration, "a reply without an order of texts")
    response = pb.RerankResponse(model=reply.model or model)
    for row in rows:
        response.results.add(index=row.index, score=row.relevance_score)
    counted = reply.usage or reply.tokens or (reply.meta.tokens if reply.meta is not None else None)
    tokens = (counted.prompt_tokens or counted.total_tokens or counted.input_tokens) if counted is not None else None
    if tokens:
        response.usage.input_tokens = tokens
        response.usage.source = usage_pb2.USAGE_SOURCE_PROVIDER
    return response
