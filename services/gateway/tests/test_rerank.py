"""`EmbeddingService.Rerank`: the order of texts, through the routes, to an adapter that may not offer it."""

from typing import Any

import grpc
import pytest

from sluice.chat.v1.usage_pb2 import UsageSource
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import embedding_service_pb2 as pb
from sluice.gateway.v1 import embedding_service_pb2_grpc as pb_grpc
from sluice_kit.errors import SluiceError, from_rpc_error

R = ErrorReason
TEXTS = ["Nothing of the kind.", "A request may be retried.", "Retries of requests end when content went out."]
QUERY = "When do retries of requests end?"


async def failure_of(client: Any, **fields: Any) -> SluiceError:
    stub: Any = pb_grpc.EmbeddingServiceStub(client.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Rerank(pb.RerankRequest(**fields))
    return from_rpc_error(caught.value)


async def test_the_best_text_comes_first(start: Any, placement: str) -> None:
    async with start(
        {"default_route": "sort", "routes": {"sort": {"targets": ["scripted/rerank"]}}}, placement
    ) as client:
        stub: Any = pb_grpc.EmbeddingServiceStub(client.channel)
        answer = await stub.Rerank(pb.RerankRequest(model="scripted/rerank", query=QUERY, texts=TEXTS))
        assert [result.index for result in answer.results] == [2, 1, 0]
        assert answer.results[0].score == 1.0
        assert answer.results[2].score == 0.0
        assert (answer.target.provider, answer.target.model) == ("scripted", "rerank")
        assert answer.usage.source == UsageSource.USAGE_SOURCE_PROVIDER
        best = await stub.Rerank(pb.RerankRequest(model="sort", query=QUERY, texts=TEXTS, top_n=1))
        assert [result.index for result in best.results] == [2]
        # More than there are is all of them.
        assert len((await stub.Rerank(pb.RerankRequest(model="sort", query="x", texts=["b"], top_n=9))).results) == 1


async def test_an_adapter_that_cannot_says_so(start: Any, placement: str) -> None:
    async with start(placement=placement, providers={"extractive": {}, "scripted": {}}) as client:
        failure = await failure_of(client, model="extractive/quote", query=QUERY, texts=TEXTS)
        assert failure.reason == R.ERROR_REASON_UNSUPPORTED_OPERATION
        assert failure.metadata["operation"] == "Rerank"
        failure = await failure_of(client, model="scripted/echo", query=QUERY, texts=TEXTS)
        assert failure.reason == R.ERROR_REASON_MODEL_NOT_FOUND
        failure = await failure_of(client, model="nobody/rerank", query=QUERY, texts=TEXTS)
        assert failure.reason == R.ERROR_REASON_MODEL_NOT_FOUND


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"query": QUERY, "texts": TEXTS}, "model"),
        ({"model": "scripted/rerank", "texts": TEXTS}, "query"),
        ({"model": "scripted/rerank", "query": QUERY}, "texts"),
        ({"model": "scripted/rerank", "query": QUERY, "texts": ["a", ""]}, "texts[1]"),
        ({"model": "scripted/rerank", "query": QUERY, "texts": TEXTS, "top_n": 0}, "top_n"),
    ],
)
async def test_what_is_wrong_is_named(client: Any, fields: dict[str, Any], field: str) -> None:
    failure = await failure_of(client, **fields)
    assert failure.reason == R.ERROR_REASON_INVALID_REQUEST
    assert [violation.field for violation in failure.violations] == [field]
