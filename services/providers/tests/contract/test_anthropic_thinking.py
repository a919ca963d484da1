"""Loops of tool calls with thinking: what the vendor sealed goes back to it as it came, in its order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sluice.chat.v1 import event_pb2, message_pb2, parameters_pb2, tool_pb2, usage_pb2

from .asked import ASSISTANT, TOOL
from .format_anthropic import ANTHROPIC, MESSAGE, block, end, start, text_block
from .subject import asking, subject, text_of
from .upstream import Upstream

FIRST: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Let me look.", "signature": "c2lnMQ=="},
    {"type": "redacted_thinking", "data": "c2VhbGVkMQ=="},
    {"type": "redacted_thinking", "data": "c2VhbGVkMg=="},
    {"type": "text", "text": "I look. "},
    {"type": "thinking", "thinking": "Both at once.", "signature": "c2lnMg=="},
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Ærø"}},
    {"type": "tool_use", "id": "toolu_2", "name": "time", "input": {}},
]
"""Interleaved thinking: between blocks of text and calls, too."""
SECOND: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "", "signature": "c2lnMw=="},
    {"type": "tool_use", "id": "toolu_3", "name": "time", "input": {"zone": "CET"}},
]
"""Thinking that is not shown comes as a signature alone."""


def frames(content: list[dict[str, Any]]) -> list[bytes]:
    """The stream of an answer with such blocks, in the vendor's documented order."""
    found = [start()]
    for index, one in enumerate(content):
        if one["type"] == "thinking":
            pieces = [one["thinking"][:4], one["thinking"][4:]] if one["thinking"] else []
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
            empty = {"type": "thinking", "thinking": "", "signature": ""}
            found += block(index, empty, *deltas, {"type": "signature_delta", "signature": one["signature"]})
        elif one["type"] == "text":
            found += text_block(index, one["text"])
        elif one["type"] == "tool_use":
            data = json.dumps(one["input"]) if one["input"] else ""
            cuts = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", data[:5], data[5:])]
            found += block(index, {**one, "input": {}}, *cuts)
        else:
            found += block(index, one)
    return [*found, *end("tool_use")]


def whole(content: list[dict[str, Any]]) -> bytes:
    return json.dumps({**MESSAGE, "content": content, "stop_reason": "tool_use"}).encode()


def turn(events: list[event_pb2.Event]) -> message_pb2.Message:
    """Puts an answer together as callers do: block by block, in the order of their numbers."""
    parts: dict[int, message_pb2.Part] = {}
    for event in events:
        kind = event.WhichOneof("kind")
        if kind not in ("text_delta", "reasoning_delta", "tool_call_delta"):
            continue
        delta = getattr(event, kind)
        part = parts.setdefault(delta.block_index, message_pb2.Part())
        if kind == "text_delta":
            part.text += delta.text
        elif kind == "reasoning_delta":
            part.reasoning.provider = "vendor"
            part.reasoning.text += delta.text
            part.reasoning.state += delta.state
        else:
            part.tool_call.id += delta.id
            part.tool_call.name += delta.name
            part.tool_call.arguments_json += delta.arguments_json
    return message_pb2.Message(role=ASSISTANT, parts=[parts[index] for index in sorted(parts)])


def results(asked: message_pb2.Message) -> message_pb2.Message:
    """Answers every call of a turn."""
    calls = [part.tool_call for part in asked.parts if part.HasField("tool_call")]
    given = [message_pb2.ToolResult(call_id=call.id, text=f"{call.name}!") for call in calls]
    return message_pb2.Message(role=TOOL, parts=[message_pb2.Part(tool_result=one) for one in given])


@pytest.mark.parametrize("as_whole", [False, True], ids=["streamed", "whole"])
async def test_a_loop_of_several_steps(as_whole: bool, transport: str, upstream: Upstream, tmp_path: Path) -> None:
    settings = {"adapter": "anthropic", **ANTHROPIC.settings(upstream.url), "prompt_cache": False}
    tools = [tool_pb2.Tool(function=tool_pb2.FunctionTool(name=name)) for name in ("weather", "time")]
    request = asking("vendor", "claude", tools=tools, whole=as_whole)
    request.parameters.reasoning_effort = parameters_pb2.REASONING_EFFORT_HIGH
    async with subject(transport, "vendor", settings, tmp_path) as running:
        for content in (FIRST, SECOND):
            upstream.answer(ANTHROPIC.reply(whole(content)) if as_whole else ANTHROPIC.stream(frames(content)))
            events = await running.generate(request)
            assert events[-1].completed.finish_reason == usage_pb2.FINISH_REASON_TOOL_CALLS
            asked = turn(events)
            request.messages.extend([asked, results(asked)])
        upstream.answer(
            ANTHROPIC.reply(ANTHROPIC.whole) if as_whole else ANTHROPIC.stream(ANTHROPIC.text("Hello ", "there"))
        )
        assert text_of(await running.generate(request)) == "Hello there"
    body = upstream.last.json
    assert body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert body["output_config"] == {"effort": "high"}
    assert body["messages"][1:] == [
        {"role": "assistant", "content": FIRST},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "weather!"},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "time!"},
            ],
        },
        {"role": "assistant", "content": SECOND},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_3", "content": "time!"}]},
    ]


async def test_kinds_of_tomorrow_are_passed_over(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    settings = {"adapter": "anthropic", **ANTHROPIC.settings(upstream.url)}
    text = {"type": "text", "text": ""}
    known = {"type": "text_delta", "text": "Hello"}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        new = {"type": "delta_of_tomorrow", "state": 7}
        upstream.answer(ANTHROPIC.stream([start(), *block(0, text, known, new), *end("end_turn")]))
        assert text_of(await running.generate(asking("vendor", "claude"))) == "Hello"
        wrong = {"type": "thinking_delta", "thinking": "x"}
        upstream.answer(ANTHROPIC.stream([start(), *block(0, text, known, wrong), *end("end_turn")]))
        error = (await running.outcome(asking("vendor", "claude"))).error
    assert error is not None
    assert error.reason_name == "UPSTREAM_PROTOCOL_ERROR"


async def test_another_providers_thinking_stays_away(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    """A turn in which nothing else is left is left out as a whole."""
    upstream.answer(ANTHROPIC.stream(ANTHROPIC.text("Hello")))
    settings = {"adapter": "anthropic", **ANTHROPIC.settings(upstream.url)}
    foreign = message_pb2.Reasoning(text="Hm.", provider="someone-else", state=b"zzz")
    unsealed = message_pb2.Reasoning(text="Hm.", provider="vendor")
    request = asking("vendor", "claude")
    request.messages.add(
        role=ASSISTANT, parts=[message_pb2.Part(reasoning=foreign), message_pb2.Part(reasoning=unsealed)]
    )
    async with subject(transport, "vendor", settings, tmp_path) as running:
        await running.generate(request)
    assert upstream.last.json["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("prompt is too long: 210000 tokens > 200000 maximum", "CONTEXT_TOO_LONG"),
        ("input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000", "CONTEXT_TOO_LONG"),
        ("Your credit balance is too low to access the Anthropic API.", "UPSTREAM_QUOTA_EXHAUSTED"),
        ("You have reached your specified API usage limits.", "UPSTREAM_QUOTA_EXHAUSTED"),
        ("messages.1: thinking blocks cannot be modified", "UPSTREAM_INVALID_ARGUMENT"),
    ],
)
async def test_what_only_words_tell(
    words: str, reason: str, transport: str, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.answer(ANTHROPIC.refusal(400, "invalid_request_error", message=words))
    settings = {"adapter": "anthropic", **ANTHROPIC.settings(upstream.url)}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        error = (await running.outcome(asking("vendor", "claude"))).error
    assert error is not None
    assert error.reason_name == reason
    assert words not in str(error)
