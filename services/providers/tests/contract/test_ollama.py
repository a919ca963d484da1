"""What only Ollama has: its body, loops of tool calls with thoughts, vectors in batches, models that are shown once."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from sluice.chat.v1 import message_pb2, parameters_pb2, tool_pb2, usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import SluiceError

from .asked import ASSISTANT, PARAMETERS, PNG, TOOL, TOOL_ROW, USER
from .format_ollama import MODEL, OLLAMA, call, last, line, piece, reply
from .subject import asking, failure_of, kinds, subject, text_of
from .test_grounding import passages
from .upstream import Connection, Request, Upstream, plain


def settings_of(upstream: Upstream, **more: Any) -> dict[str, Any]:
    return {"adapter": "ollama", **OLLAMA.settings(upstream.url), **more}


async def test_the_ollama_body(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(OLLAMA.stream(OLLAMA.text("Hello")))
    part = message_pb2.Part
    reasoning = message_pb2.Reasoning
    request = asking(
        "vendor",
        MODEL,
        system_instruction="Be brief.",
        parameters=parameters_pb2.GenerationParameters(
            **{name: value for name, value in PARAMETERS.items() if name in OLLAMA.parameters}
        ),
        tool_choice=tool_pb2.ToolChoice(mode=tool_pb2.TOOL_CHOICE_MODE_AUTO),
        response_format=parameters_pb2.ResponseFormat(
            json_schema=parameters_pb2.JsonSchemaFormat(name="out", schema_json='{"type":"object","properties":{}}')
        ),
    )
    tool = request.tools.add()
    tool.CopyFrom(TOOL_ROW)
    tool.function.ClearField("strict")
    request.parameters.vendor_options.update({"top_k": 40, "keep_alive": "10m"})
    del request.messages[:]
    image = message_pb2.Image(data=PNG, media_type="image/png")
    wanted = message_pb2.ToolCall(id="call_1", name="weather", arguments_json='{"city":"Ærø"}')
    free = message_pb2.ToolCall(id="call_2", name="note", input_text="a note")
    result = message_pb2.ToolResult
    request.messages.extend(
        [
            message_pb2.Message(role=USER, parts=[part(text="Look:"), part(image=image), part(text="Well?")]),
            message_pb2.Message(
                role=ASSISTANT,
                parts=[
                    part(reasoning=reasoning(text="Hm.", provider="vendor")),
                    part(reasoning=reasoning(text="Not mine.", provider="someone-else", state=b"zzz")),
                    part(text="I ask."),
                    part(tool_call=wanted),
                    part(tool_call=free),
                ],
            ),
            message_pb2.Message(
                role=TOOL,
                parts=[
                    part(tool_result=result(call_id="call_1", text="no net", is_error=True)),
                    part(tool_result=result(call_id="elsewhere", text="5")),
                ],
            ),
            message_pb2.Message(role=USER, parts=[part(text="And now?")]),
        ]
    )
    async with subject(transport, "vendor", settings_of(upstream, num_ctx=8192), tmp_path) as running:
        await running.generate(request)
    function = {
        "name": "weather",
        "description": "Tells the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
    assert upstream.last.json == {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Look:\n\nWell?", "images": [base64.b64encode(PNG).decode()]},
            {
                "role": "assistant",
                "content": "I ask.",
                "thinking": "Hm.",
                "tool_calls": [
                    {"id": "call_1", "function": {"name": "weather", "arguments": {"city": "Ærø"}}},
                    {"id": "call_2", "function": {"name": "note", "arguments": {"input": "a note"}}},
                ],
            },
            {"role": "tool", "content": "The tool failed: no net", "tool_call_id": "call_1", "tool_name": "weather"},
            {"role": "tool", "content": "5", "tool_call_id": "elsewhere"},
            {"role": "user", "content": "And now?"},
        ],
        "stream": True,
        "truncate": False,
        "keep_alive": "10m",
        "think": "low",
        "format": {"type": "object", "properties": {}},
        "options": {
            "num_ctx": 8192,
            "temperature": 0.5,
            "top_p": 0.9,
            "num_predict": 77,
            "stop": ["END"],
            "seed": 5,
            "presence_penalty": 0.1,
            "frequency_penalty": -0.1,
            "top_k": 40,
        },
        "tools": [{"type": "function", "function": function}],
    }
    assert upstream.last.headers["content-type"] == "application/json"
    assert "authorization" not in upstream.last.headers


@pytest.mark.parametrize(
    ("effort", "think"),
    [("NONE", False), ("LOW", "low"), ("MEDIUM", "medium"), ("HIGH", "high"), ("MINIMAL", None)],
)
async def test_thinking_by_effort(
    effort: str, think: bool | str | None, transport: str, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.answer(OLLAMA.stream(OLLAMA.text("Hello")))
    request = asking("vendor", MODEL)
    request.parameters.reasoning_effort = parameters_pb2.ReasoningEffort.Value(f"REASONING_EFFORT_{effort}")
    async with subject(transport, "vendor", settings_of(upstream), tmp_path) as running:
        if think is None:
            error = await failure_of(running, request)
            assert error.metadata["option"] == "reasoning_effort"
            assert upstream.requests == []
            return
        await running.generate(request)
    assert upstream.last.json["think"] == think


async def test_json_arguments_must_be_an_object(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    wanted = message_pb2.ToolCall(id="c", name="weather", arguments_json="[1]")
    request = asking("vendor", MODEL)
    request.messages.add(role=ASSISTANT, parts=[message_pb2.Part(tool_call=wanted)])
    async with subject(transport, "vendor", settings_of(upstream), tmp_path) as running:
        error = await failure_of(running, request)
    assert [violation.field for violation in error.violations] == ["messages[1].parts[0].tool_call.arguments_json"]
    assert upstream.requests == []


async def test_passages_stand_before_the_question(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(OLLAMA.stream(OLLAMA.text("Hello [p1]")))
    async with subject(transport, "vendor", settings_of(upstream), tmp_path) as running:
        await running.generate(asking("vendor", MODEL, passages=passages(), grounding_instruction="Cite as [p1]."))
    (message,) = upstream.last.json["messages"]
    assert message["content"].startswith("Cite as [p1].\n\n[p1] src/a.py, lines 10-15 (a)\n<passage>")
    assert message["content"].endswith("\n\nHello?")


async def test_a_tool_loop_with_thoughts(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    """What the model thought and asked for goes back as it came, so that it can go on from there."""
    frames = [
        piece(thinking="Which city? "),
        piece(thinking="Aarhus."),
        piece(content="I look."),
        piece(tool_calls=[call("weather", city="Aarhus"), call("time", "call_t", zone="CET")]),
        last(),
    ]
    upstream.answer(OLLAMA.stream(frames))
    async with subject(transport, "vendor", settings_of(upstream), tmp_path) as running:
        request = asking("vendor", MODEL, tools=[tool_pb2.Tool(function=tool_pb2.FunctionTool(name="weather"))])
        events = await running.generate(request)
        assert kinds(events) == ["started", "reasoning_delta", "text_delta", "tool_call_delta", "completed"]
        completed = events[-1].completed
        assert (completed.finish_reason, completed.raw_finish_reason) == (usage_pb2.FINISH_REASON_TOOL_CALLS, "stop")
        calls = [event.tool_call_delta for event in events if event.HasField("tool_call_delta")]
        assert [one.block_index for one in calls] == [2, 3]
        assert calls[1].id == "call_t"
        thought = "".join(event.reasoning_delta.text for event in events if event.HasField("reasoning_delta"))
        request.messages.add(
            role=ASSISTANT,
            parts=[
                message_pb2.Part(reasoning=message_pb2.Reasoning(text=thought, provider="vendor")),
                message_pb2.Part(text=text_of(events)),
                *(
                    message_pb2.Part(
                        tool_call=message_pb2.ToolCall(id=one.id, name=one.name, arguments_json=one.arguments_json)
                    )
                    for one in calls
                ),
            ],
        )
        request.messages.add(
            role=TOOL,
            parts=[
                message_pb2.Part(tool_result=message_pb2.ToolResult(call_id=one.id, text=one.name)) for one in calls
            ],
        )
        upstream.answer(OLLAMA.stream(OLLAMA.text("Rain.")))
        assert text_of(await running.generate(request)) == "Rain."
    _, spoken, *results = upstream.last.json["messages"]
    assert spoken["thinking"] == "Which city? Aarhus."
    assert [one["function"] for one in spoken["tool_calls"]] == [
        {"name": "weather", "arguments": {"city": "Aarhus"}},
        {"name": "time", "arguments": {"zone": "CET"}},
    ]
    assert [row["tool_name"] for row in results] == ["weather", "time"]
    assert [row["tool_call_id"] for row in results] == [one["id"] for one in spoken["tool_calls"]]


async def test_a_model_that_was_only_loaded_gave_no_answer(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    async with subject(transport, "vendor", settings_of(upstream), tmp_path) as running:
        for reason in ("load", "unload"):
            upstream.answer(OLLAMA.reply(line(reply({}, done=True, done_reason=reason))))
            assert (await failure_of(running, asking("vendor", MODEL, whole=True))).reason_name == "EMPTY_RESPONSE"
        upstream.answer(OLLAMA.reply(line(reply({"content": "half"}))))
        assert (await failure_of(running, asking("vendor", MODEL, whole=True))).reason_name == "UPSTREAM_PROTOCOL_ERROR"


async def test_a_full_queue_is_told_from_a_server_that_is_not_there(
    transport: str, upstream: Upstream, tmp_path: Path
) -> None:
    async with subject(transport, "vendor", settings_of(upstream), tmp_path) as running:
        busy = "server busy, please try again. maximum pending requests exceeded"
        upstream.answer(OLLAMA.refusal(503, message=busy))
        assert (await failure_of(running, asking("vendor", MODEL))).reason_name == "UPSTREAM_OVERLOADED"
        upstream.answer(OLLAMA.refusal(503))
        assert (await failure_of(running, asking("vendor", MODEL))).reason_name == "UPSTREAM_UNAVAILABLE"


async def test_a_key_goes_along_where_there_is_one(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(OLLAMA.stream(OLLAMA.text("Hello")))
    more = {"api_key": "k-1", "headers": {"X-Team": "blue"}}
    async with subject(transport, "vendor", settings_of(upstream, **more), tmp_path) as running:
        await running.generate(asking("vendor", MODEL))
        assert upstream.last.headers["authorization"] == "Bearer k-1"
        assert upstream.last.headers["x-team"] == "blue"
    async with subject(transport, "vendor", settings_of(upstream, api_key="${NO_SUCH_KEY}"), tmp_path) as running:
        status = await running.call("GetStatus", pb.GetStatusRequest(probe=True))
        assert list(status.missing_settings) == ["NO_SUCH_KEY"]


async def test_the_version_is_told(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    assert OLLAMA.version is not None
    play, version = OLLAMA.version
    upstream.answer(play)
    async with subject(transport, "vendor", settings_of(upstream), tmp_path) as running:
        status = await running.call("GetStatus", pb.GetStatusRequest(probe=True))
    assert (status.available, status.version, upstream.last.path) == (True, version, "/api/version")


async def test_models_are_shown_once_while_they_stay_the_same(
    transport: str, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.answer(OLLAMA.models)
    async with subject(transport, "vendor", settings_of(upstream, num_ctx=8192), tmp_path) as running:
        (_, first, *_) = (await running.call("ListModels", pb.ListModelsRequest())).models
        assert (first.id, first.context_window) == ("b", 8192), "what models are run with is all that fits"
        await running.call("ListModels", pb.ListModelsRequest())
    shown = [request.json["model"] for request in upstream.requests if request.path == "/api/show"]
    assert sorted(shown) == ["a", "b", "c-cloud", "d", "d"], "what could not be shown is asked for again"


async def test_vectors_in_batches(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    assert OLLAMA.embeddings is not None
    upstream.answer(OLLAMA.embeddings)
    request = pb.EmbedRequest(target=asking("vendor", "nomic").target, texts=["a", "bb", "ccc"], dimensions=2)
    async with subject(transport, "vendor", settings_of(upstream, embed_batch=2), tmp_path) as running:
        found = await running.call("Embed", request)
        assert [list(row.values) for row in found.embeddings] == [[1, 0.5], [2, 0.5], [3, 0.5]]
        assert (found.usage.input_tokens, found.usage.source) == (6, usage_pb2.USAGE_SOURCE_PROVIDER)
        assert [one.json for one in upstream.requests] == [
            {"model": "nomic", "truncate": False, "dimensions": 2, "input": texts} for texts in (["a", "bb"], ["ccc"])
        ]
        request.dimensions = 3
        with pytest.raises(SluiceError) as caught:
            await running.call("Embed", request)
        assert caught.value.reason_name == "UNSUPPORTED_OPTION"
        assert caught.value.metadata["option"] == "dimensions"
        upstream.answer(OLLAMA.refusal(400, message="the input length exceeds the context length"))
        with pytest.raises(SluiceError) as caught:
            await running.call("Embed", request)
        assert caught.value.reason_name == "CONTEXT_TOO_LONG"
        upstream.answer(OLLAMA.refusal(404, message='model "nomic" not found, try pulling it first'))
        with pytest.raises(SluiceError) as caught:
            await running.call("Embed", request)
        assert caught.value.metadata["model"] == "vendor/nomic"
        upstream.answer(plain(b'{"model":"nomic","embeddings":[[1.0,2.0,3.0]]}'))
        with pytest.raises(SluiceError) as caught:
            await running.call("Embed", request)
        assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"


async def test_arguments_stay_as_the_model_wrote_them(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    async def spaced(connection: Connection, request: Request) -> None:
        arguments = b'{"b": 1.50,  "a": "\\u00e6", "n": 12345678901234567890}'
        frame = b'{"message":{"tool_calls":[{"function":{"name":"f","arguments":' + arguments + b"}}]}}\n"
        await OLLAMA.stream([frame, last()])(connection, request)

    upstream.answer(spaced)
    async with subject(transport, "vendor", settings_of(upstream), tmp_path) as running:
        events = await running.generate(asking("vendor", MODEL))
    (made,) = (event.tool_call_delta for event in events if event.HasField("tool_call_delta"))
    assert made.arguments_json == '{"b": 1.50,  "a": "\\u00e6", "n": 12345678901234567890}'
    assert json.loads(made.arguments_json)["n"] == 12345678901234567890
