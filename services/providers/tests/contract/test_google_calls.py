"""What the Gemini adapter does by its SDK and beside it: vectors, counts, lists of models, keys; and Vertex AI."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sluice.chat.v1 import usage_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.config import ConfigError, load
from sluice_kit.errors import SluiceError
from sluice_providers.adapters.google import GoogleAdapter, GoogleSettings
from sluice_providers.colocate import make

from .asked import TOOL_ROW, full_request
from .format_google import GOOGLE, MODEL, error
from .subject import Subject, asking, failure_of, subject, text_of
from .upstream import Connection, Request, Upstream, plain, running_upstream, stream
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


@pytest.mark.parametrize(
    ("location", "address"),
    [
        ("global", "https://aiplatform.googleapis.com"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com"),
        ("europe-west4", "https://europe-west4-aiplatform.googleapis.com"),
    ],
)
def test_where_vertex_is(location: str, address: str) -> None:
    assert google({}, project="p1", location=location).upstream.base_url == address


def test_a_project_must_be_one() -> None:
    with pytest.raises(ConfigError, match="no name of a project"):
        google({}, project="p/../q")
    with pytest.raises(ValueError, match="no name of a project"):
        GoogleAdapter("g", GoogleSettings(project="p", location="x/y"))


class TokenServer:
    """Gives out tokens for the assertions of a service account, or refuses to."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.refuses = False
        self.seconds = 3600
        upstream.answer(self.play)

    async def play(self, connection: Connection, request: Request) -> None:
        self.upstream.held.set()
        await self.may_answer.wait()
        if self.refuses:
            await plain(b'{"error": "invalid_grant", "error_description": "hunter2"}', 400)(connection, request)
            return
        token = f"ya29.{len(self.upstream.requests)}"
        body = {"access_token": token, "expires_in": self.seconds, "token_type": "Bearer"}
        await plain(json.dumps(body).encode())(connection, request)


@pytest.fixture
async def tokens() -> AsyncIterator[TokenServer]:
    async with running_upstream() as upstream:
        yield TokenServer(upstream)


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, pkcs8, serialization.NoEncryption()).decode()


@pytest.fixture
async def vertex(
    transport: str,
    upstream: Upstream,
    tokens: TokenServer,
    private_key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Subject]:
    account = {
        "type": "service_account",
        "project_id": "elsewhere",
        "private_key_id": "k1",
        "private_key": private_key,
        "client_email": "sluice@elsewhere.example",
        "token_uri": f"{tokens.upstream.url}/token",
    }
    path = tmp_path / "account.json"
    path.write_text(json.dumps(account), encoding="utf-8")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")
    monkeypatch.setenv("GOOGLE_API_KEY", "not-this-one")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    settings = {"adapter": "google", "base_url": upstream.url, "project": "p1", "location": "europe-west4"}
    async with subject(transport, "vendor", settings, tmp_path) as found:
        yield found


PUBLISHED = "/v1beta1/projects/p1/locations/europe-west4/publishers/google/models"


async def test_vertex_answers_and_embeds_and_counts(vertex: Subject, upstream: Upstream, tokens: TokenServer) -> None:
    upstream.answer(stream(GOOGLE.text("Hello")))
    assert text_of(await vertex.generate(asking("vendor", MODEL))) == "Hello"
    assert upstream.last.path == f"{PUBLISHED}/{MODEL}:streamGenerateContent?alt=sse"
    assert upstream.last.json == {"contents": [{"role": "user", "parts": [{"text": "Hello?"}]}]}
    assert upstream.last.headers["authorization"] == "Bearer ya29.1"
    assert upstream.last.headers["x-goog-user-project"] == "payer"
    assert "x-goog-api-key" not in upstream.last.headers
    upstream.answer(plain(b'{"totalTokens": 9}'))
    assert (await vertex.call("CountTokens", counting())).tokens == 9
    assert upstream.last.path == f"{PUBLISHED}/{MODEL}:countTokens"
    assert set(upstream.last.json) == {"contents", "systemInstruction", "tools"}
    rows = [{"embeddings": {"values": [1.0, 0.5], "statistics": {"token_count": 2}}} for _ in range(3)]
    upstream.answer(plain(json.dumps({"predictions": rows}).encode()))
    reply = await vertex.call("Embed", embedding("text-embedding-005", pb.EMBED_TASK_QUERY))
    assert [list(row.values) for row in reply.embeddings] == [[1, 0.5]] * 3
    assert reply.usage.input_tokens == 6
    assert upstream.last.path == f"{PUBLISHED}/text-embedding-005:predict"
    assert upstream.last.json["instances"][0] == {"content": "a", "task_type": "RETRIEVAL_QUERY"}
    vectors = {"embeddings": [{"values": [1.0]}] * 3}
    upstream.answer(plain(json.dumps(vectors).encode()))
    await vertex.call("Embed", embedding("gemini-embedding-001"))
    assert upstream.last.path == f"{PUBLISHED}/gemini-embedding-001:batchEmbedContents"
    assert upstream.last.headers["authorization"] == "Bearer ya29.1"
    (asked,) = tokens.upstream.requests
    claims = parse_qs(asked.body.decode())["assertion"][0].split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["scope"].endswith("/auth/cloud-platform")


async def test_vertex_lists_models(vertex: Subject, upstream: Upstream) -> None:
    names = ["gemini-9-pro", "gemini-embedding-001", "imagen-9"]
    rows = [{"name": f"publishers/google/models/{name}", "versionId": "default"} for name in names]
    upstream.answer(plain(json.dumps({"publisherModels": rows}).encode()))
    models = (await vertex.call("ListModels", pb.ListModelsRequest())).models
    assert upstream.last.path.startswith("/v1beta1/publishers/google/models?")
    assert upstream.last.headers["authorization"] == "Bearer ya29.1"
    assert [model.id for model in models] == names
    assert model_pb2.CAPABILITY_TOOLS in models[0].capabilities
    assert [list(model.capabilities) for model in models[1:]] == [[model_pb2.CAPABILITY_EMBEDDINGS], []]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("publishers/google/models/x", f"{PUBLISHED}/x"),
        ("meta/llama-9", PUBLISHED.replace("google", "meta") + "/llama-9"),
        ("projects/p2/locations/us-east1/endpoints/7", "/v1beta1/projects/p2/locations/us-east1/endpoints/7"),
    ],
)
async def test_models_of_others_on_vertex(model: str, path: str, vertex: Subject, upstream: Upstream) -> None:
    upstream.answer(GOOGLE.reply(GOOGLE.whole))
    await vertex.generate(asking("vendor", model, whole=True))
    assert upstream.last.path == f"{path}:generateContent"


async def test_one_token_is_fetched_for_all_who_wait(vertex: Subject, upstream: Upstream, tokens: TokenServer) -> None:
    tokens.may_answer.clear()
    upstream.answer(plain(b'{"totalTokens": 9}'))
    waiting = [asyncio.create_task(vertex.call("CountTokens", counting())) for _ in range(4)]
    await asyncio.wait_for(tokens.upstream.held.wait(), 10)
    waiting[0].cancel()
    tokens.may_answer.set()
    await asyncio.gather(*waiting[1:])
    assert len(tokens.upstream.requests) == 1
    assert len(upstream.requests) >= 3


async def test_a_token_that_runs_out_is_fetched_anew(vertex: Subject, upstream: Upstream, tokens: TokenServer) -> None:
    tokens.seconds = 1  # which is within the library's margin
    upstream.answer(GOOGLE.reply(GOOGLE.whole))
    for number in (1, 2):
        await vertex.generate(asking("vendor", MODEL, whole=True))
        assert upstream.last.headers["authorization"] == f"Bearer ya29.{number}"


async def test_no_token_is_given_out(vertex: Subject, upstream: Upstream, tokens: TokenServer) -> None:
    tokens.refuses = True
    failed = await failure_of(vertex, asking("vendor", MODEL))
    assert failed.reason_name == "UPSTREAM_AUTHENTICATION"
    assert "hunter2" not in failed.message
    status = await vertex.call("GetStatus", pb.GetStatusRequest(probe=True))
    assert status.last_error == ErrorReason.ERROR_REASON_UPSTREAM_AUTHENTICATION
    assert upstream.requests == []


async def test_vertex_without_credentials_says_so(
    transport: str, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    settings = {"adapter": "google", "base_url": upstream.url, "project": "p1"}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        status = await running.call("GetStatus", pb.GetStatusRequest(probe=True))
        assert not status.available
        assert list(status.missing_settings) == ["GOOGLE_APPLICATION_CREDENTIALS"]
        assert (await failure_of(running, asking("vendor", MODEL))).reason_name == "INTEGRATION_MISCONFIGURED"
        assert (await running.call("CountTokens", counting())).kind == pb.TOKEN_COUNT_KIND_ESTIMATED
