"""What is asked becomes what the vendor receives, or is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from sluice.chat.v1 import message_pb2, parameters_pb2, tool_pb2
from sluice_kit.errors import SluiceError

from .asked import ASSISTANT, PARAMETERS, TOOL, TOOL_ROW, USER
from .conftest import Start
from .subject import asking, text_of
from .upstream import Request, Upstream
from .wire_format import Format

_EVERY = [field.name for field in parameters_pb2.GenerationParameters.DESCRIPTOR.fields]


def sent(request: Request) -> tuple[str, Any]:
    """Returns what reached the vendor."""
    return request.path, request.json


@pytest.mark.parametrize("name", _EVERY)
async def test_every_parameter_is_sent_or_refused_by_name(
    name: str, start: Start, wire: Format, upstream: Upstream
) -> None:
    upstream.answer(wire.stream(wire.text("Hello")))
    async with start() as subject:
        tool = tool_pb2.Tool()
        tool.CopyFrom(TOOL_ROW)
        if "tools.strict" in wire.refuses:
            tool.function.ClearField("strict")
        tools = [] if "tools" in wire.refuses else [tool]
        await subject.generate(asking("vendor", wire.model, tools=tools))
        baseline = sent(upstream.last)
        request = asking("vendor", wire.model, tools=tools)
        if name != "vendor_options":
            option = name
            request.parameters.MergeFrom(parameters_pb2.GenerationParameters(**{name: PARAMETERS[name]}))
            known = name in wire.parameters
        else:
            word, value = wire.vendor_option or ("no_such_option", True)
            option = f"vendor_options.{word}"
            request.parameters.vendor_options.update({word: value})
            known = wire.vendor_option is not None
        if known:
            await subject.generate(request)
            assert sent(upstream.last) != baseline
        else:
            with pytest.raises(SluiceError) as caught:
                await subject.generate(request)
            error = caught.value
            assert error.reason_name == "UNSUPPORTED_OPTION"
            assert error.metadata["option"] == option
            assert [violation.field for violation in error.violations] == [option]
            assert len(upstream.requests) == 1
            request.lenient = True
            events = await subject.generate(request)
            assert [event.notice.metadata["option"] for event in events if event.HasField("notice")] == [option]
            assert sent(upstream.last) == baseline


def user(**part: Any) -> message_pb2.Message:
    """A user's message of one part."""
    return message_pb2.Message(role=USER, parts=[message_pb2.Part(**part)])


_FORM = parameters_pb2.ResponseFormat
_SCHEMA = parameters_pb2.JsonSchemaFormat(name="out", schema_json='{"type":"object","properties":{}}')
_FUNCTION = tool_pb2.FunctionTool(name="weather")
_NO_TUNING: dict[str, dict[str, Any]] = {
    "tools": {"tools": [tool_pb2.Tool(function=_FUNCTION)]},
    "tools.custom": {"tools": [tool_pb2.Tool(custom=tool_pb2.CustomTool(name="free"))]},
    "tool_choice": {
        "tools": [tool_pb2.Tool(function=_FUNCTION)],
        "tool_choice": tool_pb2.ToolChoice(mode=tool_pb2.TOOL_CHOICE_MODE_REQUIRED),
    },
    "response_format.json": {"response_format": _FORM(json=parameters_pb2.JsonFormat())},
    "response_format.json_schema": {"response_format": _FORM(json_schema=_SCHEMA)},
    "images": {"messages": [user(image=message_pb2.Image(data=b"\x89PNG", media_type="image/png"))]},
    "images.uri": {"messages": [user(image=message_pb2.Image(uri="https://a.example/b.png", media_type="image/png"))]},
    "files": {"messages": [user(file=message_pb2.File(data=b"%PDF-1.7", media_type="application/pdf", name="a.pdf"))]},
    "files.uri": {
        "messages": [user(file=message_pb2.File(uri="https://a.example/b.pdf", media_type="application/pdf"))]
    },
}


@pytest.mark.parametrize("option", list(_NO_TUNING))
async def test_what_changes_the_answer_is_sent_or_refused_even_if_lenient(
    option: str, start: Start, wire: Format, upstream: Upstream
) -> None:
    upstream.answer(wire.stream(wire.text("Hello")))
    async with start() as subject:
        plain = asking("vendor", wire.model)
        await subject.generate(plain)
        baseline = sent(upstream.last)
        request = asking("vendor", wire.model, lenient=True)
        fields = dict(_NO_TUNING[option])
        messages = fields.pop("messages", None)
        if messages:
            del request.messages[:]
            request.messages.extend(messages)
        request.MergeFrom(type(request)(**fields))
        if option not in wire.refuses:
            assert text_of(await subject.generate(request)) == "Hello"
            assert sent(upstream.last) != baseline
        else:
            with pytest.raises(SluiceError) as caught:
                await subject.generate(request)
            assert caught.value.reason_name == "UNSUPPORTED_OPTION"
            # An option may be refused for what it needs: `images.uri` for `images`, `tool_choice` for `tools`.
            assert caught.value.metadata["option"] in {option, option.partition(".")[0], *fields}
            assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (
            message_pb2.Message(role=USER, parts=[message_pb2.Part(tool_result=message_pb2.ToolResult(call_id="x"))]),
            "messages[0].parts[0]",
        ),
        (message_pb2.Message(role=TOOL, parts=[message_pb2.Part(text="x")]), "messages[0].parts[0]"),
        (
            message_pb2.Message(
                role=ASSISTANT, parts=[message_pb2.Part(image=message_pb2.Image(data=b"x", media_type="image/png"))]
            ),
            "messages[0].parts[0]",
        ),
        (
            message_pb2.Message(role=USER, parts=[message_pb2.Part(image=message_pb2.Image(data=b"x"))]),
            "messages[0].parts[0].image.media_type",
        ),
    ],
    ids=["result-from-user", "text-from-tool", "image-from-assistant", "no-media-type"],
)
async def test_parts_that_stand_where_they_may_not(
    message: message_pb2.Message, field: str, start: Start, wire: Format, upstream: Upstream
) -> None:
    async with start() as subject:
        request = asking("vendor", wire.model)
        request.messages[0].CopyFrom(message)
        with pytest.raises(SluiceError) as caught:
            await subject.generate(request)
        assert caught.value.reason_name == "INVALID_REQUEST"
        assert [violation.field for violation in caught.value.violations] == [field]
    assert upstream.requests == []


async def test_json_that_is_none_is_refused_by_field(start: Start, wire: Format, upstream: Upstream) -> None:
    request = asking("vendor", wire.model)
    if "tools" not in wire.refuses:
        field = "tools[0].function.parameters_json_schema"
        request.tools.add().function.CopyFrom(tool_pb2.FunctionTool(name="f", parameters_json_schema="{"))
    else:
        field = "response_format.json_schema.schema_json"
        schema = parameters_pb2.JsonSchemaFormat(name="f", schema_json="{")
        request.response_format.json_schema.CopyFrom(schema)
    async with start() as subject:
        with pytest.raises(SluiceError) as caught:
            await subject.generate(request)
        assert caught.value.violations[0].field == field


async def test_json_that_is_nested_too_deeply_is_the_callers_fault(
    start: Start, wire: Format, upstream: Upstream
) -> None:
    upstream.answer(wire.stream(wire.text("Hello")))
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000  # no Python reads that; how much less it reads is for each to say
    by_schema = asking("vendor", wire.model)
    by_schema.tools.add().function.MergeFrom(tool_pb2.FunctionTool(name="f", parameters_json_schema=deep))
    by_call = asking("vendor", wire.model)
    call = message_pb2.ToolCall(id="c", name="f", arguments_json=deep)
    by_call.messages.add(role=ASSISTANT, parts=[message_pb2.Part(tool_call=call)])
    result = message_pb2.ToolResult(call_id="c", text="done")
    by_call.messages.add(role=TOOL, parts=[message_pb2.Part(tool_result=result)])
    reasons = []
    async with start() as subject:
        for request in (by_schema, by_call):
            try:
                await subject.generate(request)
            except SluiceError as error:
                reasons.append(error.reason_name)
            else:
                reasons.append("")
    refused = {"INVALID_REQUEST", "UNSUPPORTED_OPTION"}
    assert reasons[0] in refused
    assert reasons[1] in refused | {""}  # a format that takes arguments as text passes them on as they are
