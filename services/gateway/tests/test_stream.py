"""One answer, streamed and folded: numbers, the one Completed, failures."""

from typing import Any

import grpc
import pytest

from sluice.chat.v1.message_pb2 import Message, MessageRole, Part, ToolResult
from sluice.chat.v1.usage_pb2 import FinishReason, UsageSource
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_kit.errors import from_rpc_error

R = ErrorReason


async def test_events_are_numbered_and_completed_is_last(start: Any, placement: str, ask: Any) -> None:
    async with start(placement=placement) as client:
        seen = await client.stream(ask("scripted/text?tokens=20&delay_ms=1"))
    assert seen.error is None
    assert seen.numbers == list(range(1, len(seen.events) + 1))
    assert seen.kinds[:3] == ["accepted", "started", "text_delta"]
    assert seen.kinds[-1] == "completed"
    assert seen.kinds.count("completed") == 1
    assert len(seen.text.split()) == 20
    completed = seen.last.completed
    assert completed.finish_reason == FinishReason.FINISH_REASON_STOP
    assert completed.usage.output_tokens == 20
    assert completed.usage.source == UsageSource.USAGE_SOURCE_PROVIDER
    assert [attempt.target.provider for attempt in completed.attempts] == ["scripted"]


async def test_the_same_answer_in_one_piece(start: Any, placement: str, ask: Any) -> None:
    async with start(placement=placement) as client:
        streamed = await client.stream(ask("scripted/reason?tokens=7"))
        answer = (await client.chat.Chat(pb.ChatRequest(spec=ask("scripted/reason?tokens=7")))).answer
    assert answer.text == streamed.text
    assert [part.WhichOneof("kind") for part in answer.message.parts] == ["reasoning", "text"]
    assert answer.message.parts[0].reasoning.provider == "scripted"
    assert answer.completed.usage.output_tokens == streamed.last.completed.usage.output_tokens
    assert answer.target.model == "reason?tokens=7"


async def test_parallel_tool_calls_fold_into_their_blocks(client: Any, ask: Any) -> None:
    tools = [{"function": {"name": name}} for name in ("first", "second")]
    spec = ask('scripted/tool?calls=2&fragments=4&args={"city":"Köln"}', tools=tools)
    answer = (await client.chat.Chat(pb.ChatRequest(spec=spec))).answer
    calls = [part.tool_call for part in answer.message.parts]
    assert [call.name for call in calls] == ["first", "second"]
    assert len({call.id for call in calls}) == 2
    assert all("Köln" in call.arguments_json or "K\\u00f6ln" in call.arguments_json for call in calls)
    assert answer.completed.finish_reason == FinishReason.FINISH_REASON_TOOL_CALLS
    # What was answered can be sent back as history.
    turn = Message(
        role=MessageRole.MESSAGE_ROLE_TOOL, parts=[Part(tool_result=ToolResult(call_id=calls[0].id, text="42"))]
    )
    again = ask("scripted/echo", tools=tools)
    again.messages.extend([answer.message, turn, *ask(text="and now?").messages])
    assert (await client.stream(again)).text.strip() == "and now?"


@pytest.mark.parametrize(
    ("model", "reason", "kinds"),
    [
        ("scripted/text?fault=UPSTREAM_OVERLOADED", R.ERROR_REASON_UPSTREAM_OVERLOADED, []),
        ("scripted/text?fault=CONTENT_FILTERED", R.ERROR_REASON_CONTENT_FILTERED, []),
        ("scripted/text?fault=cut@3", R.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR, ["started", "text_delta"]),
        ("scripted/text?fault=empty", R.ERROR_REASON_EMPTY_RESPONSE, []),
        ("scripted/text?fault=unstarted", R.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR, []),
    ],
)
async def test_a_failed_upstream_is_never_taken_for_an_answer(
    start: Any, placement: str, ask: Any, model: str, reason: int, kinds: list[str]
) -> None:
    async with start(placement=placement) as client:
        seen = await client.stream(ask(model))
        assert seen.error is not None
        assert seen.error.reason == reason
        assert seen.kinds[: 1 + len(kinds)] == ["accepted", *kinds]
        assert "completed" not in seen.kinds
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.chat.Chat(pb.ChatRequest(spec=ask(model)))
        assert from_rpc_error(caught.value).reason == reason


async def test_an_adapter_that_is_down_is_named(start: Any, ask: Any) -> None:
    integrations = {"gone": {"address": "unix:/nonexistent/sluice.sock"}}
    async with start({"integrations": integrations}) as client:
        seen = await client.stream(ask("gone/model"))
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_SERVICE_UNREACHABLE
    assert seen.error.metadata["service"] == "gone"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": []}, "spec.messages"),
        ({"messages": [{"role": 1, "parts": []}]}, "spec.messages[0].parts"),
        ({"messages": [{"role": 9, "parts": [{"text": "x"}]}]}, "spec.messages[0].role"),
        ({"parameters": {"temperature": 3}}, "spec.parameters.temperature"),
        ({"max_duration": {"seconds": -1}}, "spec.max_duration"),
        ({"tool_choice": {"mode": 3}}, "spec.tool_choice"),
        ({"tool_choice": {"mode": 4}, "tools": [{"function": {"name": "a"}}]}, "spec.tool_choice.name"),
        ({"tool_choice": {"mode": 4, "name": "b"}, "tools": [{"function": {"name": "a"}}]}, "spec.tool_choice.name"),
        ({"grounding": {"corpora": ["docs"]}}, "spec.grounding.corpora[0]"),
        ({"labels": {"": "x"}}, 'spec.labels[""]'),
    ],
)
async def test_a_bad_request_names_its_field(client: Any, ask: Any, fields: dict[str, Any], field: str) -> None:
    spec = pb.ChatSpec(**{"messages": ask().messages, "model": "scripted/echo", **fields})
    seen = await client.stream(spec)
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_INVALID_REQUEST
    assert field in [violation.field for violation in seen.error.violations]
    assert seen.events == []


@pytest.mark.parametrize("model", ["nowhere", "nobody/model"])
async def test_an_unknown_model_says_what_there_is(client: Any, ask: Any, model: str) -> None:
    seen = await client.stream(ask(model))
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_MODEL_NOT_FOUND
    assert "default" in seen.error.message or "scripted" in seen.error.message


async def test_an_option_the_target_lacks_is_refused_or_dropped_with_a_notice(client: Any, ask: Any) -> None:
    unsupported = {"parameters": {"vendor_options": {"no_such_option": 1}}}
    refused = await client.stream(ask(**unsupported))
    assert refused.error is not None
    assert refused.error.reason == R.ERROR_REASON_UNSUPPORTED_OPTION
    lenient = await client.stream(ask(lenient=True, **unsupported))
    assert lenient.error is None
    assert "notice" in lenient.kinds


async def test_a_defect_in_an_adapter_does_not_leak(client: Any, ask: Any) -> None:
    seen = await client.stream(ask("scripted/text?fault=crash@1"))
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_INTERNAL
    assert "error_id" in seen.error.metadata
