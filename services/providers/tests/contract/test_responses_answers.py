"""What the Responses format answers: reasoning that goes back sealed, refusals, failures, and why answers end."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from openai.types.responses import Response, ResponseStreamEvent

from sluice.chat.v1 import message_pb2, parameters_pb2, tool_pb2, usage_pb2
from sluice_kit.errors import SluiceError
from sluice_providers.wire.responses_request import SEAL, Sealed, seal

from .asked import ASSISTANT, TOOL
from .conftest import Start
from .format_responses import (
    ID,
    RESPONSES,
    called,
    custom,
    error_frame,
    event,
    failed,
    frames,
    message,
    response,
    said,
    text,
    thinking,
    thought,
    whole,
)
from .format_responses import call as function
from .responding import joined, reasoning_of, returning
from .subject import asking, failure_of, kinds, text_of
from .upstream import Upstream, plain, stream
from .wire_format import Format


@pytest.fixture
def wire() -> Format:
    return RESPONSES


async def test_reasoning_goes_back_through_a_loop_of_tools(start: Start, upstream: Upstream) -> None:
    tools = [
        tool_pb2.Tool(function=tool_pb2.FunctionTool(name="weather")),
        tool_pb2.Tool(custom=tool_pb2.CustomTool(name="note", description="Notes it")),
    ]
    first, second = function("call_1", "weather", "{}"), custom("call_2", "note", "Ærø: sun")
    output = [thought("One", "Two"), first, second]
    # The first call has no arguments at all.
    drafts = thinking(0, ("O", "ne"), ("Two",)) + called(1, first) + called(2, second, "Ærø", ": sun")
    async with start() as running:
        low = parameters_pb2.GenerationParameters(reasoning_effort=parameters_pb2.REASONING_EFFORT_LOW)
        request = asking("vendor", "m", tools=tools, parameters=low)
        upstream.answer(stream(frames(drafts, output)))
        streamed = await running.generate(request)
        upstream.answer(plain(whole(*output)))
        request.whole = True
        assert joined(await running.generate(request)) == joined(streamed)
        request.whole = False
        assert upstream.last.json["tools"] == [
            {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": None},
            {"type": "custom", "name": "note", "description": "Notes it"},
        ]
        assert streamed[-1].completed.finish_reason == usage_pb2.FINISH_REASON_TOOL_CALLS
        answer = request.messages.add(role=ASSISTANT)
        words, state = reasoning_of(streamed)
        assert words == "One\n\nTwo"
        answer.parts.add().reasoning.CopyFrom(message_pb2.Reasoning(text=words, provider="vendor", state=state))
        for id, name, value in (
            ("call_1", "weather", {"arguments_json": "{}"}),
            ("call_2", "note", {"input_text": "Ærø: sun"}),
        ):
            answer.parts.add().tool_call.CopyFrom(message_pb2.ToolCall(id=id, name=name, **value))
        results = request.messages.add(role=TOOL)
        for id in ("call_1", "call_2"):
            results.parts.add().tool_result.CopyFrom(message_pb2.ToolResult(call_id=id, text="done"))
        upstream.answer(stream(text("Sun.")))
        assert text_of(await running.generate(request)) == "Sun."
    assert upstream.last.json["input"][1:] == [
        {
            "type": "reasoning",
            "id": "rs_0",
            "encrypted_content": "gAAAAABo",
            "summary": [{"type": "summary_text", "text": "One\n\nTwo"}],
        },
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "note", "input": "Ærø: sun"},
        {"type": "function_call_output", "call_id": "call_1", "output": "done"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "done"},
    ]


@pytest.mark.parametrize(
    "state",
    [b"EqQBCg==", SEAL, SEAL + b"{", SEAL + b"{}", SEAL + b'{"id":""}', SEAL + b'{"id":"a","more":1}', SEAL + b"\xff"],
)
async def test_a_state_that_is_not_its_own_is_refused(state: bytes, start: Start, upstream: Upstream) -> None:
    async with start() as running:
        with pytest.raises(SluiceError) as caught:
            await running.generate(returning("vendor", state))
    assert caught.value.reason_name == "INVALID_REQUEST"
    assert caught.value.violations[0].field == "messages[1].parts[0].reasoning.state"
    assert upstream.requests == []


async def test_reasoning_of_open_models(start: Start, upstream: Upstream) -> None:
    """They show the reasoning itself, and seal nothing: what comes is what goes back."""
    parts = [{"type": "reasoning_text", "text": piece} for piece in ("First.", "Then.")]
    item = {"id": "rs_0", "type": "reasoning", "summary": [], "content": parts}
    at = {"item_id": "rs_0", "output_index": 0}
    drafts: list[tuple[str, dict[str, Any]]] = [
        ("output_item.added", {"output_index": 0, "item": {**item, "content": None}}),
        ("reasoning_text.delta", {**at, "content_index": 0, "delta": "Fi"}),
        ("reasoning_text.delta", {**at, "content_index": 0, "delta": "rst."}),
        ("reasoning_text.delta", {**at, "content_index": 1, "delta": "Then."}),
        ("output_item.done", {"output_index": 0, "item": item}),
    ]
    async with start() as running:
        upstream.answer(stream(frames(drafts + said(1, "Yes."), [item, message("Yes.", index=1)])))
        events = await running.generate(asking("vendor", "m"))
        words, state = reasoning_of(events)
        assert words == "First.\n\nThen."
        upstream.answer(plain(whole(item, message("Yes.", index=1))))
        assert joined(await running.generate(asking("vendor", "m", whole=True))) == joined(events)
        request = returning("vendor", state)
        request.messages[1].parts[0].reasoning.text = words
        upstream.answer(stream(text("Hello")))
        await running.generate(request)
    assert upstream.last.json["input"][1] == {
        "type": "reasoning",
        "id": "rs_0",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": words}],
    }


async def test_reasoning_that_cannot_come_back_has_no_state(start: Start, upstream: Upstream) -> None:
    """Neither sealed nor kept by the vendor: its id alone would be refused."""
    drafts = thinking(0, ("Hm.",), sealed=None) + said(1, "Yes.")
    upstream.answer(stream(frames(drafts, [thought("Hm.", sealed=None), message("Yes.", index=1)])))
    async with start() as running:
        assert reasoning_of(await running.generate(asking("vendor", "m"))) == ("Hm.", b"")


async def test_sealed_reasoning_without_text_is_a_block_of_its_own(start: Start, upstream: Upstream) -> None:
    upstream.answer(stream(frames(thinking(0) + said(1, "Yes."), [thought(), message("Yes.", index=1)])))
    async with start() as running:
        events = await running.generate(asking("vendor", "m"))
    assert reasoning_of(events) == ("", seal(Sealed("rs_0", "gAAAAABo")))
    assert kinds(events) == ["started", "reasoning_delta", "text_delta", "completed"]
    assert text_of(events, 1) == "Yes."


async def test_a_refusal_is_text(start: Start, upstream: Upstream) -> None:
    refused = {**message(""), "content": [{"type": "refusal", "refusal": "I cannot."}]}
    at = {"item_id": "msg_0", "output_index": 0, "content_index": 0}
    drafts = [("refusal.delta", {**at, "delta": piece}) for piece in ("I ", "cannot.")]
    async with start() as running:
        for play in (stream(frames(drafts, [refused])), stream(frames([], [refused])[:-1] + ENDED_ONLY)):
            upstream.answer(play)
            assert text_of(await running.generate(asking("vendor", "m"))) == "I cannot."
        upstream.answer(plain(whole(refused)))
        assert text_of(await running.generate(asking("vendor", "m", whole=True))) == "I cannot."


ENDED_ONLY = [
    event(
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": {"id": "m", "type": "message", "content": [{"type": "refusal", "refusal": "I cannot."}]},
        }
    ),
    event({"type": "response.completed", "response": response("completed")}),
]


CODE_TABLE = {
    "rate_limit_exceeded": "UPSTREAM_RATE_LIMITED",
    "server_error": "UPSTREAM_UNAVAILABLE",
    "vector_store_timeout": "UPSTREAM_UNAVAILABLE",
    "invalid_prompt": "UPSTREAM_INVALID_ARGUMENT",
    "too_many_requests": "UPSTREAM_RATE_LIMITED",
    "image_content_policy_violation": "CONTENT_FILTERED",
}


@pytest.mark.parametrize("code", CODE_TABLE)
async def test_codes_of_a_failed_response(code: str, start: Start, upstream: Upstream) -> None:
    nested = {"type": "error", "sequence_number": 2, "error": {"type": code, "code": code, "message": "no"}}
    reply = json.dumps(response("failed", error={"code": code, "message": "no"})).encode()
    async with start() as running:
        for frame in (failed(code), error_frame(code=code), event(nested)):
            upstream.answer(stream([*RESPONSES.unfinished, frame]))
            assert (await failure_of(running, asking("vendor", "m"))).reason_name == CODE_TABLE[code]
        upstream.answer(plain(reply))
        assert (await failure_of(running, asking("vendor", "m", whole=True))).reason_name == CODE_TABLE[code]


@pytest.mark.parametrize(
    ("reason", "mine"),
    [
        ("max_output_tokens", usage_pb2.FINISH_REASON_LENGTH),
        ("content_filter", usage_pb2.FINISH_REASON_CONTENT_FILTER),
        ("max_messages", usage_pb2.FINISH_REASON_UNSPECIFIED),
    ],
)
async def test_why_a_response_is_incomplete(
    reason: str, mine: usage_pb2.FinishReason.ValueType, start: Start, upstream: Upstream
) -> None:
    async with start() as running:
        upstream.answer(stream(RESPONSES.finished(reason, "Hello")))
        streamed = await running.generate(asking("vendor", "m"))
        upstream.answer(plain(whole(message("Hello"), reason=reason)))
        assert joined(await running.generate(asking("vendor", "m", whole=True))) == joined(streamed)
    assert (streamed[-1].completed.finish_reason, streamed[-1].completed.raw_finish_reason) == (mine, reason)


@pytest.mark.parametrize("status", ["in_progress", "queued", "", "new"])
async def test_a_whole_reply_that_is_not_finished(status: str, start: Start, upstream: Upstream) -> None:
    upstream.answer(plain(json.dumps(response(status)).encode()))
    async with start() as running:
        assert (await failure_of(running, asking("vendor", "m", whole=True))).reason_name == "UPSTREAM_PROTOCOL_ERROR"


BROKEN_DRAFTS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "call-without-start": [("function_call_arguments.delta", {"output_index": 0, "delta": "{}"})],
    "call-without-name": [("output_item.added", {"output_index": 0, "item": function("a", "", "")})],
    "call-twice": [("output_item.added", {"output_index": 0, "item": function("a", "f", "")})] * 2,
    "other-kind": [*called(0, function("a", "f", "{}"), "{}"), *said(0, "x")],
    "no-text": [("output_text.delta", {"output_index": 0, "delta": {"x": 1}})],
}


@pytest.mark.parametrize("drafts", BROKEN_DRAFTS.values(), ids=BROKEN_DRAFTS.keys())
async def test_streams_that_break_the_format(
    drafts: list[tuple[str, dict[str, Any]]], start: Start, upstream: Upstream
) -> None:
    upstream.answer(stream(frames(drafts, [])))
    async with start() as running:
        assert (await failure_of(running, asking("vendor", "m"))).reason_name == "UPSTREAM_PROTOCOL_ERROR"


def test_the_recorded_replies_are_the_vendors() -> None:
    """The SDK's types take them for what they are meant to be."""
    parsed = Response.model_validate_json(RESPONSES.whole_tools)
    assert parsed.id == ID
    assert [item.type for item in parsed.output] == ["message", "function_call"]
    classes = get_args(get_args(ResponseStreamEvent)[0])
    by_type = {get_args(kind.model_fields["type"].annotation)[0]: kind for kind in classes}
    note = called(0, custom("c", "note", "x"), "x")
    for frame in [
        *text("Hello"),
        *RESPONSES.tools,
        *(RESPONSES.reasoning or ()),
        *frames(note, []),
        error_frame(),
        failed("server_error"),
    ]:
        payload = frame.partition(b"data: ")[2]
        by_type[json.loads(payload)["type"]].model_validate_json(payload)
