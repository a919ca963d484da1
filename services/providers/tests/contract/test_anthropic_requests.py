"""What only the Anthropic format has: the whole body."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from sluice.chat.v1 import parameters_pb2
from sluice_kit.errors import SluiceError

from .asked import PNG, full_request
from .format_anthropic import ANTHROPIC
from .subject import asking, subject
from .upstream import Upstream

KEPT = {"type": "ephemeral"}


async def test_minimal_effort_is_refused(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    settings = {"adapter": "anthropic", **ANTHROPIC.settings(upstream.url)}
    minimal = parameters_pb2.GenerationParameters(reasoning_effort=parameters_pb2.REASONING_EFFORT_MINIMAL)
    async with subject(transport, "vendor", settings, tmp_path) as running:
        with pytest.raises(SluiceError) as caught:
            await running.generate(asking("vendor", "m", parameters=minimal))
        assert caught.value.metadata["option"] == "reasoning_effort"
    assert upstream.requests == []


async def test_the_anthropic_body(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    wire = ANTHROPIC
    upstream.answer(wire.stream(wire.text("Hello")))
    settings = {"adapter": "anthropic", **wire.settings(upstream.url)}
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
        "system": [{"type": "text", "text": "Be brief.", "cache_control": KEPT}],
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
            {"role": "user", "content": [{**failed, "cache_control": KEPT}]},
            {"role": "user", "content": [{"type": "text", "text": "And now?", "cache_control": KEPT}]},
        ],
        "stop_sequences": ["END"],
        "thinking": {"type": "adaptive", "display": "summarized"},
        "output_config": {
            "effort": "low",
            "format": {"type": "json_schema", "schema": {"type": "object", "properties": {}}},
        },
        "tools": [
            {
                "name": "weather",
                "description": "Tells the weather",
                "input_schema": schema,
                "strict": True,
                "cache_control": KEPT,
            }
        ],
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        "service_tier": "auto",
        "metadata": {"user_id": "u1"},
        "stream": True,
    }
