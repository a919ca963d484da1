"""The operator's default model, where nothing that a request names can be used."""

from pathlib import Path
from typing import Any

import pytest

from sluice.chat.v1 import event_pb2 as ev
from sluice.chat.v1.target_pb2 import Target
from sluice.chat.v1.tool_pb2 import FunctionTool, Tool
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.gateway.v1 import integration_service_pb2 as integration_pb
from sluice.gateway.v1 import integration_service_pb2_grpc as integration_grpc
from sluice_kit.call import Call
from sluice_kit.config import ConfigError
from sluice_kit.testing import document_of, make_service, mesh, running

from .talking import NAME, Talker

R = ErrorReason
DEFAULT = "scripted/text?tokens=3"
WORDS = "the mesh answers"
ROUTES = {
    "default": {"targets": ["scripted/echo"]},
    "absent": {"targets": ["nobody/x", "nowhere/y"]},
    "spare": {"targets": ["scripted/text?fault=UPSTREAM_AUTHENTICATION", DEFAULT]},
}


def settings(folder: Path, default: str = DEFAULT, **more: Any) -> dict[str, Any]:
    return {
        "default_model": default,
        "routes": ROUTES,
        "resilience": {"retry": {"initial_seconds": 0.001}},
        "limits": {"retries": 0},
        "integrations": {"down": {"address": f"unix:{folder}/nobody.sock"}},
        "registration": {"allow": [f"unix:{folder}/*.sock"]},
        **more,
    }


PROVIDERS = {
    "scripted": {"adapter": "scripted"},
    "unset": {"adapter": "scripted", "missing": ["API_KEY"]},
}


def told(seen: Any) -> tuple[str, str]:
    """What the notice of a default model says; it comes right behind the RouteChanged to it."""
    [at] = [index for index, (_, event) in enumerate(seen.events) if _is_told(event)]
    assert seen.kinds[at - 1] == "route_changed"
    metadata = seen.events[at][1].notice.metadata
    return metadata["reason"], metadata["target"]


def _is_told(event: ev.Event) -> bool:
    return event.HasField("notice") and event.notice.code == ev.NoticeCode.NOTICE_CODE_DEFAULT_MODEL


async def test_it_answers_where_nothing_else_can(start: Any, ask: Any, tmp_path: Path) -> None:
    async with start(settings(tmp_path), providers=PROVIDERS) as client:
        for model, fallbacks, reason, attempts in (
            ("down/x", [], "SERVICE_UNREACHABLE", 2),
            ("unset/echo", [], "INTEGRATION_MISCONFIGURED", 2),
            ("scripted/text?fault=UPSTREAM_AUTHENTICATION", [], "UPSTREAM_AUTHENTICATION", 2),
            ("scripted/text?fault=DRAINING", ["down/x"], "SERVICE_UNREACHABLE", 3),
            ("absent", [], "MODEL_NOT_FOUND", 1),
        ):
            seen = await client.stream(ask(model, fallbacks=fallbacks))
            assert seen.error is None, model
            assert seen.text == WORDS
            assert told(seen) == (reason, DEFAULT)
            made = seen.last.completed.attempts
            assert len(made) == attempts
            assert made[-1].target.model == "text?tokens=3"
            whole = (await client.chat.Chat(pb.ChatRequest(spec=ask(model, fallbacks=fallbacks)))).answer
            assert [notice.code for notice in whole.notices] == [ev.NoticeCode.NOTICE_CODE_DEFAULT_MODEL]
            assert whole.target.model == "text?tokens=3"
        rows = await client.rows("attempts")
        assert {row["outcome"] for row in rows if row["model"] == "text?tokens=3"} == {"completed"}
        assert len([row for row in rows if row["provider"] == "down"]) == 4


async def test_it_is_not_asked_for_other_failures_or_names_that_never_were(
    start: Any, ask: Any, tmp_path: Path
) -> None:
    async with start(settings(tmp_path), providers=PROVIDERS) as client:
        for model, fallbacks, reason in (
            ("nobody/x", [], R.ERROR_REASON_MODEL_NOT_FOUND),
            ("no-such-route", [], R.ERROR_REASON_MODEL_NOT_FOUND),
            ("scripted/no-such-script", [], R.ERROR_REASON_MODEL_NOT_FOUND),
            ("scripted/text?fault=UPSTREAM_OVERLOADED", ["down/x"], R.ERROR_REASON_SERVICE_UNREACHABLE),
            ("scripted/text?fault=CONTENT_FILTERED", [], R.ERROR_REASON_CONTENT_FILTERED),
            ("scripted/text?fault=UPSTREAM_AUTHENTICATION@1", [], R.ERROR_REASON_UPSTREAM_AUTHENTICATION),
        ):
            seen = await client.stream(ask(model, fallbacks=fallbacks))
            assert seen.error is not None, model
            assert seen.error.reason == reason
            assert not any(_is_told(event) for _, event in seen.events)


async def test_it_may_be_a_route_and_fail_itself(start: Any, ask: Any, tmp_path: Path) -> None:
    bad = "scripted/text?fault=UPSTREAM_AUTHENTICATION"
    async with start(settings(tmp_path, "spare")) as client:
        first = await client.stream(ask("down/x"))
        # One that was tried is not tried again.
        second = await client.stream(ask(bad))
        broken = await client.stream(ask("down/x", midstream_policy=pb.MidstreamPolicy.MIDSTREAM_POLICY_RESTART))
    assert first.error is None
    assert told(first) == ("SERVICE_UNREACHABLE", bad)  # who is asked instead; its own failure is another RouteChanged
    assert len(first.last.completed.attempts) == 3
    assert told(second) == ("UPSTREAM_AUTHENTICATION", DEFAULT)
    assert len(second.last.completed.attempts) == 2
    assert broken.error is None
    async with start(settings(tmp_path, bad)) as client:
        failed = await client.stream(ask("down/x"))
        alone = await client.stream(ask(bad))
    assert failed.error is not None
    assert failed.error.reason == R.ERROR_REASON_UPSTREAM_AUTHENTICATION
    assert alone.error is not None
    assert not any(_is_told(event) for _, event in alone.events)


async def test_circuits_that_are_open_lead_to_it(start: Any, ask: Any, tmp_path: Path) -> None:
    breaker = {"failures": 1, "open_seconds": 1000, "max_open_seconds": 1000}
    resilience = {"retry": {"initial_seconds": 0.001}, "breaker": breaker}
    bad = "scripted/text?fault=UPSTREAM_UNAVAILABLE"
    grounding = {"corpora": ["corpora/docs"], "policy": pb.GroundingPolicy.GROUNDING_POLICY_BEST_EFFORT}
    async with start(settings(tmp_path, resilience=resilience)) as client:
        assert (await client.stream(ask(bad))).error is not None
        for more in ({}, {"grounding": grounding}, {"cache": pb.CACHE_POLICY_USE}, {"cache": pb.CACHE_POLICY_USE}):
            seen = await client.stream(ask(bad, **more))
            assert seen.error is None
            assert told(seen) == ("CIRCUIT_OPEN", DEFAULT)  # and is never kept: the answer of another one is no hit
            assert len(seen.last.completed.attempts) == 1
        assert (await client.stream(ask("down/x"))).error is None
        both = await client.stream(ask("down/x", fallbacks=[bad]))
        assert told(both)[0] == "CIRCUIT_OPEN"
    async with start(settings(tmp_path, bad, resilience=resilience)) as client:
        await client.stream(ask(bad))
        refused = await client.stream(ask(bad))
    assert refused.error is not None
    assert refused.error.reason == R.ERROR_REASON_CIRCUIT_OPEN
    assert refused.events == []


async def test_one_that_was_removed_is_stood_in_for(start: Any, ask: Any, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/extra.sock"
    document = document_of({"providers": {"extra": {"adapter": "scripted", "listen": address}}}, tmp_path)
    async with (
        running(make_service("providers", document, integration="extra"), document),
        start(settings(tmp_path)) as client,
    ):
        stub: Any = integration_grpc.IntegrationServiceStub(client.channel)
        assert (await client.stream(ask("extra/echo"))).error is not None
        await stub.RegisterIntegration(integration_pb.RegisterIntegrationRequest(integration="extra", address=address))
        assert (await client.stream(ask("extra/echo"))).text == "hello"
        await stub.RemoveIntegration(integration_pb.RemoveIntegrationRequest(integration="extra"))
        seen = await client.stream(ask("extra/echo"))
        other = await client.stream(ask("extra/echo", fallbacks=["scripted/echo"]))
        await stub.RegisterIntegration(integration_pb.RegisterIntegrationRequest(integration="extra", address=address))
        assert (await client.stream(ask("extra/echo"))).text == "hello"
    assert told(seen) == ("MODEL_NOT_FOUND", DEFAULT)
    # What the request itself falls back on comes before it.
    assert other.text == "hello"
    assert other.kinds[:2] == ["accepted", "route_changed"]
    assert not any(_is_told(event) for _, event in other.events)


async def test_it_needs_what_the_request_needs(start: Any, ask: Any, tmp_path: Path) -> None:
    providers = {
        "scripted": {
            "adapter": "scripted",
            "scripts": {"plain": {"steps": [{"text": "words"}]}},
            "models": [{"id": "plain", "capabilities": ["streaming", "citations"]}],
        }
    }
    async with start(settings(tmp_path, "scripted/plain"), providers=providers) as client:
        await client.gateway.catalog.find(Target(provider="scripted", model="plain"), Call("/test"))
        seen = await client.stream(ask("down/x", tools=[Tool(function=FunctionTool(name="look"))]))
        plain = await client.stream(ask("down/x"))
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_SERVICE_UNREACHABLE
    assert plain.text == "words"


async def test_a_conversation_goes_on_with_it(start: Any, ask: Any, tmp_path: Path) -> None:
    async with start(settings(tmp_path)) as client:
        talker = Talker(client, ask)
        await talker.create()
        await talker.say("one")
        seen = await talker.say("two", "down/x")
        assert told(seen) == ("SERVICE_UNREACHABLE", DEFAULT)
        assert talker.told.texts == ["one", "one", "two"]
        [_, turn] = await talker.turns()
        assert turn.target.model == "text?tokens=3"
        # Every attempt of a conversation is on record as such.
        rows = await client.rows("attempts")
        assert len(rows) == 3
        assert {row["conversation"] for row in rows} == {NAME}


async def test_a_default_model_that_is_none_fails_the_start() -> None:
    with pytest.raises(ConfigError, match="default_model"):
        async with mesh({"gateway": {"default_model": "nothing"}}):
            pass
