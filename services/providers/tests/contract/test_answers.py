"""What vendors answer becomes events: text, reasoning, tool calls, usage; streamed or whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sluice.chat.v1 import tool_pb2, usage_pb2
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb

from .conftest import Start, wires_with
from .subject import asking, kinds, text_of
from .upstream import Connection, Request, Upstream
from .wire_format import Format


def weather_tools(wire: Format) -> list[tool_pb2.Tool]:
    if "tools" in wire.refuses:
        return []  # its replies are read all the same
    return [
        tool_pb2.Tool(function=tool_pb2.FunctionTool(name="weather", parameters_json_schema='{"type":"object"}')),
        tool_pb2.Tool(function=tool_pb2.FunctionTool(name="time")),
    ]


def counts(usage: usage_pb2.Usage) -> tuple[int, int, int, int]:
    """Returns input, cached, output and reasoning tokens."""
    return usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens


async def test_text(start: Start, wire: Format, upstream: Upstream) -> None:
    header = {wire.request_id_header: "req_77"} if wire.request_id_header else {}
    upstream.answer(wire.stream(wire.text("Hej ", "på ", "dig, Ærø 🙂"), **header))
    async with start() as subject:
        events = await subject.generate(asking("vendor", wire.model))
    assert text_of(events) == "Hej på dig, Ærø 🙂"
    assert events[0].started.model == wire.model
    if header:
        assert events[0].started.vendor_request_id == "req_77"
    assert {event.text_delta.block_index for event in events if event.HasField("text_delta")} == {0}
    completed = events[-1].completed
    assert completed.finish_reason == usage_pb2.FINISH_REASON_STOP
    assert completed.raw_finish_reason == wire.finish_words["stop"]
    usage = completed.usage
    assert usage.source == usage_pb2.USAGE_SOURCE_PROVIDER
    assert counts(usage) == wire.usage
    assert upstream.last.path == wire.path
    assert wire.streams(upstream.last)


async def test_a_whole_reply_gives_the_same_events(start: Start, wire: Format, upstream: Upstream) -> None:
    async with start() as subject:
        upstream.answer(wire.stream(wire.text("Hello ", "there")))
        streamed = await subject.generate(asking("vendor", wire.model))
        upstream.answer(wire.reply(wire.whole))
        whole = await subject.generate(asking("vendor", wire.model, whole=True))
    assert upstream.last.path == (wire.whole_path or wire.path)
    assert not wire.streams(upstream.last)
    assert text_of(whole) == text_of(streamed) == "Hello there"
    assert whole[-1].completed == streamed[-1].completed
    assert len(subject.batches) == 1


async def test_a_whole_reply_with_tool_calls(start: Start, wire: Format, upstream: Upstream) -> None:
    upstream.answer(wire.reply(wire.whole_tools))
    async with start() as subject:
        events = await subject.generate(asking("vendor", wire.model, whole=True, tools=weather_tools(wire)))
    assert text_of(events, 0) == "Looking."
    calls = [event.tool_call_delta for event in events if event.HasField("tool_call_delta")]
    assert {call.block_index for call in calls} == {1}
    assert json.loads("".join(call.arguments_json for call in calls)) == {"city": "Aarhus"}
    assert events[-1].completed.finish_reason == usage_pb2.FINISH_REASON_TOOL_CALLS


async def test_parallel_fragmented_tool_calls(start: Start, wire: Format, upstream: Upstream) -> None:
    upstream.answer(wire.stream(wire.tools))
    async with start() as subject:
        events = await subject.generate(asking("vendor", wire.model, tools=weather_tools(wire)))
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        if event.HasField("tool_call_delta"):
            delta = event.tool_call_delta
            call = calls.setdefault(delta.block_index, {"id": delta.id, "name": delta.name, "arguments": ""})
            if call["arguments"] or delta.arguments_json:
                assert not (delta.id and call["arguments"]), "id and name come once, first"
            call["arguments"] += delta.arguments_json
    assert [call["name"] for call in calls.values()] == ["weather", "time"]
    ids = [call["id"] for call in calls.values()]
    assert len(set(ids)) == 2
    assert all(ids)
    assert wire.made_up_ids or ids == ["call_a", "call_b"]
    assert [json.loads(call["arguments"]) for call in calls.values()] == [{"city": "Aarhus"}, {"zone": "CET"}]
    assert events[-1].completed.finish_reason == usage_pb2.FINISH_REASON_TOOL_CALLS


@wires_with(lambda wire: wire.reasoning)
async def test_reasoning(start: Start, wire: Format, upstream: Upstream) -> None:
    upstream.answer(wire.stream(wire.reasoning or []))
    async with start() as subject:
        events = await subject.generate(asking("vendor", wire.model))
    deltas = [event.reasoning_delta for event in events if event.HasField("reasoning_delta")]
    assert "".join(delta.text for delta in deltas) == "Let me think."
    assert {delta.block_index for delta in deltas} == {0}
    assert text_of(events, 1) == "Yes."
    assert b"".join(delta.state for delta in deltas) == wire.reasoning_state


async def test_what_one_read_brings_leaves_as_one_batch(start: Start, wire: Format, upstream: Upstream) -> None:
    pieces = [f"w{index} " for index in range(50)]

    async def at_once(connection: Connection, _: Request) -> None:
        await connection.head(wire.media_type)
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
            upstream.answer(wire.stream([data[index : index + size] for index in range(0, len(data), size)]))
            assert text_of(await subject.generate(asking("vendor", wire.model))) == "Ærø 🙂"


@pytest.mark.parametrize(
    ("word", "mine"),
    [("length", "LENGTH"), ("content_filter", "CONTENT_FILTER"), ("something_new", "UNSPECIFIED")],
)
async def test_finish_reasons(word: str, mine: str, start: Start, wire: Format, upstream: Upstream) -> None:
    raw = wire.finish_words.get(word, word)
    if word not in wire.finish_words:
        mine = "UNSPECIFIED"  # a word that the vendor does not have means nothing
    upstream.answer(wire.stream(wire.finished(raw, "Hello")))
    async with start() as subject:
        completed = (await subject.generate(asking("vendor", wire.model)))[-1].completed
    assert usage_pb2.FinishReason.Name(completed.finish_reason) == f"FINISH_REASON_{mine}"
    assert completed.raw_finish_reason == raw


async def test_usage_without_a_report_is_estimated(start: Start, wire: Format, upstream: Upstream) -> None:
    upstream.answer(wire.stream(wire.without_usage))
    async with start() as subject:
        usage = (await subject.generate(asking("vendor", wire.model)))[-1].completed.usage
    assert usage.source == usage_pb2.USAGE_SOURCE_ESTIMATED
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0


async def test_comments_pings_and_unknown_events_change_nothing(start: Start, wire: Format, upstream: Upstream) -> None:
    *frames, last = wire.text("Hello ", "there")
    upstream.answer(wire.stream([noisy for frame in frames for noisy in (frame, *wire.noise)] + [last]))
    async with start() as subject:
        assert text_of(await subject.generate(asking("vendor", wire.model))) == "Hello there"


async def test_connections_are_kept(start: Start, wire: Format, upstream: Upstream) -> None:
    upstream.answer(wire.stream(wire.text("Hello")))
    async with start() as subject:
        for _ in range(3):
            await subject.generate(asking("vendor", wire.model))
    assert len(upstream.requests) == 3
    assert upstream.connections == 1


async def test_input_usage_is_known_before_the_end(start: Start, wire: Format, upstream: Upstream) -> None:
    """Where the vendor says it first, the ledger has it also of attempts that are cancelled."""
    upstream.answer(wire.stream(wire.text("Hello")))
    async with start() as subject:
        events = await subject.generate(asking("vendor", wire.model))
    updates = [event.usage_update.usage for event in events if event.HasField("usage_update")]
    if wire.early_usage:
        assert kinds(events)[:2] == ["started", "usage_update"]
        assert (updates[0].input_tokens, updates[0].source) == (wire.usage[0], usage_pb2.USAGE_SOURCE_PARTIAL)
    assert events[-1].completed.usage.input_tokens == wire.usage[0]


async def test_models(start: Start, wire: Format, upstream: Upstream) -> None:
    upstream.answer(wire.models)
    async with start() as subject:
        models = (await subject.call("ListModels", pb.ListModelsRequest())).models
    assert [model.id for model in models] == sorted(model.id for model in models)
    found = {model.id: model for model in models}
    for name, facts in wire.model_facts.items():
        assert {field: getattr(found[name], field) for field in facts} == facts
        assert set(found[name].capabilities) == wire.capabilities[name]
        assert found[name].source == model_pb2.MODEL_SOURCE_DISCOVERED


async def test_the_stream_ends_at_its_marker_even_if_the_connection_does_not(
    start: Start, wire: Format, upstream: Upstream
) -> None:
    async def and_hold(connection: Connection, _: Request) -> None:
        await connection.head(wire.media_type)
        for event in wire.text("Hello"):
            await connection.chunk(event)
        await connection.hold()

    upstream.answer(and_hold)
    async with start() as subject:
        assert text_of(await subject.generate(asking("vendor", wire.model))) == "Hello"
        await upstream.peer_closed.wait()
