"""GitHub Copilot: signing in, exchanging and renewing tokens, and who gets which of them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from sluice.chat.v1 import message_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.call import Call
from sluice_kit.config import ConfigError
from sluice_kit.errors import SluiceError, from_rpc_error
from sluice_kit.logs import JsonFormatter

from .asked import PNG, TOOL_ROW
from .format_copilot import COPILOT
from .github import DEVICE_CODE, GITHUB_PATHS, GITHUB_TOKEN, LOGIN_PATHS, GitHub, reply, state
from .subject import Subject, asking, failure_of, kinds, subject, text_of
from .upstream import Connection, Request, Upstream
from .wire_format import KEY

EDITOR = ("editor-version", "editor-plugin-version", "user-agent")
R = ErrorReason


@pytest.fixture
def github(upstream: Upstream) -> GitHub:
    return GitHub(upstream)


async def sign_in(running: Subject, take: Callable[[pb.SignInResponse], None] | None = None, **limit: float) -> str:
    """Signs in and returns the account. `take` sees each step."""
    steps: list[pb.SignInResponse] = []

    def send(step: pb.SignInResponse) -> None:
        steps.append(step)
        if take is not None:
            take(step)

    if running._generator is not None:
        call = Call("/test")
        await running._generator.sign_in(pb.SignInRequest(), call.with_timeout(limit.get("timeout", 20.0)), send)
    else:
        try:
            async for step in running._stub.SignIn(pb.SignInRequest(), timeout=limit.get("timeout", 20.0)):
                send(step)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
    assert [step.step.WhichOneof("kind") for step in steps] == ["challenge", "done"]
    return steps[-1].step.done.account


async def ask(running: Subject) -> str:
    return text_of(await running.generate(asking("vendor", COPILOT.model)))


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
        assert 0 < challenge.expire_time.ToSeconds() - time.time() < 900
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
        await asyncio.wait_for(github.upstream.held.wait(), 5)
        with pytest.raises(SluiceError) as caught:
            await sign_in(running)
        assert caught.value.reason_name == "TOO_MANY_IN_FLIGHT"
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await asyncio.wait_for(github.upstream.peer_closed.wait(), 5)
        polls = len(github.asked("/login/oauth/access_token"))
        assert polls == 1
        assert await sign_in(running) == "octocat"


async def test_the_deadline_of_a_sign_in_holds(transport: str, github: GitHub, tmp_path: Path) -> None:
    github.polls = [hold]
    async with subject(transport, "vendor", github.settings, tmp_path) as running:
        with pytest.raises(SluiceError) as caught:
            await sign_in(running, timeout=0.3)
        await asyncio.wait_for(github.upstream.peer_closed.wait(), 5)
    assert caught.value.reason_name == "DEADLINE_EXCEEDED"


async def test_a_token_is_fetched_once_for_all_who_wait(transport: str, github: GitHub, tmp_path: Path) -> None:
    settings = {**github.settings, "api_key": GITHUB_TOKEN}
    github.gate = asyncio.Event()
    async with subject(transport, "vendor", settings, tmp_path) as running:
        asked = [asyncio.create_task(running.outcome(asking("vendor", "a"))) for _ in range(5)]
        while not github.asked("/copilot_internal/v2/token"):  # noqa: ASYNC110 - the server knows no test
            await asyncio.sleep(0.005)
        asked[0].cancel()
        await asyncio.wait(asked, timeout=0.1)
        github.gate.set()
        outcomes = await asyncio.gather(*asked[1:])
    assert [outcome.text for outcome in outcomes] == ["Hello"] * 4
    assert len(github.issued) == 1


async def test_a_token_that_ended_is_replaced(transport: str, github: GitHub, tmp_path: Path) -> None:
    github.life = {"expires_at": 1}
    settings = {**github.settings, "api_key": GITHUB_TOKEN}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        for _ in range(2):
            assert await ask(running) == "Hello"
    used = [request.headers["authorization"] for request in github.asked("/api/chat/completions")]
    assert len(set(used)) == 2
    assert used[-1] == f"Bearer {github.issued[-1]}"


async def test_a_token_that_is_refused_is_replaced_for_the_next_attempt(
    transport: str, github: GitHub, tmp_path: Path
) -> None:
    settings = {**github.settings, "api_key": GITHUB_TOKEN}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        assert await ask(running) == "Hello"
        good, github.chat = github.chat, reply({"error": {"message": "token expired"}}, 401)
        assert (await failure_of(running, asking("vendor", "a"))).reason_name == "UPSTREAM_AUTHENTICATION"
        assert len(github.asked("/api/chat/completions")) == 2, "nothing is retried here"
        assert len(github.issued) == 1
        github.chat = good
        assert await ask(running) == "Hello"
        assert len(github.issued) == 2
        github.models = reply({}, 401)
        with pytest.raises(SluiceError):
            await running.call("ListModels", pb.ListModelsRequest())
        assert await ask(running) == "Hello"
        assert len(github.issued) == 3


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


async def test_a_token_by_configuration_needs_no_sign_in(transport: str, github: GitHub, tmp_path: Path) -> None:
    settings = {**github.settings, "api_key": KEY, "base_url": f"{github.upstream.url}/api"}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        assert await ask(running) == "Hello"
        with pytest.raises(SluiceError) as caught:
            await sign_in(running)
        assert caught.value.reason_name == "INTEGRATION_MISCONFIGURED"
    assert [request.path for request in github.upstream.requests] == ["/api/chat/completions"]
    assert github.upstream.last.headers["authorization"] == f"Bearer {KEY}"


async def test_a_configured_address_wins(transport: str, github: GitHub, tmp_path: Path) -> None:
    github.api = "https://elsewhere.invalid"
    settings = {**github.settings, "api_key": GITHUB_TOKEN, "base_url": f"{github.upstream.url}/api/"}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        assert await ask(running) == "Hello"


@pytest.mark.parametrize("where", ["http://copilot.invalid", "ftp://x.invalid", "https://u:p@x.invalid", "nonsense"])
async def test_an_address_that_is_not_safe_is_not_used(
    where: str, transport: str, github: GitHub, tmp_path: Path
) -> None:
    github.api = where
    settings = {**github.settings, "api_key": GITHUB_TOKEN}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        assert (await failure_of(running, asking("vendor", "a"))).reason_name == "UPSTREAM_PROTOCOL_ERROR"


@pytest.mark.parametrize(
    "answer", [{}, {"token": ""}, {"token": "a\nb", "refresh_in": 5}, {"token": "t"}, {"token": "t", "expires_at": "x"}]
)
async def test_an_exchange_that_is_none(answer: Any, transport: str, github: GitHub, tmp_path: Path) -> None:
    github.exchange = reply(answer)
    settings = {**github.settings, "api_key": GITHUB_TOKEN}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        assert (await failure_of(running, asking("vendor", "a"))).reason_name == "UPSTREAM_PROTOCOL_ERROR"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("base_url", "http://copilot.example"),
        ("github_host", "http://github.example"),
        ("github_host", "github.com/x"),
        ("github_host", ""),
        ("github_host", "u@github.com"),
    ],
)
async def test_settings_that_would_leak_a_token(setting: str, value: str, transport: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=setting):
        async with subject(transport, "vendor", {"adapter": "copilot", setting: value}, tmp_path):
            pass


def test_where_an_enterprise_lives() -> None:
    from sluice_providers.adapters.copilot import _addresses

    assert _addresses("acme.ghe.com") == (
        "https://acme.ghe.com",
        "https://api.acme.ghe.com",
        "https://copilot-api.acme.ghe.com",
    )


async def test_who_speaks_and_whether_there_are_images(transport: str, github: GitHub, tmp_path: Path) -> None:
    settings = {**github.settings, "api_key": GITHUB_TOKEN}
    part = message_pb2.Part
    call = message_pb2.ToolCall(id="c1", name="weather", arguments_json="{}")
    result = message_pb2.ToolResult(call_id="c1", text="sunny")
    async with subject(transport, "vendor", settings, tmp_path) as running:
        request = asking("vendor", "a", tools=[TOOL_ROW])
        request.messages[0].parts.append(part(image=message_pb2.Image(data=PNG, media_type="image/png")))
        await running.generate(request)
        assert github.upstream.last.headers["x-initiator"] == "user"
        assert github.upstream.last.headers["copilot-vision-request"] == "true"
        request.messages.add(role=message_pb2.MESSAGE_ROLE_ASSISTANT, parts=[part(tool_call=call)])
        request.messages.add(role=message_pb2.MESSAGE_ROLE_TOOL, parts=[part(tool_result=result)])
        await running.generate(request)
        assert github.upstream.last.headers["x-initiator"] == "agent"
        assert github.upstream.last.headers["copilot-vision-request"] == "true"


async def test_a_whole_answer_in_several_choices(transport: str, github: GitHub, tmp_path: Path) -> None:
    """Of some models each tool call comes as a choice of its own."""
    whole = json.loads(COPILOT.whole_tools)
    calls = [
        {"id": name, "type": "function", "function": {"name": "weather", "arguments": "{}"}} for name in ("c1", "c2")
    ]
    whole["choices"] = [
        {"finish_reason": "tool_calls", "message": {"role": "assistant", "content": "Looking."}},
        *({"finish_reason": "tool_calls", "message": {"role": "assistant", "tool_calls": [call]}} for call in calls),
    ]
    github.chat = reply(whole)
    settings = {**github.settings, "api_key": GITHUB_TOKEN}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        events = await running.generate(asking("vendor", "a", whole=True))
    assert text_of(events) == "Looking."
    assert [event.tool_call_delta.id for event in events if event.HasField("tool_call_delta")] == ["c1", "c2"]
    assert kinds(events)[-1] == "completed"


async def test_which_models_are_listed(transport: str, github: GitHub, tmp_path: Path) -> None:
    settings = {**github.settings, "api_key": GITHUB_TOKEN, "hidden_models": True, "responses": "always"}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        models = (await running.call("ListModels", pb.ListModelsRequest())).models
        assert [model.id for model in models] == ["a", "b", "codex", "e", "hidden"]
        bodies: tuple[dict[str, Any], ...] = ({}, {"data": [{}]}, {"data": 5})
        for body in bodies:
            github.models = reply(body)
            with pytest.raises(SluiceError) as caught:
                await running.call("ListModels", pb.ListModelsRequest())
            assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"
