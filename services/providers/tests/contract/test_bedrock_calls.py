"""The calls that the SDK makes for Amazon Bedrock: embeddings, ranking, counts, and what their failures mean."""

from __future__ import annotations

import asyncio
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.call import Call
from sluice_kit.errors import SluiceError
from sluice_kit.testing import document_of
from sluice_providers.aws import sdk_failure
from sluice_providers.colocate import create

from .format_bedrock import BEDROCK, models, vectors
from .subject import asking, failure_of, subject
from .test_bedrock_access import settings, signed_by
from .upstream import Connection, Play, Request, Upstream, plain
from .wire_format import KEY


def embedding(model: str, *texts: str, **more: Any) -> pb.EmbedRequest:
    return pb.EmbedRequest(target=asking("vendor", model).target, texts=texts, **more)


async def test_embeddings_of_titan(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(vectors)
    texts = [f"{'x' * index}" for index in range(1, 30)]
    async with subject(transport, "vendor", settings(upstream, embed_concurrency=3), tmp_path) as running:
        reply = await running.call("Embed", embedding("amazon.titan-embed-text-v2:0", *texts, dimensions=256))
        await running.call("Embed", embedding("amazon.titan-embed-text-v1", "a"))
        with pytest.raises(SluiceError) as caught:
            await running.call("Embed", embedding("amazon.titan-embed-text-v1", "a", dimensions=256))
    assert [row.values[0] for row in reply.embeddings] == [len(text) for text in texts]
    assert reply.usage.input_tokens == 2 * len(texts)
    assert upstream.requests[0].path == "/model/amazon.titan-embed-text-v2%3A0/invoke"
    assert {**upstream.requests[0].json, "inputText": ""} == {"inputText": "", "dimensions": 256, "normalize": True}
    assert upstream.last.json == {"inputText": "a"}
    assert upstream.connections <= 4, "no more at a time than the setting says"
    assert [violation.field for violation in caught.value.violations] == ["dimensions"]


async def test_embeddings_of_cohere(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    async def cohere(connection: Connection, request: Request) -> None:
        rows = [[len(text), 0.5] for text in request.json["texts"]]
        reply = {"embeddings": {"float": rows} if "v4" in request.path else rows, "id": "1", "response_type": "x"}
        counted = str(len(rows))
        play = plain(json.dumps(reply).encode(), x_amzn_bedrock_input_token_count=counted)
        await play(connection, request)

    upstream.answer(cohere)
    texts = ["x" * index for index in range(1, 101)]
    query = pb.EMBED_TASK_QUERY
    async with subject(transport, "vendor", settings(upstream), tmp_path) as running:
        reply = await running.call("Embed", embedding("cohere.embed-multilingual-v3", *texts))
        fourth = await running.call("Embed", embedding("eu.cohere.embed-v4:0", "a", dimensions=512, task=query))
    assert [row.values[0] for row in reply.embeddings] == [len(text) for text in texts]
    assert (reply.usage.input_tokens, fourth.usage.input_tokens) == (100, 1)
    assert sorted(len(request.json["texts"]) for request in upstream.requests) == [1, 4, 96]
    assert {request.json["input_type"] for request in upstream.requests[:2]} == {"search_document"}
    assert upstream.last.json == {
        "texts": ["a"],
        "input_type": "search_query",
        "embedding_types": ["float"],
        "output_dimension": 512,
    }


async def test_failures_of_embeddings(upstream: Upstream, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with subject("colocated", "vendor", settings(upstream), tmp_path) as running:
        upstream.answer(BEDROCK.refusal(429, "ThrottlingException", message="hunter2", retry_after="7"))
        with pytest.raises(SluiceError) as caught:
            await running.call("Embed", embedding("amazon.titan-embed-text-v2:0", *"abcdefghijklmnop"))
        assert (caught.value.reason_name, caught.value.retry_after) == ("UPSTREAM_RATE_LIMITED", 7)
        upstream.answer(plain(b'{"embeddings": [[1.0], [2.0]]}'))
        with pytest.raises(SluiceError) as caught:
            await running.call("Embed", embedding("cohere.embed-english-v3", "a"))
        assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"
        with pytest.raises(SluiceError) as caught:
            await running.call("Embed", embedding("amazon.nova-2-multimodal-embeddings-v1:0", "a"))
        assert caught.value.reason_name == "UNSUPPORTED_OPERATION"
        assert "embedding_forms" in caught.value.message
    assert "hunter2" not in caplog.text


async def test_ranking(upstream: Upstream, tmp_path: Path) -> None:
    async def ranked(connection: Connection, request: Request) -> None:
        first = "nextToken" not in request.json
        row = {"index": 1, "relevanceScore": 0.9} if first else {"index": 0, "relevanceScore": 0.1}
        reply = {"results": [row], **({"nextToken": "more"} if first else {})}
        await plain(json.dumps(reply).encode())(connection, request)

    upstream.answer(ranked)
    request = pb.RerankRequest(
        target=asking("vendor", "amazon.rerank-v1:0").target, query="q", texts=["a", "b"], top_n=5
    )
    generator = create(document_of({"providers": {"vendor": settings(upstream)}}, tmp_path), "vendor")
    await generator.start()
    try:
        reply = await generator.rerank(request, Call("/test"))
    finally:
        await generator.close()
    assert [(row.index, round(row.score, 3)) for row in reply.results] == [(1, 0.9), (0, 0.1)]
    sent = upstream.requests[0]
    assert sent.path == "/rerank"
    assert signed_by(sent, KEY, KEY)
    asked = sent.json["rerankingConfiguration"]["bedrockRerankingConfiguration"]
    assert asked == {
        "modelConfiguration": {"modelArn": "arn:aws:bedrock:eu-central-1::foundation-model/amazon.rerank-v1:0"},
        "numberOfResults": 2,
    }
    assert [row["inlineDocumentSource"]["textDocument"]["text"] for row in sent.json["sources"]] == ["a", "b"]


async def test_no_ranking_with_an_api_key(upstream: Upstream, tmp_path: Path) -> None:
    given = settings(upstream, api_key="bedrock-key-1")
    generator = create(document_of({"providers": {"vendor": given}}, tmp_path), "vendor")
    await generator.start()
    try:
        target = asking("vendor", "amazon.rerank-v1:0").target
        with pytest.raises(SluiceError) as caught:
            await generator.rerank(pb.RerankRequest(target=target, query="q", texts=["a"]), Call("/test"))
    finally:
        await generator.close()
    assert caught.value.reason_name == "UNSUPPORTED_OPERATION"
    assert upstream.requests == []


async def test_counting(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    request = asking("vendor", "eu.anthropic.claude-sonnet-4-5-20250929-v1:0")
    counting = pb.CountTokensRequest(target=request.target, messages=request.messages, system_instruction="Be brief.")
    async with subject(transport, "vendor", settings(upstream), tmp_path) as running:
        upstream.answer(plain(b'{"inputTokens": 2095}'))
        counted = await running.call("CountTokens", counting)
        assert (counted.tokens, counted.kind, counted.margin) == (2095, pb.TOKEN_COUNT_KIND_EXACT, 0)
        assert upstream.last.path == "/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/count-tokens"
        assert set(upstream.last.json["input"]["converse"]) == {"messages", "system"}
        for status, kind in ((400, "ValidationException"), (503, "ServiceUnavailableException")):
            upstream.answer(
                BEDROCK.refusal(status, kind, message="The provided model doesn't support counting tokens.")
            )
            assert (await running.call("CountTokens", counting)).kind == pb.TOKEN_COUNT_KIND_ESTIMATED
        for body, status, kind in ((b"{}", 200, "x"), (b"{}", 403, "AccessDeniedException")):
            upstream.answer(plain(body, status, x_amzn_errortype=kind))
            with pytest.raises(SluiceError) as caught:
                await running.call("CountTokens", counting)
            assert caught.value.reason_name in ("UPSTREAM_PROTOCOL_ERROR", "UPSTREAM_PERMISSION")


async def stalled(connection: Connection, _: Request) -> None:
    await connection.hold()


async def reset(connection: Connection, _: Request) -> None:
    connection.reset()


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (stalled, "UPSTREAM_TIMEOUT"),
        (reset, "UPSTREAM_UNAVAILABLE"),
        (plain(b"{not json"), "UPSTREAM_PROTOCOL_ERROR"),
        (plain(b"", 301, location="http://127.0.0.1:1/"), "INTEGRATION_MISCONFIGURED"),
        (plain(b"<html>", 502, "text/html"), "UPSTREAM_UNAVAILABLE"),
        (BEDROCK.refusal(403, "AccessDeniedException"), "UPSTREAM_PERMISSION"),
        (BEDROCK.refusal(400, "ServiceQuotaExceededException"), "UPSTREAM_QUOTA_EXHAUSTED"),
    ],
    ids=["stall", "reset", "no-json", "redirect", "html", "permission", "quota"],
)
async def test_failures_of_the_sdk_are_told_apart(play: Play, reason: str, upstream: Upstream, tmp_path: Path) -> None:
    """And made once: nothing is tried again."""
    upstream.answer(play)
    limit = 0.5 if play is stalled else 30
    document = document_of({"providers": {"vendor": settings(upstream, call_seconds=limit)}}, tmp_path)
    servicer: Any = create(document, "vendor")
    await servicer.start()
    try:
        with pytest.raises(Exception) as caught:
            await servicer.adapter.ping()
        told = caught.value
        found = told if isinstance(told, SluiceError) else servicer.adapter.failure(told)
    finally:
        await servicer.close()
    assert found.reason_name == reason
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("ConnectTimeoutError", {"endpoint_url": "hunter2"}, "UPSTREAM_TIMEOUT"),
        ("EndpointConnectionError", {"endpoint_url": "hunter2"}, "UPSTREAM_UNAVAILABLE"),
        ("ProxyConnectionError", {"proxy_url": "hunter2"}, "UPSTREAM_UNAVAILABLE"),
        ("SSLError", {"endpoint_url": "x", "error": "hunter2"}, "UPSTREAM_UNAVAILABLE"),
        ("ParamValidationError", {"report": "hunter2"}, "UPSTREAM_INVALID_ARGUMENT"),
        ("IncompleteReadError", {"actual_bytes": 1, "expected_bytes": 2}, "UPSTREAM_PROTOCOL_ERROR"),
    ],
)
def test_other_exceptions_of_the_sdk(name: str, arguments: dict[str, Any], reason: str) -> None:
    error = getattr(importlib.import_module("botocore.exceptions"), name)(**arguments)
    found = sdk_failure(error, "vendor")
    assert found is not None
    assert found.reason_name == reason
    assert "hunter2" not in str(found)
    assert sdk_failure(ValueError("x"), "vendor") is None


async def test_a_call_that_is_given_up_holds_nobody_up(upstream: Upstream, tmp_path: Path) -> None:
    """Its thread goes on until the vendor hangs up; the loop, and a second call, do not wait for it."""
    upstream.answer(stalled)
    async with subject("colocated", "vendor", settings(upstream, call_seconds=50), tmp_path) as running:
        task = asyncio.create_task(running.call("ListModels", pb.ListModelsRequest()))
        await asyncio.wait_for(upstream.held.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        upstream.answer(models)
        assert (await running.call("ListModels", pb.ListModelsRequest())).models


async def test_a_model_that_does_not_exist(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    told = json.dumps({"message": "The provided model identifier is invalid."}).encode()
    upstream.answer(plain(told, 400, x_amzn_errortype="ValidationException"))
    async with subject(transport, "vendor", settings(upstream), tmp_path) as running:
        error = await failure_of(running, asking("vendor", "no.such-model"))
    assert (error.reason_name, error.metadata["model"]) == ("MODEL_NOT_FOUND", "vendor/no.such-model")
