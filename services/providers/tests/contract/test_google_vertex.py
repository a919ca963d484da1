"""The Gemini adapter on Vertex AI: addresses, and tokens from application-default credentials."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.config import ConfigError
from sluice_providers.adapters.google import GoogleAdapter, GoogleSettings

from .format_google import GOOGLE, MODEL
from .subject import Subject, asking, failure_of, subject, text_of
from .test_google_calls import counting, embedding, google
from .upstream import Connection, Request, Upstream, plain, running_upstream, stream


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
    await asyncio.wait_for(tokens.upstream.held.wait(), 60)
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
