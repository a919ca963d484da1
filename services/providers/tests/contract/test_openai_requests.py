"""What only the OpenAI format has: the whole body, and the settings for servers that differ."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from sluice.chat.v1 import parameters_pb2
from sluice_kit.errors import SluiceError
from sluice_providers.wire import chat_request
from sluice_providers.wire.chat_dialect import ChatDialect

from .asked import PNG, full_request
from .format_openai import OPENAI
from .subject import asking, subject
from .upstream import Upstream


async def test_more_stops_than_the_format_has_are_refused(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    settings = {"adapter": "openai", **OPENAI.settings(upstream.url)}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        with pytest.raises(SluiceError) as caught:
            await running.generate(
                asking("vendor", "m", parameters=parameters_pb2.GenerationParameters(stop=list("abcde")))
            )
        assert caught.value.metadata["option"] == "stop"
    assert upstream.requests == []


async def test_the_openai_body(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    wire = OPENAI
    upstream.answer(wire.stream(wire.text("Hello")))
    settings = {"adapter": "openai", **wire.settings(upstream.url)}
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


async def test_a_server_that_wants_no_key_gets_none(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(OPENAI.stream(OPENAI.text("Hello")))
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


def test_no_vendor_option_can_change_what_a_reply_means() -> None:
    assert not chat_request.VENDOR_OPTIONS & chat_request.FORBIDDEN_VENDOR_OPTIONS
    request = asking("vendor", "m")
    for name in chat_request.FORBIDDEN_VENDOR_OPTIONS:
        option = f"vendor_options.{name}"
        dialect = ChatDialect(vendor_options=tuple(chat_request.FORBIDDEN_VENDOR_OPTIONS))
        assert chat_request.unsupported(request, [option], dialect) == [option]
