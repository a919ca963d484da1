"""Credentials of AWS and what is signed with them, by whichever way a request goes out."""

from __future__ import annotations

import asyncio
import datetime
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.call import Call
from sluice_kit.config import ConfigError, load
from sluice_kit.testing import document_of
from sluice_providers.adapters.bedrock import BedrockAdapter, BedrockSettings
from sluice_providers.aws import Aws
from sluice_providers.colocate import create

from .format_bedrock import BEDROCK, models, vectors
from .subject import asking, failure_of, subject, text_of
from .upstream import Request, Upstream, plain
from .wire_format import KEY

ARN = "arn:aws:bedrock:eu-central-1:123456789012:application-inference-profile/abc123"
HOUR = datetime.timedelta(hours=1)


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials of whoever runs the tests, and no address of the network is asked for some."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


def settings(upstream: Upstream, **more: Any) -> dict[str, Any]:
    return {"adapter": "bedrock", **BEDROCK.settings(upstream.url), **more}


def by_chain(upstream: Upstream, **more: Any) -> dict[str, Any]:
    """Settings without keys of their own."""
    given = {name: value for name, value in settings(upstream).items() if value != KEY}
    given |= {"credential_chain": True, **more}
    return {name: value for name, value in given.items() if value is not None}


def signed_by(request: Request, access: str, secret: str, token: str | None = None) -> bool:
    """Tells whether the signature of a request as it came is right, made anew from what came."""
    scheme, _, rest = request.headers["authorization"].partition(" ")
    fields = dict(row.strip().split("=", 1) for row in rest.split(","))
    names = fields["SignedHeaders"].split(";")
    assert scheme == "AWS4-HMAC-SHA256"
    assert {"host", "x-amz-date"} <= set(names)
    assert ("x-amz-security-token" in names) == (token is not None)
    assert request.headers.get("x-amz-security-token") == token
    assert fields["Credential"] == f"{access}/{request.headers['x-amz-date'][:8]}/eu-central-1/bedrock/aws4_request"
    headers = {name: request.headers[name] for name in names}
    again = AWSRequest(request.method, f"http://{headers['host']}{request.path}", headers, request.body)
    again.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(Credentials(access, secret, token), "bedrock", "eu-central-1")
    return signer.signature(signer.string_to_sign(again, signer.canonical_request(again)), again) == fields["Signature"]


@pytest.mark.parametrize("model", [BEDROCK.model, ARN, "amazon.nova-micro-v1"])
async def test_every_request_is_signed_as_it_is_sent(
    model: str, transport: str, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.answer(BEDROCK.stream(BEDROCK.text("Hello")))
    given = settings(upstream, session_token="token-1", headers={"X-Team": "blue"})
    async with subject(transport, "vendor", given, tmp_path) as running:
        await running.generate(asking("vendor", model, "Ærø"))
        upstream.answer(plain(BEDROCK.whole))
        await running.generate(asking("vendor", model, "x" * 2_000_000, whole=True))
        upstream.answer(plain(b'{"inputTokens": 3}'))
        request = asking("vendor", model)
        await running.call("CountTokens", pb.CountTokensRequest(target=request.target, messages=request.messages))
    assert len(upstream.requests) == 3
    for request_ in upstream.requests:
        assert signed_by(request_, KEY, KEY, "token-1")
        assert not signed_by(request_, KEY, "another", "token-1")
        assert request_.headers["x-team"] == "blue"
    assert "content-type" in upstream.requests[0].headers["authorization"]
    assert ":" in upstream.requests[0].path or model == "amazon.nova-micro-v1"


async def test_an_api_key(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    async with subject(transport, "vendor", by_chain(upstream, api_key="bedrock-key-1"), tmp_path) as running:
        upstream.answer(BEDROCK.stream(BEDROCK.text("Hello")))
        assert text_of(await running.generate(asking("vendor", BEDROCK.model))) == "Hello"
        upstream.answer(models)
        await running.call("ListModels", pb.ListModelsRequest())
    assert len(upstream.requests) == 4
    for request in upstream.requests:
        assert request.headers["authorization"] == "Bearer bedrock-key-1"
        assert "x-amz-date" not in request.headers


async def test_keys_of_the_settings_are_used_whatever_the_environment_holds(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "of-somebody-else")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-somebody-else")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-somebody-else")
    async with subject("colocated", "vendor", settings(upstream, api_key=""), tmp_path) as running:
        upstream.answer(models)
        await running.call("ListModels", pb.ListModelsRequest())
    assert all(signed_by(request, KEY, KEY) for request in upstream.requests)


class Process:
    """A program that hands out credentials, as the shared files may name one; it notes how often it ran."""

    def __init__(self, folder: Path, lasting: datetime.timedelta, gate: Path | None = None) -> None:
        self.log = folder / "log"
        self.log.touch()
        wait = f"open({str(gate)!r}).read()" if gate else "pass"
        until = (datetime.datetime.now(datetime.UTC) + lasting).isoformat()
        script = folder / "hand_out.py"
        script.write_text(
            f"import json\nopen({str(self.log)!r}, 'a').write('x')\nn = len(open({str(self.log)!r}).read())\n{wait}\n"
            "print(json.dumps({'Version': 1, 'AccessKeyId': f'key-{n}', 'SecretAccessKey': f'secret-{n}',"
            f"'SessionToken': f'token-{{n}}', 'Expiration': {until!r}}}))\n"
        )
        (folder / "config").write_text(
            f"[profile team]\nregion = eu-central-1\ncredential_process = {sys.executable} {script}\n"
        )

    @property
    def runs(self) -> int:
        return len(self.log.read_text())


async def test_a_profile_with_its_region(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    process = Process(tmp_path, HOUR)
    upstream.answer(BEDROCK.stream(BEDROCK.text("Hello")))
    async with subject(transport, "vendor", by_chain(upstream, profile="team", region=None), tmp_path) as running:
        for _ in range(3):
            await running.generate(asking("vendor", BEDROCK.model))
        upstream.answer(models)
        await running.call("ListModels", pb.ListModelsRequest())
    assert process.runs == 1
    assert all(signed_by(request, "key-1", "secret-1", "token-1") for request in upstream.requests)


async def test_credentials_are_renewed_once_for_all_who_wait(upstream: Upstream, tmp_path: Path) -> None:
    process = Process(tmp_path, datetime.timedelta(seconds=60))
    upstream.answer(BEDROCK.stream(BEDROCK.text("Hello")))
    async with subject("colocated", "vendor", by_chain(upstream, profile="team"), tmp_path) as running:
        await running.generate(asking("vendor", BEDROCK.model))
        before = process.runs
        outcomes = await asyncio.gather(*(running.outcome(asking("vendor", BEDROCK.model)) for _ in range(5)))
    assert [outcome.text for outcome in outcomes] == ["Hello"] * 5
    assert process.runs == before + 1
    last = f"-{process.runs}"
    assert all(signed_by(request, f"key{last}", f"secret{last}", f"token{last}") for request in upstream.requests[1:])


async def test_while_the_old_ones_are_good_nobody_waits_for_new_ones(upstream: Upstream, tmp_path: Path) -> None:
    """They end in twelve minutes: the SDK would like new ones, and insists on them only from ten on."""
    process = Process(tmp_path, datetime.timedelta(minutes=12))
    upstream.answer(BEDROCK.stream(BEDROCK.text("Hello")))
    async with subject("colocated", "vendor", by_chain(upstream, profile="team"), tmp_path) as running:
        await running.generate(asking("vendor", BEDROCK.model))
        known = process.runs
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        Process(tmp_path, datetime.timedelta(minutes=12), gate)
        assert text_of(await running.generate(asking("vendor", BEDROCK.model))) == "Hello"
        await asyncio.to_thread(gate.write_text, "go")
    assert signed_by(upstream.last, f"key-{known}", f"secret-{known}", f"token-{known}")


async def test_nothing_waits_for_the_chain_but_who_needs_it(upstream: Upstream, tmp_path: Path) -> None:
    """The loop goes on: the service starts, and says how it is, while a program still looks for credentials."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    Process(tmp_path, HOUR, gate)
    upstream.answer(BEDROCK.stream(BEDROCK.text("Hello")))
    async with subject("colocated", "vendor", by_chain(upstream, profile="team"), tmp_path) as running:
        attempt = asyncio.create_task(running.outcome(asking("vendor", BEDROCK.model)))
        status = await running.call("GetStatus", pb.GetStatusRequest())
        assert list(status.missing_settings) == []
        assert not attempt.done()
        assert upstream.requests == []
        await asyncio.to_thread(gate.write_text, "go")
        assert (await attempt).text == "Hello"


async def test_the_sdk_never_runs_in_the_thread_of_the_loop(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = threading.current_thread()
    seen: list[threading.Thread] = []
    kept = Aws._client

    def watched(self: Aws, *given: Any) -> Any:
        client = kept(self, *given)
        client.meta.events.register("before-send", lambda **_: seen.append(threading.current_thread()))
        return client

    monkeypatch.setattr(Aws, "_client", watched)
    async with subject("colocated", "vendor", settings(upstream), tmp_path) as running:
        upstream.answer(models)
        await running.call("ListModels", pb.ListModelsRequest())
        upstream.answer(vectors)
        target = asking("vendor", "embedding-model").target
        await running.call("Embed", pb.EmbedRequest(target=target, texts=["a", "bb"]))
    assert len(seen) == 5
    assert own not in seen


async def test_credentials_that_cannot_be_renewed(upstream: Upstream, tmp_path: Path) -> None:
    Process(tmp_path, datetime.timedelta(seconds=60))
    upstream.answer(BEDROCK.stream(BEDROCK.text("Hello")))
    async with subject("colocated", "vendor", by_chain(upstream, profile="team"), tmp_path) as running:
        await running.generate(asking("vendor", BEDROCK.model))
        (tmp_path / "hand_out.py").write_text("raise SystemExit('hunter2')")
        error = await failure_of(running, asking("vendor", BEDROCK.model))
        assert error.reason == ErrorReason.ERROR_REASON_UPSTREAM_AUTHENTICATION
        assert "hunter2" not in str(error)
        Process(tmp_path, HOUR)
        assert text_of(await running.generate(asking("vendor", BEDROCK.model))) == "Hello"


@pytest.mark.parametrize(
    ("given", "environment", "names"),
    [
        ({"region": None}, {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, ["AWS_REGION"]),
        ({}, {}, ["AWS_ACCESS_KEY_ID or AWS_PROFILE or AWS_BEARER_TOKEN_BEDROCK"]),
        ({"credential_chain": False}, {}, ["AWS_ACCESS_KEY_ID or AWS_BEARER_TOKEN_BEDROCK"]),
        ({}, {"AWS_ACCESS_KEY_ID": "a"}, ["AWS_SECRET_ACCESS_KEY"]),
        ({"access_key_id": "a"}, {}, ["AWS_SECRET_ACCESS_KEY"]),
        ({"access_key_id": "${MY_ID}", "secret_access_key": "b"}, {}, ["MY_ID"]),
        ({"profile": "nobody"}, {}, ["AWS_PROFILE (there is no profile nobody)"]),
        ({"region": None}, {"AWS_BEARER_TOKEN_BEDROCK": "k", "AWS_DEFAULT_REGION": "us-west-2"}, []),
        ({"region": None}, {"AWS_BEARER_TOKEN_BEDROCK": "k", "AWS_REGION": "us-west-2"}, []),
    ],
)
async def test_what_is_missing_is_named(
    given: dict[str, Any],
    environment: dict[str, str],
    names: list[str],
    upstream: Upstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    document_of({"providers": {"vendor": by_chain(upstream, **given)}}, tmp_path)
    generator = create(load(tmp_path / "sluice.yaml", environ=environment), "vendor")
    await generator.start()
    try:
        await asyncio.gather(*(task for task in asyncio.all_tasks() if "_find" in repr(task)))
        status = await generator.get_status(pb.GetStatusRequest(), Call("/test"))
    finally:
        await generator.close()
    assert list(status.missing_settings) == names
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("region", "url"),
    [
        ("eu-central-1", "https://bedrock-runtime.eu-central-1.amazonaws.com"),
        ("cn-north-1", "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "https://bedrock-runtime.us-gov-west-1.amazonaws.com"),
        ("eu-newest-9", "https://bedrock-runtime.eu-newest-9.amazonaws.com"),
    ],
)
async def test_the_address_follows_the_region(region: str, url: str) -> None:
    adapter = BedrockAdapter("vendor", BedrockSettings(region=region, credential_chain=False))
    await adapter.start()
    await adapter.close()
    assert adapter.upstream.base_url == url


async def test_a_proxy_is_used_as_configured(upstream: Upstream, tmp_path: Path) -> None:
    """By the SDK, too. The vendor's name never leaves this machine in the test."""
    away = "http://vendor.invalid"
    proxy = upstream.url.replace("http://", "http://user:hunter2@")
    given = settings(upstream, base_url=away, control_url=away, proxy=proxy)
    async with subject("colocated", "vendor", given, tmp_path) as running:
        upstream.answer(BEDROCK.stream(BEDROCK.text("Hello")))
        assert text_of(await running.generate(asking("vendor", BEDROCK.model))) == "Hello"
        upstream.answer(plain(b'{"modelSummaries": [], "inferenceProfileSummaries": []}'))
        await running.call("ListModels", pb.ListModelsRequest())
    assert len(upstream.requests) == 3
    for request in upstream.requests:
        assert request.path.startswith("http://vendor.invalid/")
        assert request.headers["proxy-authorization"].startswith("Basic ")


async def test_a_region_that_is_none(upstream: Upstream, tmp_path: Path) -> None:
    async with subject("colocated", "vendor", settings(upstream, region="evil.example/"), tmp_path) as running:
        status = await running.call("GetStatus", pb.GetStatusRequest())
    assert list(status.missing_settings) == ["AWS_REGION (what it holds is no name of a region)"]


async def test_without_the_sdk_the_extra_is_named(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    async with subject("colocated", "vendor", settings(upstream), tmp_path) as running:
        status = await running.call("GetStatus", pb.GetStatusRequest())
        error = await failure_of(running, asking("vendor", BEDROCK.model))
    assert list(status.missing_settings) == ["the package extra sluice-providers[bedrock]"]
    assert error.reason_name == "INTEGRATION_MISCONFIGURED"


def test_addresses_hold_no_passwords(upstream: Upstream, tmp_path: Path) -> None:
    for name in ("base_url", "control_url", "agent_url"):
        given = settings(upstream) | {name: "http://user:hunter2@127.0.0.1"}
        with pytest.raises(ConfigError) as caught:
            create(document_of({"providers": {"vendor": given}}, tmp_path), "vendor")
        assert "hunter2" not in str(caught.value)
