"""What servers of the OpenAI format tell in other forms: usage, finish reasons, models, the order of texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sluice.chat.v1 import event_pb2, usage_pb2
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import SluiceError
from sluice_providers.vendors import VENDORS
from sluice_providers.wire.chat_models import openai_capabilities

from .format_openai import OPENAI, USAGE, chunk, text
from .format_vendors import IMAGES, REASONING, ROWS, STREAMING, STRUCTURED, TOOLS
from .subject import asking
from .test_vendors import vendor
from .upstream import Upstream, plain


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        # xAI counts reasoning apart from the answer.
        (USAGE | {"completion_tokens": 7, "total_tokens": 29}, (19, 4, 10, 3)),
        # DeepSeek and Moonshot tell elsewhere what was cached.
        ({"prompt_tokens": 19, "completion_tokens": 10, "prompt_cache_hit_tokens": 4}, (19, 4, 10, 0)),
        ({"prompt_tokens": 19, "completion_tokens": 10, "cached_tokens": 4}, (19, 4, 10, 0)),
    ],
)
async def test_usage_in_other_forms(
    usage: Mapping[str, Any], counts: tuple[int, ...], upstream: Upstream, tmp_path: Path
) -> None:
    upstream.answer(OPENAI.stream([*text("Hello")[:-2], chunk({}, choices=[], usage=usage), b"data: [DONE]\n\n"]))
    async with vendor(upstream, tmp_path) as running:
        found = (await running.generate(asking("vendor", "m")))[-1].completed.usage
    read = (found.input_tokens, found.cached_input_tokens, found.output_tokens, found.reasoning_tokens)
    assert read == counts


@pytest.mark.parametrize(
    ("word", "mine"), [("eos", "STOP"), ("model_length", "LENGTH"), ("sensitive", "CONTENT_FILTER")]
)
async def test_finish_reasons_of_others(word: str, mine: str, upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(OPENAI.stream(OPENAI.finished(word, "Hello")))
    async with vendor(upstream, tmp_path) as running:
        completed: event_pb2.Completed = (await running.generate(asking("vendor", "m")))[-1].completed
    assert usage_pb2.FinishReason.Name(completed.finish_reason) == f"FINISH_REASON_{mine}"


@pytest.mark.parametrize(
    ("row", "path"), [("groq", "/v1/models"), ("litellm", "/v1/model/info"), ("lmstudio", "/api/v0/models")]
)
async def test_where_models_are_listed(row: str, path: str, upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(ROWS[row].models)
    async with vendor(upstream, tmp_path, row) as running:
        await running.call("ListModels", pb.ListModelsRequest())
        status = await running.call("GetStatus", pb.GetStatusRequest(probe=True))
    assert status.available
    assert [request.path for request in upstream.requests] == [path, path]


async def test_a_list_of_models_that_is_none(upstream: Upstream, tmp_path: Path) -> None:
    async with vendor(upstream, tmp_path) as running:
        for body in (b"{}", b"3", b'{"data": null}', b'{"data": [1]}', b'{"data": [{"id": 5}]}', b"[{}]", b"{no"):
            upstream.answer(plain(body))
            with pytest.raises(SluiceError) as caught:
                await running.call("ListModels", pb.ListModelsRequest())
            assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"


async def test_facts_of_another_type_are_no_facts(upstream: Upstream, tmp_path: Path) -> None:
    row = {
        "id": "a",
        "created": "yesterday",
        "context_length": -1,
        "capabilities": 7,
        "architecture": [],
        "supported_parameters": "tools",
        "meta": {"n_params": True, "size": 2**80},
        "type": None,
    }
    upstream.answer(plain(json.dumps({"data": [row]}).encode()))
    async with vendor(upstream, tmp_path, capabilities=["streaming"]) as running:
        (model,) = (await running.call("ListModels", pb.ListModelsRequest())).models
    source = model_pb2.MODEL_SOURCE_DISCOVERED
    assert model == model_pb2.Model(id="a", source=source, capabilities=[STREAMING])


def test_what_openai_documents_of_its_own_models() -> None:
    everything = frozenset({STREAMING, TOOLS, STRUCTURED, IMAGES, REASONING})
    assert openai_capabilities("gpt-5-mini-2025-08-07") == everything
    assert openai_capabilities("gpt-5.2") == everything
    assert openai_capabilities("gpt-4.1-nano") == everything - {REASONING}
    assert openai_capabilities("gpt-4o-2024-05-13") == {STREAMING, TOOLS, IMAGES}
    assert openai_capabilities("o3-mini") == everything - {IMAGES}
    assert openai_capabilities("text-embedding-3-large") == {model_pb2.CAPABILITY_EMBEDDINGS}
    for other in ("gpt-5-chat-latest", "gpt-5-pro", "gpt-4o-audio-preview", "whisper-1", "gpt-image-1", "o1-mini"):
        assert openai_capabilities(other) == frozenset()


def ranking(*texts: str, **fields: Any) -> pb.RerankRequest:
    return pb.RerankRequest(target=asking("vendor", "ranker").target, query="rain", texts=texts, **fields)


RANKS = [{"index": 1, "relevance_score": 0.25}, {"index": 0, "relevance_score": 0.75, "document": {"text": "a"}}]


@pytest.mark.parametrize(
    ("row", "path"),
    [
        ("dashscope", "/compatible-api/v1/reranks"),
        ("fireworks", "/v1/rerank"),
        ("litellm", "/v1/rerank"),
        ("llamacpp", "/v1/rerank"),
        ("openrouter", "/v1/rerank"),
        ("siliconflow", "/v1/rerank"),
        ("together", "/v1/rerank"),
        ("vllm", "/v1/rerank"),
        ("zhipu", "/v1/rerank"),
    ],
)
@pytest.mark.parametrize(
    "more",
    [
        {"usage": {"prompt_tokens": 12, "total_tokens": 12}, "model": "ranker-2"},
        {"usage": {"total_tokens": 12}, "model": "ranker-2", "id": "r1"},
        {"tokens": {"input_tokens": 12, "output_tokens": 0}, "model": "ranker-2"},
        {"meta": {"billed_units": {"total_tokens": 12}, "tokens": {"input_tokens": 12}}, "model": "ranker-2"},
    ],
    ids=["usage", "total", "tokens", "meta"],
)
async def test_reranking(row: str, path: str, more: dict[str, Any], upstream: Upstream, tmp_path: Path) -> None:
    name = "data" if row == "fireworks" else "results"
    upstream.answer(plain(json.dumps({"object": "list", name: RANKS, **more}).encode()))
    async with vendor(upstream, tmp_path, row) as running:
        reply = await running.call("Rerank", ranking("a", "b"))
        assert upstream.last.json == {"model": "ranker", "query": "rain", "documents": ["a", "b"], "top_n": 2}
        assert upstream.last.headers["authorization"].startswith("Bearer ")
        top = await running.call("Rerank", ranking("a", "b", top_n=1))
    assert (upstream.last.path, upstream.last.json["top_n"]) == (path, 1)
    assert [(result.index, result.score) for result in reply.results] == [(0, 0.75), (1, 0.25)]
    assert [result.index for result in top.results] == [0]
    assert (reply.model, reply.usage.input_tokens) == ("ranker-2", 12)
    assert reply.usage.source == usage_pb2.USAGE_SOURCE_PROVIDER


async def test_reranking_that_is_not_offered_or_not_understood(upstream: Upstream, tmp_path: Path) -> None:
    async with vendor(upstream, tmp_path, "groq") as running:
        with pytest.raises(SluiceError) as caught:
            await running.call("Rerank", ranking("a"))
        assert caught.value.reason_name == "UNSUPPORTED_OPERATION"
    assert upstream.requests == []
    async with vendor(upstream, tmp_path, "vllm") as running:
        for body in (
            b"{}",
            b"[]",
            b"{no",
            b'{"results": [{"index": 0}]}',
            b'{"results": [{"index": 0, "relevance_score": "high"}]}',
            b'{"results": [{"index": 5, "relevance_score": 1}]}',
        ):
            upstream.answer(plain(body))
            with pytest.raises(SluiceError) as caught:
                await running.call("Rerank", ranking("a"))
            assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"
        upstream.answer(OPENAI.refusal(404, "NotFoundError"))
        with pytest.raises(SluiceError) as caught:
            await running.call("Rerank", ranking("a"))
        assert caught.value.reason_name == "MODEL_NOT_FOUND"
        upstream.answer(plain(b'{"results": [{"index": 0, "relevance_score": 1}]}'))
        reply = await running.call("Rerank", ranking("a"))
        assert (reply.model, reply.usage.source) == ("ranker", usage_pb2.USAGE_SOURCE_UNSPECIFIED)


async def test_embeddings_that_a_row_does_not_offer(upstream: Upstream, tmp_path: Path) -> None:
    request = pb.EmbedRequest(target=asking("vendor", "m").target, texts=["a"])
    for row, vendor_row in VENDORS.items():
        if vendor_row.settings.get("embeddings", True):
            continue
        async with vendor(upstream, tmp_path, row) as running:
            with pytest.raises(SluiceError) as caught:
                await running.call("Embed", request)
            assert caught.value.reason_name == "UNSUPPORTED_OPERATION"
    assert upstream.requests == []
