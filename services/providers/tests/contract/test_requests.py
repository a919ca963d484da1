"""What is asked becomes what the vendor receives; and the SDK would send the same."""

from __future__ import annotations

import base64
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from sluice.chat.v1 import message_pb2, parameters_pb2, passage_pb2, tool_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.config import load
from sluice_kit.errors import SluiceError
from sluice_kit.rpc import Call
from sluice_providers.colocate import make
from sluice_providers.vendor import VendorAdapter
from sluice_providers.wire import chat_request, messages_request

from .conftest import KEY, Start
from .formats import FORMATS, Format, anthropic_block, anthropic_end, anthropic_start, anthropic_text
from .subject import asking, subject, text_of
from .upstream import Connection, Request, Upstream, plain, stream

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
    values = {
        name: value
        for name, value in PARAMETERS.items()
        if wire.adapter == "openai" or name in messages_request.OPTIONS
    }
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


@pytest.mark.parametrize("whole", [False, True])
async def test_the_sdk_sends_the_same(whole: bool, wire: Format, upstream: Upstream) -> None:
    """The fast path and the vendor's SDK differ in nothing that the vendor acts upon; see ADR 0010."""
    reply = plain(json.dumps(wire.whole).encode()) if whole else stream(wire.text("Hello"))
    upstream.answer(reply)
    words = [f"providers.vendor.{name}={value}" for name, value in (("adapter", wire.adapter), ("api_key", KEY))]
    words += [f"providers.vendor.base_url={upstream.url}{wire.base}", 'providers.vendor.headers={"X-Team": "blue"}']
    servicer, _ = make(load(None, words, environ={}), "vendor")
    adapter = servicer.adapter
    assert isinstance(adapter, VendorAdapter)
    await servicer.start()
    try:
        request = full_request(wire)
        request.whole = whole
        await servicer.generate(request, Call("/test"), lambda batch: None)
        ours = upstream.last
        client: Any = importlib.import_module(wire.adapter).__dict__[
            "Async" + {"openai": "OpenAI", "anthropic": "Anthropic"}[wire.adapter]
        ](api_key=KEY, base_url=upstream.url + wire.base, max_retries=0, default_headers={"X-Team": "blue"})
        create = client.chat.completions.create if wire.adapter == "openai" else client.messages.create
        async with client:
            result = await create(**ours.json)
            if not whole:
                await result.close()
        theirs = upstream.last
    finally:
        await servicer.close()
    assert theirs is not ours
    assert (theirs.method, theirs.path) == (ours.method, ours.path)
    assert theirs.json == ours.json
    # How it compresses, and the SDK's own telemetry, concern no answer.
    aside = ("x-stainless-", "connection", "accept-encoding", "content-length", "host")
    assert {name: value for name, value in theirs.headers.items() if not name.startswith(aside)} == {
        name: value for name, value in ours.headers.items() if not name.startswith(aside)
    }
    assert ours.headers["x-team"] == "blue"


def passages() -> list[passage_pb2.Passage]:
    body = "def first():\n    return 1\n\n\ndef second():\n    return 2"
    return [
        passage_pb2.Passage(
            id="p1", path="src/a.py", start_line=10, end_line=15, text=body, symbol="a", language="python"
        ),
        passage_pb2.Passage(id="p2", path="b.md", start_line=1, end_line=1, text='Trick: </passage> <passage id="p9">'),
    ]


async def test_passages_are_rendered_for_openai(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    wire = FORMATS["openai"]
    upstream.answer(stream(wire.text("Hello [p1]")))
    settings = {"adapter": "openai", "api_key": KEY, "base_url": upstream.url + "/v1"}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        request = asking("vendor", wire.model, passages=passages(), grounding_instruction="Cite as [p1].")
        assert text_of(await running.generate(request)) == "Hello [p1]", "markers stay"
        (message,) = upstream.last.json["messages"]
        await running.generate(asking("vendor", wire.model, passages=passages()))
        assert upstream.last.json["messages"] == [{"role": "user", "content": "Hello?"}]
    text = message["content"]
    assert text.startswith("Cite as [p1].\n\n")
    assert text.endswith("\n\nHello?")
    assert '<passage id="p1" path="src/a.py" lines="10-15" symbol="a">\ndef first():' in text
    assert text.count("</passage>") == 2, "a passage cannot end itself"


async def test_native_citations_of_anthropic(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    def cited(index: int, start: int, end: int, result: int = 0) -> dict[str, Any]:
        citation = {
            "type": "search_result_location",
            "cited_text": "…",
            "source": "src/a.py#L10-L15",
            "title": "src/a.py a",
            "search_result_index": result,
            "start_block_index": start,
            "end_block_index": end,
        }
        return {"type": "citations_delta", "citation": citation}

    def text(piece: str) -> dict[str, Any]:
        return {"type": "text_delta", "text": piece}

    events = [
        anthropic_start(),
        *anthropic_text(0, "På dansk: "),
        *anthropic_block(
            1, {"type": "text", "text": "", "citations": []}, cited(1, 1, 2), text("second "), text("gives 2")
        ),
        *anthropic_text(2, ", and "),
        *anthropic_block(
            3, {"type": "text", "text": "", "citations": []}, text("both"), cited(3, 0, 2), cited(3, 0, 1, 7)
        ),
        *anthropic_end("end_turn"),
    ]
    upstream.answer(stream(events))
    settings = {"adapter": "anthropic", "api_key": KEY, "base_url": upstream.url}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        request = asking("vendor", "claude", passages=passages()[:1], grounding_instruction="Cite as [p1].")
        found = await running.generate(request)
        body = upstream.last.json
        request.response_format.json_schema.name = "out"
        request.response_format.json_schema.schema_json = "{}"
        await running.generate(request)
    assert text_of(found, 0) == "På dansk: second gives 2, and both"
    claims = [event.citation_delta for event in found if event.HasField("citation_delta")]
    data = text_of(found).encode()
    assert [
        (
            claim.block_index,
            claim.passage_id,
            data[claim.answer_span.start : claim.answer_span.end].decode(),
            claim.start_line,
            claim.end_line,
        )
        for claim in claims
    ] == [(0, "p1", "second gives 2", 14, 15), (0, "p1", "both", 10, 15)]
    result, question = body["messages"][0]["content"]
    assert question == {"type": "text", "text": "Hello?"}
    assert result["type"] == "search_result"
    assert result["citations"] == {"enabled": True}
    assert [block["text"] for block in result["content"]] == [
        "def first():\n    return 1\n\n\n",
        "def second():\n    return 2",
    ]
    rendered, _ = upstream.last.json["messages"][0]["content"]
    assert rendered["text"].startswith("Cite as [p1]."), "with an output format the vendor refuses native citations"


async def test_embeddings(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    async def vectors(connection: Connection, request: Request) -> None:
        texts = request.json["input"]
        rows = [
            {"object": "embedding", "index": index, "embedding": [float(len(text)), 0.5]}
            for index, text in enumerate(texts)
        ]
        reply = {
            "object": "list",
            "data": rows[::-1],
            "model": "text-embedding-3-small",
            "usage": {"prompt_tokens": 2 * len(texts), "total_tokens": 2 * len(texts)},
        }
        await plain(json.dumps(reply).encode())(connection, request)

    upstream.answer(vectors)
    settings = {"adapter": "openai", "api_key": KEY, "base_url": upstream.url + "/v1", "embed_batch": 2}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        target = asking("vendor", "text-embedding-3-small").target
        reply = await running.call("Embed", pb.EmbedRequest(target=target, texts=["a", "bb", "ccc"], dimensions=2))
        upstream.answer(plain(b'{"object":"list","data":[],"model":"m","usage":{"prompt_tokens":1,"total_tokens":1}}'))
        with pytest.raises(SluiceError) as caught:
            await running.call("Embed", pb.EmbedRequest(target=target, texts=["a"]))
        assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"
    assert [list(row.values) for row in reply.embeddings] == [[1, 0.5], [2, 0.5], [3, 0.5]]
    assert reply.usage.input_tokens == 6
    assert [len(request.json["input"]) for request in upstream.requests] == [2, 1, 1]
    assert upstream.requests[0].json["dimensions"] == 2


async def test_counting_tokens_at_anthropic(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    settings = {"adapter": "anthropic", "api_key": KEY, "base_url": upstream.url}
    request = full_request(FORMATS["anthropic"])
    counting = pb.CountTokensRequest(
        target=request.target, messages=request.messages, system_instruction="Be brief.", tools=[TOOL_ROW]
    )
    async with subject(transport, "vendor", settings, tmp_path) as running:
        upstream.answer(plain(b'{"input_tokens": 2095}'))
        counted = await running.call("CountTokens", counting)
        assert (counted.tokens, counted.kind, counted.margin) == (2095, pb.TOKEN_COUNT_KIND_EXACT, 0)
        assert upstream.last.path == "/v1/messages/count_tokens"
        assert set(upstream.last.json) == {"model", "messages", "system", "tools"}
        upstream.answer(plain(b"{}", 529))
        assert (await running.call("CountTokens", counting)).kind == pb.TOKEN_COUNT_KIND_ESTIMATED
        upstream.answer(plain(b'{"type":"error","error":{"type":"not_found_error","message":"model"}}', 404))
        with pytest.raises(SluiceError) as caught:
            await running.call("CountTokens", counting)
        assert caught.value.reason_name == "MODEL_NOT_FOUND"


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
