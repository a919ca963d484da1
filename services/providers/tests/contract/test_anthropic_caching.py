"""Which beginnings of a prompt Anthropic is asked to keep, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sluice.chat.v1 import message_pb2, tool_pb2, usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb

from .asked import ASSISTANT, TOOL, USER
from .format_anthropic import ANTHROPIC, MESSAGE, end, event, text_block
from .subject import asking, subject
from .test_grounding import passages
from .upstream import Upstream, plain

KEPT = {"type": "ephemeral"}
Part = message_pb2.Part


def marks(body: Any) -> list[str]:
    """Returns where a body is marked: the place and the block's text, in the order of the prompt."""
    found = [f"tool {tool['name']}" for tool in body.get("tools", []) if "cache_control" in tool]
    system = body.get("system", "")
    if isinstance(system, list):
        found += [f"system {block['text']}" for block in system if "cache_control" in block]
    for index, message in enumerate(body["messages"]):
        for block in message["content"]:
            if "cache_control" in block:
                words = block.get("text") or block.get("content") or block.get("name")
                found.append(f"{index} {block['type']} {words}")
    return found


def spoken(role: message_pb2.MessageRole.ValueType, *parts: Part) -> message_pb2.Message:
    return message_pb2.Message(role=role, parts=parts)


def called(name: str) -> Part:
    return Part(tool_call=message_pb2.ToolCall(id=name, name="weather", arguments_json="{}"))


def result(name: str, text: str = "rain") -> Part:
    return Part(tool_result=message_pb2.ToolResult(call_id=name, text=text))


SEALED = Part(reasoning=message_pb2.Reasoning(text="Hm.", provider="vendor", state=b"EqQBCg=="))
TURNS = [spoken(USER, Part(text="One?")), spoken(ASSISTANT, Part(text="Yes."))]
QUESTION = spoken(USER, Part(text="Two?"))
STEP = [spoken(ASSISTANT, called("c1")), spoken(TOOL, result("c0"), result("c1"))]


def request_of(messages: list[message_pb2.Message], **fields: Any) -> pb.GenerateRequest:
    request = asking("vendor", "claude", **fields)
    del request.messages[:]
    request.messages.extend(messages)
    return request


TOOLS = [tool_pb2.Tool(function=tool_pb2.FunctionTool(name=name)) for name in ("time", "weather")]


@pytest.mark.parametrize(
    ("messages", "fields", "expected"),
    [
        ([QUESTION], {}, []),
        ([QUESTION], {"system_instruction": "Be brief."}, ["system Be brief."]),
        ([*TURNS, QUESTION], {}, ["1 text Yes."]),
        ([*TURNS, QUESTION], {"passages": passages()}, ["1 text Yes."]),
        ([QUESTION], {"tools": TOOLS}, ["tool weather", "0 text Two?"]),
        (
            [*TURNS, QUESTION, *STEP],
            {"tools": TOOLS, "system_instruction": "Be brief.", "passages": passages()},
            ["tool weather", "system Be brief.", "1 text Yes.", "4 tool_result rain"],
        ),
        # What cannot be marked is passed over: thinking, and results without a text.
        ([TURNS[0], spoken(ASSISTANT, Part(text="Yes."), SEALED), QUESTION], {}, ["1 text Yes."]),
        ([TURNS[0], spoken(ASSISTANT, SEALED), QUESTION], {}, ["0 text One?"]),
        (
            [QUESTION, spoken(ASSISTANT, called("c1")), spoken(TOOL, result("c1", ""))],
            {"tools": TOOLS},
            ["tool weather", "1 tool_use weather"],
        ),
        # A dialogue whose last words are not a person's.
        ([spoken(ASSISTANT, Part(text="Yes."))], {}, []),
    ],
    ids=["alone", "system", "turns", "grounded", "tools", "loop", "thinking", "only-thinking", "empty", "no-question"],
)
async def test_the_stable_beginning_is_marked(
    messages: list[message_pb2.Message],
    fields: dict[str, Any],
    expected: list[str],
    transport: str,
    upstream: Upstream,
    tmp_path: Path,
) -> None:
    upstream.answer(ANTHROPIC.stream(ANTHROPIC.text("Hello")))
    settings = {"adapter": "anthropic", **ANTHROPIC.settings(upstream.url)}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        await running.generate(request_of(messages, **fields))
    assert marks(upstream.last.json) == expected
    assert len(expected) <= 4


async def test_every_step_of_a_loop_begins_like_the_one_before(
    transport: str, upstream: Upstream, tmp_path: Path
) -> None:
    """Up to the mark of the step before, so that it can be read from the cache."""

    def prompt(body: Any) -> list[Any]:
        blocks = [*body["tools"], *body["system"], *(block for one in body["messages"] for block in one["content"])]
        return [{name: value for name, value in block.items() if name != "cache_control"} for block in blocks]

    upstream.answer(ANTHROPIC.stream(ANTHROPIC.text("Hello")))
    settings = {"adapter": "anthropic", **ANTHROPIC.settings(upstream.url)}
    fields = {"tools": TOOLS, "system_instruction": "Be brief.", "passages": passages()}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        for messages in ([*TURNS, QUESTION], [*TURNS, QUESTION, *STEP], [*TURNS, QUESTION, *STEP, *STEP]):
            await running.generate(request_of(messages, **fields))
    first, second, third = (prompt(request.json) for request in upstream.requests)
    assert second[: len(first)] == first
    assert third[: len(second)] == second
    assert all("cache_control" in request.json["messages"][-1]["content"][-1] for request in upstream.requests)


@pytest.mark.parametrize(
    ("setting", "control"),
    [(True, KEPT), ("5m", {**KEPT, "ttl": "5m"}), ("1h", {**KEPT, "ttl": "1h"}), (False, None)],
)
async def test_caching_by_the_setting(
    setting: bool | str, control: Any, transport: str, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.answer(ANTHROPIC.stream(ANTHROPIC.text("Hello")))
    settings = {"adapter": "anthropic", **ANTHROPIC.settings(upstream.url), "prompt_cache": setting}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        await running.generate(request_of([QUESTION], system_instruction="Be brief.", tools=TOOLS))
    body = upstream.last.json
    if control is None:
        assert (body["system"], marks(body)) == ("Be brief.", [])
    else:
        assert body["system"] == [{"type": "text", "text": "Be brief.", "cache_control": control}]
        assert body["tools"][-1]["cache_control"] == control
        assert body["messages"][-1]["content"][-1]["cache_control"] == control


async def test_a_caller_who_marks_has_its_way(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(ANTHROPIC.stream(ANTHROPIC.text("Hello")))
    settings = {"adapter": "anthropic", **ANTHROPIC.settings(upstream.url)}
    request = request_of([*TURNS, QUESTION], system_instruction="Be brief.", tools=TOOLS)
    request.parameters.vendor_options.update({"cache_control": {"type": "ephemeral", "ttl": "1h"}})
    async with subject(transport, "vendor", settings, tmp_path) as running:
        await running.generate(request)
    assert upstream.last.json["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert marks(upstream.last.json) == []


async def test_counting_marks_nothing(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(plain(b'{"input_tokens": 14}'))
    settings = {"adapter": "anthropic", **ANTHROPIC.settings(upstream.url)}
    asked = request_of([*TURNS, QUESTION], tools=TOOLS)
    counting = pb.CountTokensRequest(
        target=asked.target, messages=asked.messages, tools=asked.tools, system_instruction="Be brief."
    )
    async with subject(transport, "vendor", settings, tmp_path) as running:
        await running.call("CountTokens", counting)
    assert marks(upstream.last.json) == []


async def test_what_the_cache_gave_is_told(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    """The vendor's count of input leaves out what the cache read and wrote; ours is all that the model saw."""
    counted = {"input_tokens": 15, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 2000}
    told = {"cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 0}, "output_tokens": 1}
    first = event({"type": "message_start", "message": {**MESSAGE, "usage": {**counted, **told}}})
    upstream.answer(ANTHROPIC.stream([first, *text_block(0, "Hello"), *end("end_turn")]))
    settings = {"adapter": "anthropic", **ANTHROPIC.settings(upstream.url)}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        usage = (await running.generate(request_of([QUESTION])))[-1].completed.usage
    assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens) == (2115, 2000, 10)
    assert usage.source == usage_pb2.USAGE_SOURCE_PROVIDER
