"""Azure OpenAI: where requests go, and how they are let through, also by tokens of a real managed identity.

The managed identity is that of App Service, whose endpoint is plain HTTP on the same machine by its own design.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.config import load
from sluice_kit.errors import SluiceError
from sluice_providers import entra
from sluice_providers.colocate import make

from .certificates import certificate
from .format_openai import OPENAI, chunk, text
from .subject import Subject, asking, failure_of, subject, text_of
from .upstream import Connection, Request, Upstream, plain, running_upstream
from .wire_format import KEY

FILTERED = {
    "error": {
        "message": "The response was filtered due to the prompt triggering a policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"violence": {"filtered": True, "severity": "medium"}},
        },
    }
}


@asynccontextmanager
async def azure(upstream: Upstream, folder: Path, **settings: Any) -> AsyncIterator[Subject]:
    """Runs the row against a server that stands for the resource."""
    section = {"adapter": "azure", "azure_endpoint": upstream.url + "/", "api_key": KEY, **settings}
    async with subject("colocated", "vendor", section, folder) as running:
        yield running


async def everything(running: Subject, upstream: Upstream) -> list[Request]:
    """Makes one request of each kind with the deployment `my gpt/5`, and returns what came."""
    target = asking("vendor", "my gpt/5").target
    upstream.answer(OPENAI.stream(text("Hello")))
    assert text_of(await running.generate(asking("vendor", "my gpt/5"))) == "Hello"
    assert OPENAI.embeddings is not None
    upstream.answer(OPENAI.embeddings)
    reply = await running.call("Embed", pb.EmbedRequest(target=target, texts=["a", "bb"]))
    assert [list(row.values) for row in reply.embeddings] == [[1, 0.5], [2, 0.5]]
    upstream.answer(OPENAI.models)
    assert (await running.call("GetStatus", pb.GetStatusRequest(probe=True))).available
    return upstream.requests


async def test_the_interface_without_a_version(upstream: Upstream, tmp_path: Path) -> None:
    async with azure(upstream, tmp_path) as running:
        requests = await everything(running, upstream)
    assert [request.path for request in requests] == [
        "/openai/v1/chat/completions",
        "/openai/v1/embeddings",
        "/openai/v1/models",
    ]
    assert [request.json["model"] for request in requests[:2]] == ["my gpt/5", "my gpt/5"]
    for request in requests:
        assert request.headers["api-key"] == KEY
        assert "authorization" not in request.headers


async def test_the_older_interface_names_deployment_and_version(upstream: Upstream, tmp_path: Path) -> None:
    async with azure(upstream, tmp_path, api_version="2024-10-21") as running:
        requests = await everything(running, upstream)
    assert [request.path for request in requests] == [
        "/openai/deployments/my%20gpt%2F5/chat/completions?api-version=2024-10-21",
        "/openai/deployments/my%20gpt%2F5/embeddings?api-version=2024-10-21",
        "/openai/models?api-version=2024-10-21",
    ]
    for request in requests:
        assert request.headers["api-key"] == KEY
        assert "authorization" not in request.headers


async def test_deployments_are_listed_by_the_configuration_alone(upstream: Upstream, tmp_path: Path) -> None:
    """What the resource lists are models that could be deployed."""
    models = [{"id": "my-gpt", "capabilities": ["streaming"]}]
    async with azure(upstream, tmp_path, models=models) as running:
        listed = await running.call("ListModels", pb.ListModelsRequest())
    assert [model.id for model in listed.models] == ["my-gpt"]
    assert upstream.requests == []


async def test_its_first_chunk_tells_of_filters_only(upstream: Upstream, tmp_path: Path) -> None:
    first = chunk({}, id="", model="", choices=[], prompt_filter_results=[{"prompt_index": 0}])
    upstream.answer(OPENAI.stream([first, *text("Hello")]))
    async with azure(upstream, tmp_path) as running:
        events = await running.generate(asking("vendor", "my-gpt"))
    assert events[0].started.model == OPENAI.model
    assert text_of(events) == "Hello"


async def test_content_that_its_filter_withholds(upstream: Upstream, tmp_path: Path) -> None:
    async with azure(upstream, tmp_path) as running:
        upstream.answer(plain(json.dumps(FILTERED).encode(), 400))
        assert (await failure_of(running, asking("vendor", "my-gpt"))).reason_name == "CONTENT_FILTERED"
        upstream.answer(OPENAI.stream(OPENAI.finished("content_filter")))
        assert (await failure_of(running, asking("vendor", "my-gpt"))).reason_name == "CONTENT_FILTERED"
        upstream.answer(OPENAI.refusal(404, "x", "DeploymentNotFound"))
        assert (await failure_of(running, asking("vendor", "my-gpt"))).reason_name == "MODEL_NOT_FOUND"


async def test_what_is_missing_is_named() -> None:
    servicer, _ = make(load(None, ["providers.azure.adapter=azure"], environ={}), "azure")
    assert list(servicer.adapter.missing()) == ["AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY"]
    words = ["providers.azure.adapter=azure", "providers.azure.auth=entra"]
    servicer, _ = make(load(None, words, environ={}), "azure")
    assert list(servicer.adapter.missing()) == ["AZURE_OPENAI_ENDPOINT"], "a token needs no key"


@dataclass
class Identity:
    """The endpoint of a managed identity: how long its tokens live, or which error it answers with."""

    upstream: Upstream
    seconds: int = 86400
    status: int = 200

    async def play(self, connection: Connection, request: Request) -> None:
        number = len(self.upstream.requests)
        token = {
            "access_token": f"token-{number}",
            "expires_on": str(int(time.time()) + self.seconds),
            "resource": "https://cognitiveservices.azure.com",
            "token_type": "Bearer",
        }
        body = token if self.status == 200 else {"error": "x", "error_description": "hunter2"}
        await plain(json.dumps(body).encode(), self.status)(connection, request)


@pytest.fixture
async def identity(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Identity]:
    # Nothing else on this machine may offer a token.
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    async with running_upstream() as endpoint:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{endpoint.url}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "of-this-machine")
        found = Identity(endpoint)
        endpoint.answer(found.play)
        yield found


@pytest.mark.parametrize("version", ["", "2024-10-21"])
async def test_tokens_of_entra(version: str, identity: Identity, upstream: Upstream, tmp_path: Path) -> None:
    async with azure(upstream, tmp_path, auth="entra", api_version=version) as running:
        requests = await everything(running, upstream)
    for request in requests:
        assert request.headers["authorization"] == "Bearer token-1", "one token serves them all"
        assert "api-key" not in request.headers
    (asked,) = identity.upstream.requests
    assert asked.headers["x-identity-header"] == "of-this-machine"
    assert asked.path == "/msi/token?api-version=2019-08-01&resource=https://cognitiveservices.azure.com"


async def test_a_proxy_and_authorities_of_ones_own_are_for_entra_too(
    identity: Identity, upstream: Upstream, tmp_path: Path
) -> None:
    """A managed identity is asked without the proxy, which serves the vendor."""
    authorities, _ = certificate(tmp_path, "resource.invalid")
    upstream.answer(OPENAI.stream(text("Hello")))
    settings = {"proxy": upstream.url, "azure_endpoint": "http://resource.invalid", "ca_file": str(authorities)}
    async with azure(upstream, tmp_path, auth="entra", **settings) as running:
        assert text_of(await running.generate(asking("vendor", "my-gpt"))) == "Hello"
    assert [request.path for request in upstream.requests] == ["http://resource.invalid/openai/v1/chat/completions"]
    assert len(identity.upstream.requests) == 1


async def test_a_token_that_ends_soon_is_renewed(identity: Identity, upstream: Upstream, tmp_path: Path) -> None:
    identity.seconds = -1
    async with azure(upstream, tmp_path, auth="entra") as running:
        requests = await everything(running, upstream)
    tokens = [request.headers["authorization"] for request in requests]
    assert len(set(tokens)) == len(tokens) == len(identity.upstream.requests)


async def test_no_token_at_all(
    identity: Identity, upstream: Upstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.answer(OPENAI.stream(text("Hello")))
    async with azure(upstream, tmp_path, auth="entra") as running:
        for status in (400, 500):
            identity.status = status
            error = await failure_of(running, asking("vendor", "my-gpt"))
            assert error.reason_name == "INTEGRATION_MISCONFIGURED"
            assert "AZURE_CLIENT_ID" in error.message
            with pytest.raises(SluiceError) as caught:
                await running.call("Embed", pb.EmbedRequest(target=asking("vendor", "e").target, texts=["a"]))
            assert caught.value.reason_name == "INTEGRATION_MISCONFIGURED"
        assert len(identity.upstream.requests) == 4, "nothing is retried here"
        status_reply = await running.call("GetStatus", pb.GetStatusRequest(probe=True))
        assert not status_reply.available
        assert status_reply.last_error == ErrorReason.ERROR_REASON_INTEGRATION_MISCONFIGURED
        identity.status = 200
        assert text_of(await running.generate(asking("vendor", "my-gpt"))) == "Hello"
    assert upstream.requests[-1].headers["authorization"].startswith("Bearer token-")
    assert "hunter2" not in caplog.text + str(status_reply) + error.message


async def test_a_token_that_was_refused_later(identity: Identity, upstream: Upstream, tmp_path: Path) -> None:
    """Once one way to sign in has worked, its own refusal is told as such."""
    identity.seconds = -1
    upstream.answer(OPENAI.stream(text("Hello")))
    async with azure(upstream, tmp_path, auth="entra") as running:
        assert text_of(await running.generate(asking("vendor", "my-gpt"))) == "Hello"
        identity.status = 400
        error = await failure_of(running, asking("vendor", "my-gpt"))
        assert error.reason_name == "UPSTREAM_AUTHENTICATION"
        identity.status = 500
        assert (await failure_of(running, asking("vendor", "my-gpt"))).reason_name == "UPSTREAM_UNAVAILABLE"


async def test_without_the_package_its_extra_is_named(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ModuleNotFoundError(name="azure")

    monkeypatch.setattr(entra, "_load", missing)
    async with azure(upstream, tmp_path, auth="entra") as running:
        status = await running.call("GetStatus", pb.GetStatusRequest(probe=True))
    assert list(status.missing_settings) == ["the package extra sluice-providers[azure]"]
    assert upstream.requests == []
