"""Requests that ask for everything a format can carry."""

from __future__ import annotations

from typing import Any

from sluice.chat.v1 import message_pb2, parameters_pb2, tool_pb2
from sluice.provider.v1 import provider_service_pb2 as pb

from .subject import asking
from .wire_format import Format

USER, ASSISTANT, TOOL = (
    message_pb2.MESSAGE_ROLE_USER,
    message_pb2.MESSAGE_ROLE_ASSISTANT,
    message_pb2.MESSAGE_ROLE_TOOL,
)
PARAMETERS: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "max_output_tokens": 77,
    "stop": ["END"],
    "seed": 5,
    "presence_penalty": 0.1,
    "frequency_penalty": -0.1,
    "reasoning_effort": parameters_pb2.REASONING_EFFORT_LOW,
    "verbosity": parameters_pb2.VERBOSITY_HIGH,
    "parallel_tool_calls": False,
}
TOOL_ROW = tool_pb2.Tool(
    function=tool_pb2.FunctionTool(
        name="weather",
        description="Tells the weather",
        parameters_json_schema='{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}',
        strict=True,
    )
)
PNG = b"\x89PNG\r\n\x1a\n0000"


def conversation(provider: str) -> list[message_pb2.Message]:
    """A dialogue with every kind of part."""
    part = message_pb2.Part
    reasoning = message_pb2.Reasoning
    call = message_pb2.ToolCall(id="call_1", name="weather", arguments_json='{"city":"Ærø"}')
    return [
        message_pb2.Message(
            role=USER,
            parts=[
                part(text="Look:"),
                part(image=message_pb2.Image(data=PNG, media_type="image/png")),
                part(image=message_pb2.Image(uri="https://example.com/a.jpg")),
                part(file=message_pb2.File(data=b"%PDF-1.7", media_type="application/pdf", name="a.pdf")),
            ],
        ),
        message_pb2.Message(
            role=ASSISTANT,
            parts=[
                part(reasoning=reasoning(text="Hm.", provider=provider, state=b"EqQBCg==")),
                part(reasoning=reasoning(text="Not mine.", provider="someone-else", state=b"zzz")),
                part(text="I ask."),
                part(tool_call=call),
            ],
        ),
        message_pb2.Message(
            role=TOOL, parts=[part(tool_result=message_pb2.ToolResult(call_id="call_1", text="no net", is_error=True))]
        ),
        message_pb2.Message(role=USER, parts=[part(text="And now?")]),
    ]


def full_request(wire: Format) -> pb.GenerateRequest:
    """A request with everything that the format can carry."""
    values = {name: value for name, value in PARAMETERS.items() if name in wire.parameters}
    request = asking(
        "vendor",
        wire.model,
        system_instruction="Be brief.",
        parameters=parameters_pb2.GenerationParameters(**values),
        tools=[TOOL_ROW],
        tool_choice=tool_pb2.ToolChoice(mode=tool_pb2.TOOL_CHOICE_MODE_NAMED, name="weather"),
        response_format=parameters_pb2.ResponseFormat(
            json_schema=parameters_pb2.JsonSchemaFormat(name="out", schema_json='{"type":"object","properties":{}}')
        ),
    )
    del request.messages[:]
    request.messages.extend(conversation("vendor"))
    request.parameters.vendor_options.update({"service_tier": "auto", "metadata": {"user_id": "u1"}})
    return request
