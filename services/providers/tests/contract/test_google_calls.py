"""What the Gemini adapter does by its SDK and beside it: vectors, counts, lists of models, keys."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sluice.chat.v1 import usage_pb2
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.config import load
from sluice_kit.errors import SluiceError
from sluice_providers.adapters.google import GoogleAdapter
from sluice_providers.colocate import make

from .asked import TOOL_ROW, full_request
from .format_google import GOOGLE, MODEL, error
from .subject import Subject, asking, subject
from .upstream import Connection, Request, Upstream, plain
from .wire_format import KEY


@pytest.fixture
async def running(transport: str, upstream: Upstream, tmp_path: Path) -> AsyncIterator[Subject]:
    settings = {"adapter": "google", **GOOGLE.settings(upstream.url), "embed_batch": 2}
    async with subject(transport, "vendor", settings, tmp_path) as found:
        yield found


def embedding(model: str, task: pb.EmbedTask.ValueType = pb.EMBED_TASK_UNSPECIFIED) -> pb.EmbedRequest:
    return pb.EmbedRequest(target=asking("vendor", model).target, texts=["a", "bb", "ccc"], task=task)


async def test_embeddings_in_batches_with_their_task(running: Subject, upstream: Upstream) -> None:
    upstream.answer(GOOGLE.embeddings or plain(b""))
    model = "gemini-embedding-001"
    request = embedding(model, pb.EMBED_TASK_DOCUMENT)
    request.dimensions = 2
    found = await running.call("Embed", request)
    assert [list(row.values) for row in found.embeddings] == [[1, 0.5], [2, 0.5], [3, 0.5]]
    assert found.usage == usage_pb2.Usage(input_tokens=6, source=usage_pb2.USAGE_SOURCE_PROVIDER)
    assert found.model == model
    rows = [
        {
            "model": f"models/{model}",
            "content": {"parts": [{"text": text}]},
            "taskType": "RETRIEVAL_DOCUMENT",
            "outputDimensionality": 2,
        }
        for text in ("a", "bb", "ccc")
    ]
    assert [sent.json for sent in upstream.requests] == [{"requests": rows[:2]}, {"requests": rows[2:]}]
    assert upstream.last.path == f"/v1beta/models/{model}:batchEmbedContents"
    assert upstream.connections == 1
    await running.call("Embed", embedding(model, pb.EMBED_TASK_QUERY))
    assert upstream.last.json["requests"][0]["taskType"] == "RETRIEVAL_QUERY"
    await running.call("Embed", embedding(model))
    assert set(upstream.last.json["requests"][0]) == {"model", "content"}


@pytest.mark.parametrize(
    ("task", "texts"),
    [
        (pb.EMBED_TASK_UNSPECIFIED, ["a", "bb"]),
        (pb.EMBED_TASK_QUERY, ["task: search result | query: a", "task: search result | query: bb"]),
        (pb.EMBED_TASK_DOCUMENT, ["title: none | text: a", "title: none | text: bb"]),
    ],
)
async def test_models_without_task_types_are_told_in_words(
    task: pb.EmbedTask.ValueType, texts: list[str], running: Subject, upstream: Upstream
) -> None:
    upstream.answer(GOOGLE.embeddings or plain(b""))
    await running.call("Embed", embedding("gemini-embedding-2", task))
    sent = upstream.requests[0].json["requests"]
    assert [row["content"]["parts"] for row in sent] == [[{"text": text}] for text in texts]
    assert all("taskType" not in row for row in sent)


async def test_vectors_that_do_not_match(running: Subject, upstream: Upstream) -> None:
    for rows in ([], [{"values": [1]}], [{"values": [1]}, {}], [{"values": [1]}, {"values": ["x"]}], 7):
        upstream.answer(plain(json.dumps({"embeddings": rows}).encode()))
        with pytest.raises(SluiceError) as caught:
            await running.call("Embed", embedding("text-embedding-9"))
        assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"


def counting() -> pb.CountTokensRequest:
    request = full_request(GOOGLE)
    return pb.CountTokensRequest(
        target=request.target, messages=request.messages, system_instruction="Be brief.", tools=[TOOL_ROW]
    )


async def test_counting_takes_all_of_the_prompt(running: Subject, upstream: Upstream) -> None:
    upstream.answer(plain(b'{"totalTokens": 2095, "cachedContentTokenCount": 3}'))
    counted = await running.call("CountTokens", counting())
    assert (counted.tokens, counted.kind, counted.margin) == (2095, pb.TOKEN_COUNT_KIND_EXACT, 0)
    assert upstream.last.path == f"/v1beta/models/{MODEL}:countTokens"
    assert upstream.last.headers["x-goog-api-key"] == KEY
    prompt = upstream.last.json["generateContentRequest"]
    assert set(upstream.last.json) == {"generateContentRequest"}
    assert set(prompt) == {"model", "contents", "systemInstruction", "tools"}
    assert prompt["model"] == f"models/{MODEL}"
    upstream.answer(plain(b"{}"))
    assert (await running.call("CountTokens", counting())).tokens == 0
    for body in (b"[]", b'{"totalTokens": "many"}'):
        upstream.answer(plain(body))
        with pytest.raises(SluiceError) as caught:
            await running.call("CountTokens", counting())
        assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"
    free = counting()
    free.tools.add().custom.name = "free"
    assert (await running.call("CountTokens", free)).kind == pb.TOKEN_COUNT_KIND_ESTIMATED


async def test_counting_while_the_vendor_cannot(running: Subject, upstream: Upstream) -> None:
    upstream.answer(plain(json.dumps(error("busy", "UNAVAILABLE", 503)).encode(), 503))
    assert (await running.call("CountTokens", counting())).kind == pb.TOKEN_COUNT_KIND_ESTIMATED
    upstream.answer(plain(json.dumps(error("no", "NOT_FOUND", 404)).encode(), 404))
    with pytest.raises(SluiceError) as caught:
        await running.call("CountTokens", counting())
    assert caught.value.reason_name == "MODEL_NOT_FOUND"


async def test_models_come_in_pages_and_what_they_can_follows_from_their_kind(
    running: Subject, upstream: Upstream
) -> None:
    answers = ["generateContent", "countTokens"]
    names = {
        "gemini-9-pro": (True, answers),
        "gemini-9-flash-image": (None, answers),
        "gemini-9-flash-preview-tts": (None, answers),
        "gemma-4-27b-it": (None, answers),
        "gemini-embedding-001": (None, ["embedContent", "countTokens"]),
        "veo-9": (None, ["predictLongRunning"]),
    }
    rows: list[Any] = [
        {"name": f"models/{name}", "supportedGenerationMethods": actions} | ({"thinking": True} if thinks else {})
        for name, (thinks, actions) in names.items()
    ]

    async def paged(connection: Connection, request: Request) -> None:
        last = "pageToken=two" in request.path
        page = {"models": rows[4:]} if last else {"models": rows[:4], "nextPageToken": "two"}
        await plain(json.dumps(page).encode())(connection, request)

    upstream.answer(paged)
    models = (await running.call("ListModels", pb.ListModelsRequest())).models
    assert len(upstream.requests) == 2
    streaming, tools, structured, images, reasoning, embeddings = (
        model_pb2.CAPABILITY_STREAMING,
        model_pb2.CAPABILITY_TOOLS,
        model_pb2.CAPABILITY_STRUCTURED_OUTPUT,
        model_pb2.CAPABILITY_IMAGES,
        model_pb2.CAPABILITY_REASONING,
        model_pb2.CAPABILITY_EMBEDDINGS,
    )
    assert {model.id: set(model.capabilities) for model in models} == {
        "gemini-9-pro": {streaming, tools, structured, images, reasoning},
        "gemini-9-flash-image": {streaming},
        "gemini-9-flash-preview-tts": {streaming},
        "gemma-4-27b-it": {streaming},
        "gemini-embedding-001": {embeddings},
        "veo-9": set(),
    }
    assert not models[0].HasField("context_window")


async def test_the_sdk_uses_the_proxy_as_configured(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(GOOGLE.models)
    proxy = upstream.url.replace("http://", "http://user:hunter2@")
    settings = {"adapter": "google", "api_key": KEY, "base_url": "http://vendor.invalid", "proxy": proxy}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        await running.call("ListModels", pb.ListModelsRequest())
        assert upstream.last.path.startswith("http://vendor.invalid/v1beta/models?")
        await running.call("GetStatus", pb.GetStatusRequest(probe=True))
        upstream.answer(plain(b"", 302, location="http://elsewhere.invalid/"))
        with pytest.raises(SluiceError) as caught:
            await running.call("ListModels", pb.ListModelsRequest())
        assert caught.value.reason_name == "INTEGRATION_MISCONFIGURED"
        upstream.requests.clear()

        async def broken(connection: Connection, _: Request) -> None:
            connection.reset()

        upstream.answer(broken)
        with pytest.raises(SluiceError) as caught:
            await running.call("Embed", embedding("m"))
        assert caught.value.reason_name == "UPSTREAM_UNAVAILABLE"
        assert len(upstream.requests) == 1, "nothing is retried here"


def google(environ: dict[str, str], **settings: str) -> GoogleAdapter:
    words = [f"providers.gemini.{name}={value}" for name, value in {"adapter": "google", **settings}.items()]
    servicer, _ = make(load(None, words, environ=environ), "gemini")
    assert isinstance(servicer.adapter, GoogleAdapter)
    return servicer.adapter


async def test_either_variable_holds_the_key() -> None:
    both = {"GEMINI_API_KEY": "one", "GOOGLE_API_KEY": "two"}
    for environ, key in ((both, "one"), ({"GOOGLE_API_KEY": "two"}, "two"), ({"GEMINI_API_KEY": "one"}, "one")):
        adapter = google(environ)
        assert adapter.missing() == ()
        assert (await adapter.authorize("", b""))["x-goog-api-key"] == key
    assert google({}).missing() == ("GEMINI_API_KEY",)
    assert google({}).upstream.base_url == "https://generativelanguage.googleapis.com"
    assert "x-goog-api-key" not in await google({}, api_key="").authorize("", b""), "for servers that want none"
