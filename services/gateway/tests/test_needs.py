"""What a request needs and a target is known not to have."""

from typing import Any

import pytest

from sluice.chat.v1.message_pb2 import Image, Message, MessageRole, Part
from sluice.chat.v1.parameters_pb2 import (
    GenerationParameters,
    JsonFormat,
    JsonSchemaFormat,
    ReasoningEffort,
    ResponseFormat,
)
from sluice.chat.v1.target_pb2 import Target
from sluice.chat.v1.tool_pb2 import FunctionTool, Tool
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_gateway.pipeline.needs import needs_of
from sluice_kit.call import Call

R = ErrorReason
TOOLS = [Tool(function=FunctionTool(name="look"))]
SCHEMA = ResponseFormat(json_schema=JsonSchemaFormat(name="a", schema_json="{}"))
HARD = GenerationParameters(reasoning_effort=ReasoningEffort.REASONING_EFFORT_HIGH)
IMAGE = Message(role=MessageRole.MESSAGE_ROLE_USER, parts=[Part(image=Image(data=b"x", media_type="image/png"))])
SAYS = {"steps": [{"text": "words"}]}
PROVIDERS = {
    "scripted": {
        "adapter": "scripted",
        "scripts": {"plain": SAYS, "vague": SAYS, "bare": SAYS},
        "models": [
            {"id": "plain", "capabilities": ["streaming", "citations"]},
            {"id": "vague", "capabilities": ["streaming"]},
        ],
    }
}


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, []),
        ({"tools": TOOLS}, ["tools"]),
        ({"response_format": SCHEMA}, ["response_format.json_schema"]),
        ({"response_format": ResponseFormat(json=JsonFormat())}, []),
        ({"parameters": HARD}, ["reasoning_effort"]),
        ({"parameters": HARD, "lenient": True}, []),
        ({"parameters": GenerationParameters(reasoning_effort=ReasoningEffort.REASONING_EFFORT_MINIMAL)}, []),
        ({"messages": [IMAGE], "tools": TOOLS}, ["tools", "images"]),
    ],
)
def test_what_a_request_needs(fields: dict[str, Any], options: list[str]) -> None:
    assert [need.option for need in needs_of(pb.ChatSpec(**fields))] == options


async def test_who_is_known_not_to_have_it_is_passed_over(start: Any, ask: Any) -> None:
    plain, tool = "scripted/plain", "scripted/tool"
    async with start(providers=PROVIDERS) as client:
        # Nothing is known yet, and nobody waits for that: the vendor decides.
        unknown = await client.stream(ask(plain, tools=TOOLS))
        assert unknown.error is None
        await client.gateway.catalog.find(Target(provider="scripted", model="plain"), Call("/test"))
        seen = await client.stream(ask(plain, tools=TOOLS, fallbacks=[tool]))
        assert seen.error is None
        assert seen.kinds[:3] == ["accepted", "route_changed", "started"]
        changed = seen.events[1][1].route_changed
        assert (changed.reason, changed.previous.model, changed.target.model) == (
            R.ERROR_REASON_UNSUPPORTED_OPTION,
            "plain",
            "tool",
        )
        assert [target.model for target in seen.events[0][1].accepted.targets] == ["tool"]
        refused = await client.stream(ask(plain, tools=TOOLS))
        assert refused.error is not None
        assert refused.error.reason == R.ERROR_REASON_UNSUPPORTED_OPTION
        assert refused.error.metadata == {"option": "tools", "provider": "scripted"}
        assert refused.events == []
        # Plain requests go where they went. What is not known excludes nobody: a model of which the list says only that
        # it answers, one that it does not have, and what it says of no model.
        images = pb.ChatSpec(model=plain, messages=[IMAGE])
        for spec in (
            ask(plain),
            ask("scripted/vague", tools=TOOLS),
            ask("scripted/text?tokens=1", tools=TOOLS),
            images,
        ):
            assert "route_changed" not in (await client.stream(spec)).kinds
        lenient = ask(plain, parameters=HARD, lenient=True)
        assert (await client.stream(lenient)).error is None
        rows = await client.rows("attempts")
    # One that was passed over was not attempted.
    assert [row["model"] for row in rows].count("tool") == 1
    assert len(rows) == 7


async def test_one_that_is_passed_over_later_leaves_no_trace(start: Any, ask: Any) -> None:
    async with start({"limits": {"retries": 0}}, providers=PROVIDERS) as client:
        await client.gateway.catalog.find(Target(provider="scripted", model="plain"), Call("/test"))
        bad = "scripted/text?fault=UPSTREAM_OVERLOADED"
        seen = await client.stream(ask(bad, response_format=SCHEMA, fallbacks=["scripted/plain", "scripted/json"]))
    assert seen.error is None
    [changed] = [event.route_changed for _, event in seen.events if event.HasField("route_changed")]
    assert changed.reason == R.ERROR_REASON_UPSTREAM_OVERLOADED
    assert seen.last.completed.attempts[-1].target.model == "json"
