"""What vendors answer becomes events: text, reasoning, tool calls, usage; streamed or whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sluice.chat.v1 import tool_pb2, usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb

from .conftest import Start
from .formats import OPENAI_USAGE, Format, anthropic_event, anthropic_start, openai_chunk
from .subject import asking, kinds, text_of
from .upstream import Connection, Request, Upstream, plain, stream


def weather_tools() -> list[tool_pb2.Tool]:
    return [
        tool_pb2.Tool(function=tool_pb2.FunctionTool(name="weather", parameters_json_schema='{"type":"object"}')),
        tool_pb2.Tool(function=tool_pb2.FunctionTool(name="time")),
    ]


async def test_text(start: Start, wire: Format, upstream: Upstream) -> None:
    upstream.answer(stream(wire.text("Hej ", "på ", "dig, Ærø 🙂"), **{wire.request_id_header: "req_77"}))
    async with start() as subject:
        events = await subject.generate(asking("vendor", wire.model))
    assert text_of(events) == "Hej på dig, Ærø 🙂"
    assert events[0].started.model == wire.model
    assert events[0].started.vendor_request_id == "req_77"
    assert {event.text_delta.block_index for event in events if event.HasField("text_delta")} == {0}
    completed = events[-1].completed
    assert completed.finish_reason == usage_pb2.FINISH_REASON_STOP
    assert completed.raw_finish_reason in ("stop", "end_turn")
    usage = completed.usage
    assert usage.source == usage_pb2.USAGE_SOURCE_PROVIDER
    assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens) == (
        19,
        4,
        10,
        3,
    )
    assert upstream.last.path == wire.path
    assert upstream.last.json["stream"] is True


async def test_a_whole_reply_gives_the_same_events(start: Start, wire: Format, upstream: Upstream) -> None:
    async with start() as subject:
        upstream.answer(stream(wire.text("Hello ", "there")))
        streamed = await subject.generate(asking("vendor", wire.model))
        upstream.answer(plain(json.dumps(wire.whole).encode()))
        whole = await subject.generate(asking("vendor", wire.model, whole=True))
    assert "stream" not in upstream.last.json
    assert text_of(whole) == text_of(streamed) == "Hello there"
    assert whole[-1].completed == streamed[-1].completed
    assert len(subject.batches) == 1


async def test_a_whole_reply_with_tool_calls(start: Start, wire: Format, upstream: Upstream) -> None:
    reply = json.loads(json.dumps(wire.whole))
    if wire.adapter == "openai":
        call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Aarhus"}'}}
        reply["choices"][0]["message"] |= {"content": "Looking.", "tool_calls": [call]}
        reply["choices"][0]["finish_reason"] = "tool_calls"
    else:
        use = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Aarhus"}}
        reply["content"] = [{"type": "text", "text": "Looking."}, use]
        reply["stop_reason"] = "tool_use"
    upstream.answer(plain(json.dumps(reply).encode()))
    async with start() as subject:
        events = await subject.generate(asking("vendor", wire.model, whole=True, tools=weather_tools()))
    assert text_of(events, 0) == "Looking."
    calls = [event.tool_call_delta for event in events if event.HasField("tool_call_delta")]
    assert {call.block_index for call in calls} == {1}
    assert json.loads("".join(call.arguments_json for call in calls)) == {"city": "Aarhus"}


async def test_parallel_fragmented_tool_calls(start: Start, wire: Format, upstream: Upstream) -> None:
    upstream.answer(stream(wire.tools))
    async with start() as subject:
        events = await subject.generate(asking("vendor", wire.model, tools=weather_tools()))
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        if event.HasField("tool_call_delta"):
            delta = event.tool_call_delta
            call = calls.setdefault(delta.block_index, {"id": delta.id, "name": delta.name, "arguments": ""})
            if call["arguments"] or delta.arguments_json:
                assert not (delta.id and call["arguments"]), "id and name come once, first"
            call["arguments"] += delta.arguments_json
    assert [(call["id"], call["name"]) for call in calls.values()] == [("call_a", "weather"), ("call_b", "time")]
    assert [json.loads(call["arguments"]) for call in calls.values()] == [{"city": "Aarhus"}, {"zone": "CET"}]
    assert events[-1].completed.finish_reason == usage_pb2.FINISH_REASON_TOOL_CALLS


async def test_reasoning(start: Start, wire: Format, upstream: Upstream) -> None:
    upstream.answer(stream(wire.reasoning))
    async with start() as subject:
        events = await subject.generate(asking("vendor", wire.model))
    deltas = [event.reasoning_delta for event in events if event.HasField("reasoning_delta")]
    assert "".join(delta.text for delta in deltas) == "Let me think."
    assert {delta.block_index for delta in deltas} == {0}
    assert text_of(events, 1) == "Yes."
    if wire.adapter == "anthropic":
        assert b"".join(delta.state for delta in deltas) == b"EqQBCg=="


async def test_what_one_read_brings_leaves_as_one_batch(start: Start, wire: Format, upstream: Upstream) -> None:
    pieces = [f"w{index} " for index in range(50)]

    async def at_once(connection: Connection, _: Request) -> None:
        await connection.head()
        await connection.chunk(b"".join(wire.text(*pieces)))
        await connection.end()

    upstream.answer(at_once)
    async with start() as subject:
        events = await subject.generate(asking("vendor", wire.model))
    assert text_of(events) == "".join(pieces)
    assert len(subject.batches) <= 3
    assert sum(event.HasField("text_delta") for event in events) <= 3


async def test_any_cut_of_the_bytes_gives_the_same_answer(start: Start, wire: Format, upstream: Upstream) -> None:
    data = b"".join(wire.text("Ærø ", "🙂"))
    async with start() as subject:
        for size in (1, 3, 64):
            upstream.answer(stream(data[index : index + size] for index in range(0, len(data), size)))
            assert text_of(await subject.generate(asking("vendor", wire.model))) == "Ærø 🙂"


@pytest.mark.parametrize(
    ("vendor", "mine"),
    [("length", "LENGTH"), ("content_filter", "CONTENT_FILTER"), ("something_new", "UNSPECIFIED")],
)
async def test_finish_reasons(vendor: str, mine: str, start: Start, wire: Format, upstream: Upstream) -> None:
    words = {"length": "max_tokens", "content_filter": "refusal"}
    raw = words.get(vendor, vendor) if wire.adapter == "anthropic" else vendor
    upstream.answer(stream(_finished(event, raw) for event in wire.text("Hello")))
    async with start() as subject:
        completed = (await subject.generate(asking("vendor", wire.model)))[-1].completed
    assert usage_pb2.FinishReason.Name(completed.finish_reason) == f"FINISH_REASON_{mine}"
    assert completed.raw_finish_reason == raw


def _finished(event: bytes, reason: str) -> bytes:
    quoted = json.dumps(reason).encode()
    return event.replace(b'"finish_reason":"stop"', b'"finish_reason":' + quoted).replace(b'"end_turn"', quoted)


async def test_usage_without_a_report_is_estimated(start: Start, wire: Format, upstream: Upstream) -> None:
    if wire.adapter == "openai":
        events = [event for event in wire.text("Hello there") if b'"prompt_tokens"' not in event]
    else:
        events = [event.replace(b'"usage"', b'"unused"') for event in wire.text("Hello there")]
    upstream.answer(stream(events))
    async with start() as subject:
        usage = (await subject.generate(asking("vendor", wire.model)))[-1].completed.usage
    assert usage.source == usage_pb2.USAGE_SOURCE_ESTIMATED
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0


async def test_comments_pings_and_unknown_events_change_nothing(start: Start, wire: Format, upstream: Upstream) -> None:
    noise: list[bytes] = [b": keep-alive\n\n", b"retry: 5\n\n", b"id: 7\n\n"]
    if wire.adapter == "anthropic":
        noise += [anthropic_event({"type": "ping"}), anthropic_event({"type": "from_the_future", "index": 3})]
    else:
        noise += [openai_chunk({}, choices=[]), openai_chunk({"role": "assistant", "future": {"x": [1]}})]
    events: list[bytes] = []
    for event in wire.text("Hello ", "there"):
        events += [event, *noise] if b"DONE" not in event and b"message_stop" not in event else [event]
    upstream.answer(stream(events))
    async with start() as subject:
        assert text_of(await subject.generate(asking("vendor", wire.model))) == "Hello there"


async def test_connections_are_kept(start: Start, wire: Format, upstream: Upstream) -> None:
    upstream.answer(stream(wire.text("Hello")))
    async with start() as subject:
        for _ in range(3):
            await subject.generate(asking("vendor", wire.model))
    assert len(upstream.requests) == 3
    assert upstream.connections == 1


async def test_input_usage_is_known_before_the_end(start: Start, wire: Format, upstream: Upstream) -> None:
    """Where the vendor says it first, the ledger has it also of attempts that are cancelled."""
    upstream.answer(stream(wire.text("Hello")))
    async with start() as subject:
        events = await subject.generate(asking("vendor", wire.model))
    updates = [event.usage_update.usage for event in events if event.HasField("usage_update")]
    if wire.adapter == "anthropic":
        assert kinds(events)[:2] == ["started", "usage_update"]
        assert (updates[0].input_tokens, updates[0].source) == (19, usage_pb2.USAGE_SOURCE_PARTIAL)
    else:
        assert updates == []
        assert OPENAI_USAGE["prompt_tokens"] == events[-1].completed.usage.input_tokens


async def test_models(start: Start, wire: Format, upstream: Upstream) -> None:
    if wire.adapter == "openai":
        rows: list[dict[str, Any]] = [
            {"id": "b", "object": "model", "created": 1686935002, "owned_by": "openai"},
            {"id": "a", "object": "model", "created": 1686935002, "owned_by": "you"},
        ]
        reply: dict[str, Any] = {"object": "list", "data": rows}
    else:
        row = {"type": "model", "display_name": "B", "created_at": "2025-02-19T00:00:00Z", "lifecycle": "active"}
        more = {"max_input_tokens": 200000, "max_tokens": 64000}
        rows = [{**row, "id": "b", **more}, {**row, "id": "a", "display_name": "A"}]
        reply = {"data": rows, "first_id": "b", "last_id": "a", "has_more": False}
    upstream.answer(plain(json.dumps(reply).encode()))
    async with start() as subject:
        models = (await subject.call("ListModels", pb.ListModelsRequest())).models
    assert [model.id for model in models] == ["a", "b"]
    assert all(model.create_time.seconds > 1_600_000_000 for model in models)
    if wire.adapter == "anthropic":
        assert (models[1].context_window, models[1].max_output_tokens) == (200000, 64000)
        assert models[0].display_name == "A"


async def test_the_stream_ends_at_its_marker_even_if_the_connection_does_not(
    start: Start, wire: Format, upstream: Upstream
) -> None:
    async def and_hold(connection: Connection, _: Request) -> None:
        await connection.head()
        for event in wire.text("Hello"):
            await connection.chunk(event)
        await connection.hold()

    upstream.answer(and_hold)
    async with start() as subject:
        assert text_of(await subject.generate(asking("vendor", wire.model))) == "Hello"
        await upstream.peer_closed.wait()


def test_recorded_replies_start_as_documented() -> None:
    assert anthropic_start().startswith(b"event: message_start\ndata: {")
