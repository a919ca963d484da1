"""GitHub Copilot: signing in, what is kept of it, and who gets which token."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import time
from pathlib import Path

import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import SluiceError
from sluice_kit.logs import JsonFormatter

from .github import DEVICE_CODE, GITHUB_PATHS, GITHUB_TOKEN, LOGIN_PATHS, GitHub, ask, reply, sign_in, state
from .subject import asking, failure_of, subject
from .upstream import Connection, Request, Upstream

EDITOR = ("editor-version", "editor-plugin-version", "user-agent")
R = ErrorReason


@pytest.fixture
def github(upstream: Upstream) -> GitHub:
    return GitHub(upstream)


async def hold(connection: Connection, _: Request) -> None:
    await connection.hold()


async def test_from_nothing_to_an_answer(
    transport: str, github: GitHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    github.polls = [state("authorization_pending"), state("authorization_pending")]
    seen: list[pb.SignInResponse] = []
    async with subject(transport, "vendor", github.settings, tmp_path) as running:
        status = await running.call("GetStatus", pb.GetStatusRequest(probe=True))
        assert "sluice login vendor" in status.detail
        assert (await failure_of(running, asking("vendor", "a"))).reason == R.ERROR_REASON_INTEGRATION_MISCONFIGURED
        assert github.upstream.requests == []
        assert await sign_in(running, seen.append) == "octocat"
        challenge = seen[0].step.challenge
        assert (challenge.verification_uri, challenge.user_code) == ("https://github.com/login/device", "WDJB-MJHT")
        assert 600 < challenge.expire_time.ToSeconds() - time.time() < 1200
        assert await ask(running) == "Hello"
        status = await running.call("GetStatus", pb.GetStatusRequest(probe=True))
        assert status.available
        models = (await running.call("ListModels", pb.ListModelsRequest())).models
        assert [model.id for model in models] == ["a", "b", "e"]
        target = asking("vendor", "e").target
        vectors = await running.call("Embed", pb.EmbedRequest(target=target, texts=["a", "bb"], dimensions=2))
        assert [list(row.values) for row in vectors.embeddings] == [[1, 0.5], [2, 0.5]]
        assert vectors.usage.input_tokens == 4
    assert len(github.asked("/login/oauth/access_token")) == 3
    assert len(github.issued) == 1
    kept = tmp_path / "kept" / "token.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert [path.name for path in kept.parent.iterdir()] == ["token.json"]
    assert GITHUB_TOKEN in kept.read_text(encoding="utf-8")
    who_got_what(github)
    secrets = (GITHUB_TOKEN, DEVICE_CODE, *github.issued)
    said = "".join(map(JsonFormatter("providers").format, caplog.records)) + caplog.text
    assert "signed in" in said
    said += str(status) + "".join(map(str, seen))
    assert not [secret for secret in secrets if secret in said]


def who_got_what(github: GitHub) -> None:
    """Every request has its headers, and GitHub's token goes to GitHub alone."""
    for request in github.upstream.requests:
        sent = json.dumps(request.headers) + request.body.decode()
        assert all(request.headers[name].lower().startswith("sluice/") for name in EDITOR)
        if request.path in LOGIN_PATHS:
            assert "authorization" not in request.headers
            assert "client_id=Iv1.b507a08c87ecfe98" in request.body.decode()
        elif request.path in GITHUB_PATHS:
            assert request.headers["authorization"] == f"token {GITHUB_TOKEN}"
            assert not any(token in sent for token in github.issued)
        else:
            assert request.headers["authorization"] == f"Bearer {github.issued[0]}"
            assert GITHUB_TOKEN not in sent
            assert request.headers["copilot-integration-id"] == "vscode-chat"
            assert request.headers["openai-intent"] == "conversation-panel"
            by_person = request.path.endswith("/chat/completions")
            assert request.headers["x-initiator"] == ("user" if by_person else "agent")
            assert "copilot-vision-request" not in request.headers


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("access_denied", "UPSTREAM_PERMISSION"),
        ("expired_token", "UPSTREAM_TIMEOUT"),
        ("device_flow_disabled", "INTEGRATION_MISCONFIGURED"),
        ("incorrect_client_credentials", "INTEGRATION_MISCONFIGURED"),
        ("incorrect_device_code", "UPSTREAM_PROTOCOL_ERROR"),
    ],
)
async def test_a_sign_in_that_fails(word: str, reason: str, transport: str, github: GitHub, tmp_path: Path) -> None:
    github.polls = [state("authorization_pending"), state(word)]
    async with subject(transport, "vendor", github.settings, tmp_path) as running:
        with pytest.raises(SluiceError) as caught:
            await sign_in(running)
        assert caught.value.reason_name == reason
        assert caught.value.metadata["provider"] == "vendor"
        assert "words of the vendor" not in caught.value.message
        assert not (tmp_path / "kept" / "token.json").exists()
        assert await sign_in(running) == "octocat"
        github.polls = [state(word)]
        with pytest.raises(SluiceError):
            await sign_in(running)
        status = await running.call("GetStatus", pb.GetStatusRequest())
        assert status.available, "the credential that is there is as good as before"


@pytest.mark.parametrize(
    ("status", "reason", "word"),
    [(403, "UPSTREAM_PERMISSION", "may not use"), (404, "UPSTREAM_PERMISSION", "may not use"),
     (401, "UPSTREAM_AUTHENTICATION", "sluice login vendor")],
)  # fmt: skip  # one row a status
async def test_an_account_without_copilot(
    status: int, reason: str, word: str, transport: str, github: GitHub, tmp_path: Path
) -> None:
    github.exchange = reply({"message": "words", "error_details": {"notification_id": "no_copilot_access"}}, status)
    async with subject(transport, "vendor", github.settings, tmp_path) as running:
        with pytest.raises(SluiceError) as caught:
            await sign_in(running)
    assert caught.value.reason_name == reason
    assert word in caught.value.message
    assert not (tmp_path / "kept" / "token.json").exists()


async def test_consent_is_kept_while_copilot_is_away(transport: str, github: GitHub, tmp_path: Path) -> None:
    github.exchange = reply({}, 503)
    github.account = reply({}, 500)
    async with subject(transport, "vendor", github.settings, tmp_path) as running:
        assert await sign_in(running) == ""
        assert (await failure_of(running, asking("vendor", "a"))).reason_name == "UPSTREAM_UNAVAILABLE"
        github.exchange = None
        assert await ask(running) == "Hello"


async def test_one_sign_in_at_a_time_and_cancelling_stops_it(transport: str, github: GitHub, tmp_path: Path) -> None:
    github.polls = [hold]
    async with subject(transport, "vendor", github.settings, tmp_path) as running:
        first = asyncio.create_task(sign_in(running))
        await asyncio.wait_for(github.upstream.held.wait(), 60)
        with pytest.raises(SluiceError) as caught:
            await sign_in(running)
        assert caught.value.reason_name == "TOO_MANY_IN_FLIGHT"
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await asyncio.wait_for(github.upstream.peer_closed.wait(), 60)
        polls = len(github.asked("/login/oauth/access_token"))
        assert polls == 1
        assert await sign_in(running) == "octocat"


async def test_the_deadline_of_a_sign_in_holds(transport: str, github: GitHub, tmp_path: Path) -> None:
    github.polls = [hold]
    async with subject(transport, "vendor", github.settings, tmp_path) as running:
        for seconds in (0.3, 3.0, 30.0):  # time enough to be polling, on any machine
            github.polls = [hold]
            with pytest.raises(SluiceError) as caught:
                await sign_in(running, timeout=seconds)
            if github.upstream.held.is_set():
                break
        await asyncio.wait_for(github.upstream.peer_closed.wait(), 60)
    assert caught.value.reason_name == "DEADLINE_EXCEEDED"


async def test_a_file_that_others_may_read_is_refused(transport: str, github: GitHub, tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "token.json"
    async with subject(transport, "vendor", github.settings, tmp_path) as running:
        await sign_in(running)
        kept.chmod(0o640)
        status = await running.call("GetStatus", pb.GetStatusRequest())
        assert status.last_error == R.ERROR_REASON_INTEGRATION_MISCONFIGURED
        assert f"run `chmod 600 {kept}`" in status.detail
        error = await failure_of(running, asking("vendor", "a"))
        assert error.reason_name == "INTEGRATION_MISCONFIGURED"
        assert str(kept) in error.message
        kept.chmod(0o600)
        assert await ask(running) == "Hello"


@pytest.mark.parametrize("contents", [b"", b"{", b"[]", b'{"token": 1}', b'{"token":"a b","host":"x"}', b"\xff\xfe"])
async def test_a_damaged_file_is_said_to_be(contents: bytes, transport: str, github: GitHub, tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "token.json"
    kept.parent.mkdir(0o700)
    kept.write_bytes(contents)
    kept.chmod(0o600)
    async with subject(transport, "vendor", github.settings, tmp_path) as running:
        error = await failure_of(running, asking("vendor", "a"))
        assert error.reason_name == "INTEGRATION_MISCONFIGURED"
        assert f"{kept} is damaged" in error.message
        assert await sign_in(running) == "octocat"
        assert await ask(running) == "Hello"


async def test_where_no_token_can_be_kept_nobody_is_asked_for_consent(
    transport: str, github: GitHub, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("a file where the folder should be", encoding="utf-8")
    async with subject(transport, "vendor", github.settings, tmp_path) as running:
        with pytest.raises(SluiceError) as caught:
            await sign_in(running)
    assert caught.value.reason_name == "INTEGRATION_MISCONFIGURED"
    assert str(tmp_path / "kept") in caught.value.message
    assert github.upstream.requests == []


async def test_a_sign_in_serves_the_other_processes(transport: str, github: GitHub, tmp_path: Path) -> None:
    """Two of one integration share a volume."""
    settings = {**github.settings, "token_file": str(tmp_path / "shared" / "token.json")}
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    async with (
        subject(transport, "vendor", settings, folders[0]) as one,
        subject(transport, "vendor", settings, folders[1]) as two,
    ):
        assert (await failure_of(two, asking("vendor", "a"))).reason_name == "INTEGRATION_MISCONFIGURED"
        await sign_in(one)
        assert await ask(two) == "Hello"
        await sign_in(one)
        assert await ask(two) == "Hello"


async def test_a_token_of_another_host_is_not_used(transport: str, github: GitHub, tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "token.json"
    kept.parent.mkdir(0o700)
    handle = os.open(kept, os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(handle, b'{"token":"gho_other","host":"acme.ghe.com"}')
    os.close(handle)
    async with subject(transport, "vendor", github.settings, tmp_path) as running:
        assert (await failure_of(running, asking("vendor", "a"))).reason_name == "INTEGRATION_MISCONFIGURED"
    assert github.upstream.requests == []
