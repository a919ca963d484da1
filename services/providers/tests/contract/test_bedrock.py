"""What only the Converse format has: the whole body, its form by the SDK, citations, failures in the stream."""

from __future__ import annotations

import asyncio
import base64
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
import pytest
from botocore.config import Config

from sluice.chat.v1 import event_pb2, message_pb2, parameters_pb2, tool_pb2, usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import SluiceError
from sluice_providers.wire.converse_request import converse_body

from .asked import ASSISTANT, PARAMETERS, PNG, TOOL, TOOL_ROW, USER, conversation
from .format_bedrock import BEDROCK, USE, delta, end, event, exception, frame, start, stop, whole
from .subject import Subject, asking, failure_of, kinds, subject, text_of
from .test_grounding import passages
from .upstream import Upstream, plain
from .wire_format import KEY

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
VENDOR: dict[str, Any] = {
    "additionalModelRequestFields": {"top_k": 5},
    "guardrailConfig": {"guardrailIdentifier": "g1", "guardrailVersion": "1", "trace": "enabled"},
    "performanceConfig": {"latency": "optimized"},
    "requestMetadata": {"team": "blue"},
    "serviceTier": {"type": "priority"},
}
part = message_pb2.Part


def at(upstream: Upstream, folder: Path, transport: str = "colocated") -> AbstractAsyncContextManager[Subject]:
    """Runs the adapter against the upstream."""
    return subject(transport, "vendor", {"adapter": "bedrock", **BEDROCK.settings(upstream.url)}, folder)


def everything() -> pb.GenerateRequest:
    """A request with all that the format can carry."""
    request = asking(
        "vendor",
        BEDROCK.model,
        system_instruction="Be brief.",
        parameters=parameters_pb2.GenerationParameters(
            **{name: value for name, value in PARAMETERS.items() if name in BEDROCK.parameters}
        ),
        tools=[TOOL_ROW],
        tool_choice=tool_pb2.ToolChoice(mode=tool_pb2.TOOL_CHOICE_MODE_NAMED, name="weather"),
        response_format=parameters_pb2.ResponseFormat(
            json_schema=parameters_pb2.JsonSchemaFormat(name="out", schema_json='{"type": "object"}')
        ),
    )
    dialogue = conversation("vendor")
    dialogue[0].parts[2].image.uri = "s3://bucket/a.jpg"
    dialogue[0].parts[2].image.media_type = "image/jpeg"
    for name, kind in (("a.pdf", "application/pdf"), ("nøtes_1.md", "text/markdown; charset=utf-8"), ("", "text/csv")):
        dialogue[0].parts.add().file.CopyFrom(message_pb2.File(data=b"a,b", media_type=kind, name=name))
    dialogue[1].parts.add().reasoning.CopyFrom(message_pb2.Reasoning(provider="vendor", state=b"redacted:\x01\x02"))
    del request.messages[:]
    request.messages.extend(dialogue)
    request.parameters.vendor_options.update(VENDOR)
    return request


async def test_the_body(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(BEDROCK.stream(BEDROCK.text("Hello")))
    async with at(upstream, tmp_path, transport) as running:
        await running.generate(everything())

    def data(value: bytes) -> dict[str, str]:
        return {"bytes": base64.b64encode(value).decode()}

    documents = [("pdf", "a pdf", b"%PDF-1.7"), ("pdf", "a pdf 2", b"a,b"), ("md", "n tes 1 md", b"a,b")]
    assert upstream.last.headers["content-type"] == "application/json"
    assert upstream.last.json == {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"text": "Look:"},
                    {"image": {"format": "png", "source": data(PNG)}},
                    {"image": {"format": "jpeg", "source": {"s3Location": {"uri": "s3://bucket/a.jpg"}}}},
                    *(
                        {"document": {"format": form, "name": name, "source": data(value)}}
                        for form, name, value in documents
                    ),
                    {"document": {"format": "csv", "name": "document", "source": data(b"a,b")}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "EqQBCg=="}}},
                    {"text": "I ask."},
                    {"toolUse": {"toolUseId": "call_1", "name": "weather", "input": {"city": "Ærø"}}},
                    {"reasoningContent": {"redactedContent": "AQI="}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"toolResult": {"toolUseId": "call_1", "content": [{"text": "no net"}], "status": "error"}},
                    {"text": "And now?"},
                ],
            },
        ],
        "system": [{"text": "Be brief."}],
        "inferenceConfig": {"maxTokens": 77, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]},
        "toolConfig": {
            "tools": [
                {
                    "toolSpec": {
                        "name": "weather",
                        "description": "Tells the weather",
                        "inputSchema": {"json": SCHEMA},
                        "strict": True,
                    }
                }
            ],
            "toolChoice": {"tool": {"name": "weather"}},
        },
        "outputConfig": {
            "textFormat": {
                "type": "json_schema",
                "structure": {"jsonSchema": {"schema": '{"type": "object"}', "name": "out"}},
            },
            "effort": "low",
        },
        **VENDOR,
    }


@pytest.mark.parametrize("native", [False, True])
async def test_the_sdk_sends_the_same(native: bool, upstream: Upstream, tmp_path: Path) -> None:
    """It also checks the body against the vendor's own description of it."""
    request = everything()
    if native:
        request.ClearField("response_format")
        request.passages.extend(passages())
    upstream.answer(BEDROCK.stream(BEDROCK.text("Hello")))
    async with at(upstream, tmp_path) as running:
        await running.generate(request)
    ours = upstream.last
    body, _ = converse_body(request, integration="vendor", native_citations=True)
    client = boto3.client(
        "bedrock-runtime",
        region_name="eu-central-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=KEY,
        endpoint_url=upstream.url,
        config=Config(retries={"total_max_attempts": 1}, proxies={}, signature_version="v4"),
    )
    try:
        reply = await asyncio.to_thread(client.converse_stream, modelId=BEDROCK.model, **body)
        await asyncio.to_thread(list, reply["stream"])
    finally:
        client.close()
    theirs = upstream.last
    assert theirs is not ours
    assert (theirs.method, unquote(theirs.path)) == (ours.method, unquote(ours.path))
    assert theirs.json == ours.json
    assert theirs.headers["content-type"] == ours.headers["content-type"]


@pytest.mark.parametrize(
    ("fields", "option"),
    [
        ({"parameters": {"reasoning_effort": parameters_pb2.REASONING_EFFORT_NONE}}, "reasoning_effort"),
        ({"parameters": {"reasoning_effort": parameters_pb2.REASONING_EFFORT_MINIMAL}}, "reasoning_effort"),
        ({"image": message_pb2.Image(uri="https://a.example/b.png", media_type="image/png")}, "images.uri"),
        ({"file": message_pb2.File(uri="https://a.example/b.pdf", media_type="application/pdf")}, "files.uri"),
    ],
)
async def test_what_depends_on_the_value(
    fields: dict[str, Any], option: str, upstream: Upstream, tmp_path: Path
) -> None:
    request = asking("vendor", BEDROCK.model)
    if "parameters" in fields:
        request.parameters.MergeFrom(parameters_pb2.GenerationParameters(**fields["parameters"]))
    else:
        request.messages[0].parts.append(part(**fields))
    async with at(upstream, tmp_path) as running:
        with pytest.raises(SluiceError) as caught:
            await running.generate(request)
    assert caught.value.metadata["option"] == option
    assert upstream.requests == []


async def test_tool_choices(upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(BEDROCK.stream(BEDROCK.text("Hello")))
    request = asking("vendor", BEDROCK.model, tools=[tool_pb2.Tool(function=tool_pb2.FunctionTool(name="f"))])
    async with at(upstream, tmp_path) as running:
        sent = []
        for mode in ("AUTO", "REQUIRED", "NONE"):
            request.tool_choice.mode = tool_pb2.ToolChoiceMode.Value(f"TOOL_CHOICE_MODE_{mode}")
            await running.generate(request)
            sent.append(upstream.last.json.get("toolConfig"))
        request.messages.extend(conversation("vendor")[1:])
        with pytest.raises(SluiceError) as caught:
            await running.generate(request)
    tools = [{"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object", "properties": {}}}}}]
    assert sent == [{"tools": tools, "toolChoice": {"auto": {}}}, {"tools": tools, "toolChoice": {"any": {}}}, None]
    assert caught.value.metadata["option"] == "tool_choice", "a dialogue with calls may not come without tools"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (
            message_pb2.Message(role=USER, parts=[part(image=message_pb2.Image(data=b"x", media_type="image/tiff"))]),
            "messages[0].parts[0].image.media_type",
        ),
        (
            message_pb2.Message(role=USER, parts=[part(file=message_pb2.File(data=b"x", media_type="video/mp4"))]),
            "messages[0].parts[0].file.media_type",
        ),
        (
            message_pb2.Message(
                role=ASSISTANT, parts=[part(tool_call=message_pb2.ToolCall(id="c", name="f", arguments_json="[1]"))]
            ),
            "messages[0].parts[0].tool_call.arguments_json",
        ),
        (message_pb2.Message(role=TOOL, parts=[part(text="x")]), "messages[0].parts[0]"),
    ],
    ids=["tiff", "video", "arguments", "text-from-tool"],
)
async def test_parts_that_the_format_has_no_form_for(
    message: message_pb2.Message, field: str, upstream: Upstream, tmp_path: Path
) -> None:
    request = asking("vendor", BEDROCK.model)
    request.messages[0].CopyFrom(message)
    async with at(upstream, tmp_path) as running:
        with pytest.raises(SluiceError) as caught:
            await running.generate(request)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_blank_texts_are_never_sent() -> None:
    request = asking("vendor", BEDROCK.model)
    call = message_pb2.ToolCall(id="c", name="f")
    request.messages.add(role=ASSISTANT, parts=[part(text="\n\n"), part(tool_call=call)])
    request.messages.add(role=TOOL, parts=[part(tool_result=message_pb2.ToolResult(call_id="c", text=" "))])
    _, asked, result = converse_body(request, integration="vendor", native_citations=True)[0]["messages"]
    assert [set(block) for block in asked["content"]] == [{"toolUse"}]
    assert result["content"][0]["toolResult"]["content"] == [{"text": "(empty)"}]


def location(result: int, start: int, end: int) -> dict[str, Any]:
    place = {"searchResultLocation": {"searchResultIndex": result, "start": start, "end": end}}
    return {"title": "t", "source": "s", "sourceContent": [{"text": "…"}], "location": place}


async def answer(running: Subject, upstream: Upstream, frames: list[bytes], **fields: Any) -> list[event_pb2.Event]:
    upstream.answer(BEDROCK.stream(frames))
    return await running.generate(asking("vendor", BEDROCK.model, **fields))


async def test_native_citations(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    frames = [
        start(),
        delta(0, text="På dansk: "),
        stop(0),
        delta(1, text="second "),
        delta(1, citation=location(0, 1, 2)),
        delta(1, text="gives 2"),
        stop(1),
        delta(2, citation=location(0, 0, 2)),
        delta(2, citation=location(7, 0, 1)),
        delta(2, text=", both"),
        *end("end_turn"),
    ]
    cited = {"content": [{"text": "second "}, {"text": "gives 2"}], "citations": [location(0, 1, 2)]}
    reply = whole("end_turn", {"text": "På dansk: "}, {"citationsContent": cited})
    grounded: dict[str, Any] = {"passages": passages()[:1], "grounding_instruction": "Cite as [p1]."}
    async with at(upstream, tmp_path, transport) as running:
        found = await answer(running, upstream, frames, **grounded)
        body = upstream.last.json
        upstream.answer(plain(reply))
        in_one = await running.generate(asking("vendor", BEDROCK.model, whole=True, **grounded))
    assert claims(found) == [("second gives 2", 14, 15), (", both", 10, 15)]
    assert claims(in_one) == [("second gives 2", 14, 15)]
    result, question = body["messages"][0]["content"]
    assert question == {"text": "Hello?"}
    assert result["searchResult"]["citations"] == {"enabled": True}
    assert [set(block) for block in result["searchResult"]["content"]] == [{"text"}, {"text"}]


def claims(events: list[event_pb2.Event]) -> list[tuple[str, int, int]]:
    data = text_of(events, 0).encode()
    found = [event.citation_delta for event in events if event.HasField("citation_delta")]
    assert {(claim.passage_id, claim.block_index) for claim in found} <= {("p1", 0)}
    return [
        (data[claim.answer_span.start : claim.answer_span.end].decode(), claim.start_line, claim.end_line)
        for claim in found
    ]


@pytest.mark.parametrize(
    ("model", "native"),
    [
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", True),
        ("eu.anthropic.claude-3-7-sonnet-20250219-v1:0", True),
        ("anthropic.claude-3-5-sonnet-20240620-v1:0", False),
        ("anthropic.claude-v2:1", False),
        ("amazon.nova-pro-v1:0", False),
        ("arn:aws:bedrock:eu-central-1:123456789012:application-inference-profile/abc", False),
    ],
)
def test_which_models_get_search_results(model: str, native: bool) -> None:
    request = asking("vendor", model, passages=passages(), grounding_instruction="Cite as [p1].")
    (message,) = converse_body(request, integration="vendor", native_citations=True)[0]["messages"]
    assert ("searchResult" in message["content"][0]) == native
    (message,) = converse_body(request, integration="vendor", native_citations=False)[0]["messages"]
    assert message["content"][0]["text"].startswith("Cite as [p1].")


async def test_redacted_reasoning_and_calls_of_the_vendors_own(upstream: Upstream, tmp_path: Path) -> None:
    own = {"toolUse": {"toolUseId": "s1", "name": "search", "type": "server_tool_use"}}
    frames = [
        start(),
        delta(0, reasoningContent={"redactedContent": "AQI="}),
        delta(0, reasoningContent={"redactedContent": "Aw=="}),
        stop(0),
        event("contentBlockStart", contentBlockIndex=1, start=own),
        delta(1, toolUse={"input": "{}"}),
        stop(1),
        event("contentBlockStart", contentBlockIndex=2, start={"toolUse": {"toolUseId": "c1", "name": "now"}}),
        stop(2),
        *end("tool_use"),
    ]
    thought = {"reasoningContent": {"redactedContent": "AQID"}}
    async with at(upstream, tmp_path) as running:
        streamed = await answer(running, upstream, frames)
        upstream.answer(plain(whole("tool_use", thought, own, {"text": "Hm."}, USE)))
        in_one = await running.generate(asking("vendor", BEDROCK.model, whole=True))
    for events in (streamed, in_one):
        states = [event.reasoning_delta.state for event in events if event.HasField("reasoning_delta")]
        assert b"".join(states) == b"redacted:\x01\x02\x03"
    calls = [event.tool_call_delta for event in streamed if event.HasField("tool_call_delta")]
    assert [(call.id, call.name, call.arguments_json) for call in calls] == [("c1", "now", ""), ("", "", "{}")]
    assert kinds(in_one) == ["started", "reasoning_delta", "text_delta", "tool_call_delta", "completed"]


@pytest.mark.parametrize(
    ("kind", "told", "reason"),
    [
        ("internalServerException", {}, "UPSTREAM_UNAVAILABLE"),
        ("modelStreamErrorException", {"originalStatusCode": 500}, "UPSTREAM_UNAVAILABLE"),
        ("modelStreamErrorException", {"originalStatusCode": 429}, "UPSTREAM_RATE_LIMITED"),
        ("serviceUnavailableException", {}, "UPSTREAM_UNAVAILABLE"),
        ("throttlingException", {}, "UPSTREAM_RATE_LIMITED"),
        ("validationException", {}, "UPSTREAM_INVALID_ARGUMENT"),
        ("validationException", {"message": "Input is too long for requested model."}, "CONTEXT_TOO_LONG"),
        ("somethingNewException", {}, "UPSTREAM_UNAVAILABLE"),
    ],
)
async def test_exceptions_inside_the_stream(
    kind: str, told: dict[str, Any], reason: str, upstream: Upstream, tmp_path: Path
) -> None:
    async with at(upstream, tmp_path) as running:
        for before in (BEDROCK.unfinished, BEDROCK.text("Hello")[:-1]):
            upstream.answer(BEDROCK.stream([*before, exception(kind, **told)]))
            assert (await failure_of(running, asking("vendor", BEDROCK.model))).reason_name == reason
        unmodelled = frame({":message-type": "error", ":error-code": "InternalError", ":error-message": "x"}, b"")
        upstream.answer(BEDROCK.stream([start(), unmodelled]))
        assert (await failure_of(running, asking("vendor", BEDROCK.model))).reason_name == "UPSTREAM_UNAVAILABLE"


async def test_a_wrong_checksum_anywhere(upstream: Upstream, tmp_path: Path) -> None:
    good = delta(0, text="Hello")
    places = {"length": 1, "headers' length": 6, "prelude's checksum": 9, "headers": 20, "payload": -20, "checksum": -2}
    async with at(upstream, tmp_path) as running:
        for what, place in places.items():
            bad = bytearray(good)
            bad[place] ^= 4
            upstream.answer(BEDROCK.stream([start(), good, bytes(bad), *end("end_turn")]))
            error = await failure_of(running, asking("vendor", BEDROCK.model))
            assert error.reason_name == "UPSTREAM_PROTOCOL_ERROR", what


async def test_the_count_may_be_missing_but_not_half_there(upstream: Upstream, tmp_path: Path) -> None:
    frames = BEDROCK.text("Hello")
    async with at(upstream, tmp_path) as running:
        completed = (await answer(running, upstream, frames[:-1]))[-1].completed
        assert completed.usage.source == usage_pb2.USAGE_SOURCE_ESTIMATED
        assert completed.finish_reason == usage_pb2.FINISH_REASON_STOP
        upstream.answer(BEDROCK.stream([*frames[:-1], frames[-1][:20]]))
        error = await failure_of(running, asking("vendor", BEDROCK.model))
        assert error.reason_name == "UPSTREAM_PROTOCOL_ERROR"
