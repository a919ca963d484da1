"""GitHub Copilot behind the sign-in: tokens exchanged and renewed, addresses, headers, answers and models."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sluice.chat.v1 import message_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.config import ConfigError
from sluice_kit.errors import SluiceError
from sluice_providers.adapters.copilot import _addresses

from .asked import PNG, TOOL_ROW
from .format_copilot import COPILOT
from .github import GITHUB_TOKEN, GitHub, ask, reply, sign_in
from .subject import asking, failure_of, kinds, subject, text_of
from .upstream import Upstream
from .wire_format import KEY


@pytest.fixture
def github(upstream: Upstream) -> GitHub:
    return GitHub(upstream)


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
        ("azure_endpoint", "https://a.openai.azure.com"),
    ],
)
async def test_settings_that_would_leak_a_token(setting: str, value: str, transport: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=setting):
        async with subject(transport, "vendor", {"adapter": "copilot", setting: value}, tmp_path):
            pass


def test_where_an_enterprise_lives() -> None:
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


async def test_reasoning_goes_back_to_who_made_it(transport: str, github: GitHub, tmp_path: Path) -> None:
    """A loop with tools goes on thinking where it stopped; a state of others is left out."""
    assert COPILOT.reasoning is not None
    github.chat = COPILOT.stream(COPILOT.reasoning)
    settings = {**github.settings, "api_key": GITHUB_TOKEN}
    part, reasoning = message_pb2.Part, message_pb2.Reasoning
    async with subject(transport, "vendor", settings, tmp_path) as running:
        events = await running.generate(asking("vendor", "b"))
        state = b"".join(event.reasoning_delta.state for event in events)
        request = asking("vendor", "b", system_instruction="Be brief.")
        request.messages.add(
            role=message_pb2.MESSAGE_ROLE_ASSISTANT,
            parts=[part(reasoning=reasoning(text="Theirs.", provider="other", state=b"zzz")), part(text="No.")],
        )
        request.messages.add(
            role=message_pb2.MESSAGE_ROLE_ASSISTANT,
            parts=[
                part(reasoning=reasoning(text="Let me think.", provider="vendor", state=state)),
                part(tool_call=message_pb2.ToolCall(id="c1", name="weather", arguments_json="{}")),
            ],
        )
        result = message_pb2.ToolResult(call_id="c1", text="sunny")
        request.messages.add(role=message_pb2.MESSAGE_ROLE_TOOL, parts=[part(tool_result=result)])
        await running.generate(request)
        first, second = (one for one in github.upstream.last.json["messages"] if one["role"] == "assistant")
        assert not [name for name in first if "reasoning" in name]
        assert (second["reasoning_text"], second["reasoning_opaque"]) == ("Let me think.", "ErIC+/==")
        request.messages[2].parts[0].reasoning.state = b"garbage"
        error = await failure_of(running, request)
        assert [violation.field for violation in error.violations] == ["messages[2].parts"]


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
