"""What only the Gemini format has: the whole body, why answers end, and how much they cost."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from google import genai
from google.genai import types

from sluice.chat.v1 import parameters_pb2, tool_pb2, usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import SluiceError

from .asked import PNG, full_request
from .format_google import (
    GOOGLE,
    MODEL,
    SIGNATURE,
    error,
    error_info,
    event,
    finished,
    quota_failure,
    reply,
    retry_info,
)
from .subject import Subject, asking, failure_of, kinds, subject
from .test_grounding import passages
from .upstream import Upstream, plain, stream
from .wire_format import KEY


@pytest.fixture
async def running(transport: str, upstream: Upstream, tmp_path: Path) -> AsyncIterator[Subject]:
    upstream.answer(stream(GOOGLE.text("Hello")))
    async with subject(transport, "vendor", {"adapter": "google", **GOOGLE.settings(upstream.url)}, tmp_path) as found:
        yield found


def everything() -> pb.GenerateRequest:
    """A request with everything that the format can carry."""
    request = full_request(GOOGLE)
    request.parameters.ClearField("vendor_options")
    request.parameters.vendor_options.update(
        {
            "safety_settings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
            "cachedContent": "cachedContents/x1",
            "service_tier": "flex",
            "top_k": 40,
        }
    )
    return request


async def test_the_google_body(running: Subject, upstream: Upstream) -> None:
    await running.generate(everything())
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    assert upstream.last.json == {
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "Look:"},
                    {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(PNG).decode()}},
                    {"fileData": {"fileUri": "https://example.com/a.jpg"}},
                    {
                        "inlineData": {
                            "mimeType": "application/pdf",
                            "data": base64.b64encode(b"%PDF-1.7").decode(),
                        }
                    },
                ],
            },
            {
                "role": "model",
                "parts": [
                    {"text": "I ask.", "thoughtSignature": SIGNATURE},
                    {"functionCall": {"id": "call_1", "name": "weather", "args": {"city": "Ærø"}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "call_1", "name": "weather", "response": {"error": "no net"}}},
                ],
            },
            {"role": "user", "parts": [{"text": "And now?"}]},
        ],
        "systemInstruction": {"role": "user", "parts": [{"text": "Be brief."}]},
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "weather", "description": "Tells the weather", "parametersJsonSchema": schema}
                ]
            }
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}},
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        "cachedContent": "cachedContents/x1",
        "serviceTier": "flex",
        "generationConfig": {
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 40,
            "maxOutputTokens": 77,
            "stopSequences": ["END"],
            "seed": 5,
            "presencePenalty": 0.1,
            "frequencyPenalty": -0.1,
            "thinkingConfig": {"includeThoughts": True, "thinkingLevel": "LOW"},
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object", "properties": {}},
        },
    }
    assert upstream.last.headers["x-goog-api-key"] == KEY
    assert KEY not in upstream.last.path


def camel(value: Any) -> Any:
    """The SDK mixes both spellings of names, as JSON of protocol buffers may."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    words = {key: key.split("_") for key in value}
    return {"".join([w[0], *(x.title() for x in w[1:])]): camel(value[key]) for key, w in words.items()}


@pytest.mark.parametrize("whole", [False, True])
async def test_the_sdk_sends_the_same(whole: bool, running: Subject, upstream: Upstream) -> None:
    """The fast path and the vendor's SDK differ in nothing that the vendor acts upon; see ADR 0010."""
    request = everything()
    request.whole = whole
    if whole:
        upstream.answer(GOOGLE.reply(GOOGLE.whole))
    await running.generate(request)
    ours = upstream.last
    body = ours.json
    config = {name: value for name, value in body.items() if name not in ("contents", "generationConfig")}
    config |= {"systemInstruction": body["systemInstruction"]["parts"][0]["text"], **config.pop("toolConfig", {})}
    config["toolConfig"] = {"functionCallingConfig": config.pop("functionCallingConfig")}
    asked: dict[str, Any] = {
        "model": MODEL,
        "contents": body["contents"],
        "config": types.GenerateContentConfig(**config, **body["generationConfig"]),
    }
    async with aiohttp.ClientSession() as session:
        options = types.HttpOptions(base_url=upstream.url, api_version="v1beta", aiohttp_client=session)
        client = genai.Client(api_key=KEY, enterprise=False, http_options=options)
        if whole:
            await client.aio.models.generate_content(**asked)
        else:
            async for _ in await client.aio.models.generate_content_stream(**asked):
                pass
        await client.aio.aclose()
        client.close()
    theirs = upstream.last
    assert theirs is not ours
    assert (theirs.method, theirs.path) == (ours.method, ours.path)
    assert camel(theirs.json) == body
    # How it compresses, and the SDK's own telemetry, concern no answer.
    aside = ("x-goog-api-client", "user-agent", "accept", "connection", "content-length", "host")
    assert {name: value for name, value in theirs.headers.items() if not name.startswith(aside)} == {
        name: value for name, value in ours.headers.items() if not name.startswith(aside)
    }


def used(**counts: int) -> usage_pb2.Usage:
    return usage_pb2.Usage(source=usage_pb2.USAGE_SOURCE_PROVIDER, **counts)


async def test_a_blocked_prompt(running: Subject, upstream: Upstream) -> None:
    blocked = {
        "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
        "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
        "modelVersion": MODEL,
    }
    request = asking("vendor", MODEL)
    for frames in ([event(blocked)], [event({**blocked, "usageMetadata": None})]):
        upstream.answer(stream(frames))
        assert (await failure_of(running, request)).reason_name == "CONTENT_FILTERED"
    request.whole = True
    upstream.answer(plain(json.dumps(blocked).encode()))
    assert (await failure_of(running, request)).reason_name == "CONTENT_FILTERED"


async def test_why_answers_end(running: Subject, upstream: Upstream) -> None:
    words = {
        "RECITATION": "CONTENT_FILTER",
        "BLOCKLIST": "CONTENT_FILTER",
        "PROHIBITED_CONTENT": "CONTENT_FILTER",
        "SPII": "CONTENT_FILTER",
        "MALFORMED_FUNCTION_CALL": "UNSPECIFIED",
        "OTHER": "UNSPECIFIED",
    }
    for word, mine in words.items():
        upstream.answer(stream(finished(word, "Hello")))
        completed = (await running.generate(asking("vendor", MODEL)))[-1].completed
        assert usage_pb2.FinishReason.Name(completed.finish_reason) == f"FINISH_REASON_{mine}"
        assert completed.raw_finish_reason == word


async def test_usage_may_follow_the_end(running: Subject, upstream: Upstream) -> None:
    counted = {"promptTokenCount": 5, "toolUsePromptTokenCount": 2, "candidatesTokenCount": 1, "thoughtsTokenCount": 8}
    last = event({"usageMetadata": counted}).replace(b"\n", b"\r\n")
    first = event({**reply({"text": "Hello"}, finish="STOP"), "usageMetadata": None}).replace(b"\n", b"\r\n")
    upstream.answer(stream([first, last]))
    events = await running.generate(asking("vendor", MODEL))
    assert events[-1].completed.usage == used(input_tokens=7, output_tokens=9, reasoning_tokens=8)
    upstream.answer(stream([first]))
    events = await running.generate(asking("vendor", MODEL))
    assert events[-1].completed.usage.source == usage_pb2.USAGE_SOURCE_ESTIMATED
    assert kinds(events) == ["started", "text_delta", "completed"]


async def test_a_whole_reply_must_say_how_it_ended(running: Subject, upstream: Upstream) -> None:
    for body in (reply({"text": "Hello"}), {"usageMetadata": {"promptTokenCount": 1}}, {}):
        upstream.answer(plain(json.dumps(body).encode()))
        error = await failure_of(running, asking("vendor", MODEL, whole=True))
        assert error.reason_name == "UPSTREAM_PROTOCOL_ERROR"


async def test_what_an_error_asks_for(running: Subject, upstream: Upstream) -> None:
    minute, day = quota_failure("RequestsPerMinute"), quota_failure("RequestsPerMinute", "RequestsPerDay-FreeTier")
    for details, delay, reason in (
        ([retry_info("20.04466179s"), minute], 20.04466179, "UPSTREAM_RATE_LIMITED"),
        ([error_info("RATE_LIMIT_EXCEEDED"), retry_info("0s")], 0.0, "UPSTREAM_RATE_LIMITED"),
        ([retry_info("soon")], None, "UPSTREAM_RATE_LIMITED"),
        ([retry_info("xs")], None, "UPSTREAM_RATE_LIMITED"),
        ([day, retry_info("9s")], 9.0, "UPSTREAM_QUOTA_EXHAUSTED"),
        (["odd", {"violations": "odd"}, {"violations": ["odd"]}], None, "UPSTREAM_RATE_LIMITED"),
    ):
        body = error("no", "RESOURCE_EXHAUSTED", 429, *details)
        # Streams that never began hold the error in a list.
        for wrapped in (body, [body]):
            upstream.answer(plain(json.dumps(wrapped).encode(), 429))
            failed = await failure_of(running, asking("vendor", MODEL))
            assert (failed.reason_name, failed.retry_after) == (reason, delay)
            with pytest.raises(SluiceError) as caught:
                await running.call("ListModels", pb.ListModelsRequest())
            assert (caught.value.reason_name, caught.value.retry_after) == (reason, delay)


async def test_too_long_in_the_words_of_vertex(running: Subject, upstream: Upstream) -> None:
    words = "Unable to submit request because the input token count is 2097152 but model only supports up to 1048576."
    for status, reason in (("INVALID_ARGUMENT", "CONTEXT_TOO_LONG"), ("INTERNAL", "UPSTREAM_UNAVAILABLE")):
        upstream.answer(plain(json.dumps(error(words, status, 400)).encode(), 400))
        assert (await failure_of(running, asking("vendor", MODEL))).reason_name == reason


def choosing(mode: tool_pb2.ToolChoiceMode.ValueType | None, strict: bool = False) -> pb.GenerateRequest:
    request = asking("vendor", MODEL, tools=[tool_pb2.Tool(function=tool_pb2.FunctionTool(name="f", strict=strict))])
    if mode is not None:
        request.tool_choice.mode = mode
    return request


async def test_tool_choice(running: Subject, upstream: Upstream) -> None:
    for mode, strict, written in (
        (None, False, None),
        (tool_pb2.TOOL_CHOICE_MODE_AUTO, False, "AUTO"),
        (tool_pb2.TOOL_CHOICE_MODE_NONE, True, "NONE"),
        (tool_pb2.TOOL_CHOICE_MODE_REQUIRED, True, "ANY"),
        (None, True, "VALIDATED"),
        (tool_pb2.TOOL_CHOICE_MODE_AUTO, True, "VALIDATED"),
    ):
        await running.generate(choosing(mode, strict))
        config = upstream.last.json.get("toolConfig")
        assert config == (None if written is None else {"functionCallingConfig": {"mode": written}})
        assert upstream.last.json["tools"] == [{"functionDeclarations": [{"name": "f"}]}], "without arguments"
    request = choosing(tool_pb2.TOOL_CHOICE_MODE_NAMED)
    request.tool_choice.name = "g"
    assert (await failure_of(running, request)).violations[0].field == "tool_choice.name"


async def test_effort_by_model(running: Subject, upstream: Upstream) -> None:
    none, minimal, high = (
        parameters_pb2.REASONING_EFFORT_NONE,
        parameters_pb2.REASONING_EFFORT_MINIMAL,
        parameters_pb2.REASONING_EFFORT_HIGH,
    )
    for model, effort, written in (
        ("gemini-2.5-flash", none, {"thinkingBudget": 0}),
        ("models/gemini-2.5-flash-lite", none, {"thinkingBudget": 0}),
        ("gemini-2.5-pro", minimal, {"includeThoughts": True, "thinkingBudget": 1024}),
        ("gemini-2.5-pro", high, {"includeThoughts": True, "thinkingBudget": 24576}),
        ("gemini-3-pro", minimal, {"includeThoughts": True, "thinkingLevel": "MINIMAL"}),
        ("gemini-flash-latest", high, {"includeThoughts": True, "thinkingLevel": "HIGH"}),
    ):
        given = parameters_pb2.GenerationParameters(reasoning_effort=effort)
        await running.generate(asking("vendor", model, parameters=given))
        assert upstream.last.json["generationConfig"] == {"thinkingConfig": written}
    own = parameters_pb2.GenerationParameters(reasoning_effort=high)
    own.vendor_options.update({"thinking_config": {"thinkingBudget": -1}})
    await running.generate(asking("vendor", MODEL, parameters=own))
    assert upstream.last.json["generationConfig"] == {"thinkingConfig": {"thinkingBudget": -1}}


async def test_values_that_are_refused(running: Subject, upstream: Upstream) -> None:
    none = parameters_pb2.GenerationParameters(reasoning_effort=parameters_pb2.REASONING_EFFORT_NONE)
    for option, model, given in (
        ("reasoning_effort", "gemini-2.5-pro", none),
        ("reasoning_effort", "gemini-3-flash", none),
        ("stop", MODEL, parameters_pb2.GenerationParameters(stop=list("abcdef"))),
        ("seed", MODEL, parameters_pb2.GenerationParameters(seed=2**31)),
    ):
        error = await failure_of(running, asking("vendor", model, parameters=given))
        assert error.metadata["option"] == option
    for model in ("../../v1/x", "a/../b", "a?key=b", "a b", "a/", "models/a:b"):
        error = await failure_of(running, asking("vendor", model))
        assert [violation.field for violation in error.violations] == ["target.model"]
    assert upstream.requests == []


async def test_passages_are_rendered_for_google(running: Subject, upstream: Upstream) -> None:
    await running.generate(asking("vendor", MODEL, passages=passages(), grounding_instruction="Cite as [p1]."))
    ((lead, question),) = [content["parts"] for content in upstream.last.json["contents"]]
    assert lead["text"].startswith("Cite as [p1].\n\n[p1] src/a.py, lines 10-15 (a)\n<passage>\ndef first():")
    assert question == {"text": "Hello?"}
    await running.generate(asking("vendor", MODEL, passages=passages()))
    assert upstream.last.json["contents"] == [{"role": "user", "parts": [question]}]
