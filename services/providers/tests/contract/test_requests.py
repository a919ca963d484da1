"""What is asked becomes what the vendor receives; and the SDK would send the same."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from sluice.chat.v1 import message_pb2, parameters_pb2, tool_pb2
from sluice_kit.errors import SluiceError
from sluice_providers.wire import chat_request, messages_request

from .asked import ASSISTANT, PARAMETERS, PNG, TOOL, TOOL_ROW, USER, full_request
from .conftest import KEY, Start
from .formats import FORMATS, Format
from .subject import asking, subject, text_of
from .upstream import Upstream, stream


@pytest.mark.parametrize("name", [field.name for field in parameters_pb2.GenerationParameters.DESCRIPTOR.fields])
async def test_every_parameter_is_sent_or_refused_by_name(
    name: str, start: Start, wire: Format, upstream: Upstream
) -> None:
    upstream.answer(stream(wire.text("Hello")))
    async with start() as subject:
        await subject.generate(asking("vendor", wire.model, tools=[TOOL_ROW]))
        baseline = upstream.last.json
        request = asking("vendor", wire.model, tools=[TOOL_ROW])
        option = name
        if name == "vendor_options":
            request.parameters.vendor_options.update({"service_tier": "auto"})
        else:
            request.parameters.MergeFrom(parameters_pb2.GenerationParameters(**{name: PARAMETERS[name]}))
        known = wire.adapter == "openai" or name in messages_request.OPTIONS or name == "vendor_options"
        if known:
            await subject.generate(request)
            assert upstream.last.json != baseline
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
            assert upstream.last.json == baseline


@pytest.mark.parametrize(
    ("fields", "refused_by"),
    [
        ({"response_format": parameters_pb2.ResponseFormat(json=parameters_pb2.JsonFormat())}, {"anthropic"}),
        ({"tools": [tool_pb2.Tool(custom=tool_pb2.CustomTool(name="free"))]}, {"anthropic"}),
        ({"parameters": parameters_pb2.GenerationParameters(stop=list("abcde"))}, {"openai"}),
        (
            {
                "parameters": parameters_pb2.GenerationParameters(
                    reasoning_effort=parameters_pb2.REASONING_EFFORT_MINIMAL
                )
            },
            {"anthropic"},
        ),
    ],
    ids=["json", "custom-tool", "five-stops", "minimal-effort"],
)
async def test_what_only_some_can(
    fields: dict[str, Any], refused_by: set[str], start: Start, wire: Format, upstream: Upstream
) -> None:
    upstream.answer(stream(wire.text("Hello")))
    async with start() as subject:
        if wire.adapter in refused_by:
            with pytest.raises(SluiceError) as caught:
                await subject.generate(asking("vendor", wire.model, **fields))
            assert caught.value.reason_name == "UNSUPPORTED_OPTION"
            assert upstream.requests == []
        else:
            assert text_of(await subject.generate(asking("vendor", wire.model, **fields))) == "Hello"


async def test_what_is_no_tuning_is_refused_even_if_lenient(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    settings = {"adapter": "anthropic", "api_key": KEY, "base_url": upstream.url}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        request = asking("vendor", "m", lenient=True, tools=[tool_pb2.Tool(custom=tool_pb2.CustomTool(name="free"))])
        with pytest.raises(SluiceError) as caught:
            await running.generate(request)
        assert caught.value.metadata["option"] == "tools.custom"


async def test_the_openai_body(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    wire = FORMATS["openai"]
    upstream.answer(stream(wire.text("Hello")))
    settings = {"adapter": "openai", "api_key": KEY, "base_url": upstream.url + "/v1"}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        await running.generate(full_request(wire))
    data = base64.b64encode(PNG).decode()
    pdf = base64.b64encode(b"%PDF-1.7").decode()
    function = {
        "name": "weather",
        "description": "Tells the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    }
    assert upstream.last.json == {
        "model": wire.model,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look:"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
                    {"type": "image_url", "image_url": {"url": "https://example.com/a.jpg"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{pdf}"}},
                ],
            },
            {
                "role": "assistant",
                "content": "I ask.",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Ærø"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "The tool failed: no net"},
            {"role": "user", "content": "And now?"},
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.1,
        "seed": 5,
        "parallel_tool_calls": False,
        "max_completion_tokens": 77,
        "stop": ["END"],
        "reasoning_effort": "low",
        "verbosity": "high",
        "service_tier": "auto",
        "metadata": {"user_id": "u1"},
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "out", "schema": {"type": "object", "properties": {}}, "strict": True},
        },
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_the_anthropic_body(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    wire = FORMATS["anthropic"]
    upstream.answer(stream(wire.text("Hello")))
    settings = {"adapter": "anthropic", "api_key": KEY, "base_url": upstream.url}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        await running.generate(full_request(wire))
    data = base64.b64encode(PNG).decode()
    pdf = base64.b64encode(b"%PDF-1.7").decode()
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    document = {"type": "base64", "media_type": "application/pdf", "data": pdf}
    failed = {"type": "tool_result", "tool_use_id": "call_1", "content": "no net", "is_error": True}
    assert upstream.last.json == {
        "model": wire.model,
        "max_tokens": 77,
        "system": "Be brief.",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look:"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
                    {"type": "image", "source": {"type": "url", "url": "https://example.com/a.jpg"}},
                    {"type": "document", "source": document, "title": "a.pdf"},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "EqQBCg=="},
                    {"type": "text", "text": "I ask."},
                    {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Ærø"}},
                ],
            },
            {"role": "user", "content": [failed]},
            {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
        ],
        "stop_sequences": ["END"],
        "thinking": {"type": "adaptive", "display": "summarized"},
        "output_config": {
            "effort": "low",
            "format": {"type": "json_schema", "schema": {"type": "object", "properties": {}}},
        },
        "tools": [{"name": "weather", "description": "Tells the weather", "input_schema": schema, "strict": True}],
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        "service_tier": "auto",
        "metadata": {"user_id": "u1"},
        "stream": True,
    }


async def test_a_server_that_wants_no_key_gets_none(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(stream(FORMATS["openai"].text("Hello")))
    settings = {
        "adapter": "openai",
        "api_key": "",
        "base_url": upstream.url,
        "max_tokens_field": "max_tokens",
        "stream_usage": False,
        "system_role": "developer",
        "vendor_options": ["top_k"],
    }
    async with subject(transport, "vllm", settings, tmp_path) as running:
        request = asking("vllm", "llama", system_instruction="Be brief.")
        request.parameters.max_output_tokens = 9
        request.parameters.vendor_options.update({"top_k": 40})
        await running.generate(request)
    assert "authorization" not in upstream.last.headers
    body = upstream.last.json
    assert (body["max_tokens"], body["top_k"], body["messages"][0]["role"]) == (9, 40, "developer")
    assert "stream_options" not in body


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
                role=ASSISTANT, parts=[message_pb2.Part(image=message_pb2.Image(uri="https://a.example/b"))]
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
    bad = tool_pb2.Tool(function=tool_pb2.FunctionTool(name="f", parameters_json_schema="{"))
    async with start() as subject:
        with pytest.raises(SluiceError) as caught:
            await subject.generate(asking("vendor", wire.model, tools=[bad]))
        assert caught.value.violations[0].field == "tools[0].function.parameters_json_schema"


def test_no_vendor_option_can_change_what_a_reply_means() -> None:
    assert not chat_request.VENDOR_OPTIONS & chat_request.FORBIDDEN_VENDOR_OPTIONS
    request = asking("vendor", "m")
    for name in chat_request.FORBIDDEN_VENDOR_OPTIONS:
        option = f"vendor_options.{name}"
        assert chat_request.unsupported(request, [option], chat_request.FORBIDDEN_VENDOR_OPTIONS) == [option]
