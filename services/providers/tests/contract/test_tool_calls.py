"""Tool calls in any fragments and any order add up to the same calls, for whoever reads the events and for `Fold`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice.chat.v1 import tool_pb2, usage_pb2
from sluice_kit.fold import Fold

from .conftest import Start, wires_with
from .subject import Subject, asking
from .upstream import Upstream
from .wire_format import Format

NAMES = ["weather", "time", "search", "weather_at"]
TOOLS = [tool_pb2.Tool(function=tool_pb2.FunctionTool(name=name)) for name in NAMES]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(max_size=6), VALUES, max_size=3)


@st.composite
def spoken(draw: st.DrawFn) -> tuple[list[tuple[str, str]], list[dict[str, Any]], list[tuple[int, str]], int]:
    """Returns the calls, their arguments, the fragments in their order, and how many bytes a write holds."""
    arguments = draw(st.lists(ARGUMENTS, min_size=1, max_size=4))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=len(arguments), max_size=len(arguments)))
    calls = [(f"call_{number}", name) for number, name in enumerate(names)]
    queues = []
    for value in arguments:
        text = json.dumps(value, ensure_ascii=draw(st.booleans()))
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=5)))
        queues.append([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)])
    order = draw(st.permutations([number for number, queue in enumerate(queues) for _ in queue]))
    # Calls are numbered as they begin.
    rank = {number: index for index, number in enumerate(dict.fromkeys(order))}
    pieces = [(rank[number], queues[number].pop(0)) for number in order]
    sorted_arguments = [arguments[number] for number in rank]
    return calls, sorted_arguments, pieces, draw(st.sampled_from([1 << 16, 1 << 16, 64, 7]))


@pytest.fixture
async def running(start: Start) -> AsyncIterator[Subject]:
    async with start() as subject:
        yield subject


@wires_with(lambda wire: wire.calls)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spoken())
async def test_any_fragments_in_any_order(
    running: Subject,
    wire: Format,
    upstream: Upstream,
    said: tuple[list[tuple[str, str]], list[dict[str, Any]], list[tuple[int, str]], int],
) -> None:
    calls, arguments, pieces, size = said
    assert wire.calls is not None
    data = b"".join(wire.calls(calls, pieces))
    upstream.answer(wire.stream([data[index : index + size] for index in range(0, len(data), size)]))
    events = await running.generate(asking("vendor", wire.model, tools=TOOLS))

    assert events[-1].completed.finish_reason == usage_pb2.FINISH_REASON_TOOL_CALLS
    fold = Fold()
    for number, event in enumerate(events):
        fold.add(number, event)
    parts = [part.tool_call for part in fold.answer().message.parts if part.HasField("tool_call")]
    assert [part.name for part in parts] == [name for _, name in calls]
    assert [json.loads(part.arguments_json) for part in parts] == arguments
    ids = [part.id for part in parts]
    assert len(set(ids)) == len(ids)
    assert all(ids)
    assert wire.made_up_ids or ids == [id for id, _ in calls]

    begun: dict[int, str] = {}
    for event in events:
        if event.HasField("tool_call_delta"):
            delta = event.tool_call_delta
            # A call says who it is once, with its first delta.
            assert bool(delta.id and delta.name) == (delta.block_index not in begun)
            begun.setdefault(delta.block_index, delta.id)
    assert [begun[index] for index in sorted(begun)] == ids
