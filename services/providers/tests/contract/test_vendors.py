"""Vendors of the OpenAI format: each quirk shows on the wire, and a server without a row needs four lines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sluice.chat.v1 import message_pb2, parameters_pb2, usage_pb2
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.call import Call
from sluice_kit.config import load
from sluice_kit.ports import Generator
from sluice_providers.adapters.openai import OpenAIAdapter
from sluice_providers.colocate import create, make
from sluice_providers.vendors import VENDORS
from sluice_providers.wire import chat_request

from .asked import ASSISTANT, TOOL, USER
from .conftest import Start
from .format_openai import OPENAI, chunk, event, text
from .format_vendors import ROWS
from .subject import Subject, asking, failure_of, subject, text_of
from .test_capabilities import EXERCISES
from .upstream import Upstream, plain
from .wire_format import Format

EFFORT = parameters_pb2.ReasoningEffort
LOW, NONE = EFFORT.REASONING_EFFORT_LOW, EFFORT.REASONING_EFFORT_NONE


@asynccontextmanager
async def vendor(upstream: Upstream, folder: Path, row: str = "openai", **settings: Any) -> AsyncIterator[Subject]:
    """Runs a row, or the plain format, in this process."""
    own = ROWS.get(row, OPENAI).settings(upstream.url)
    async with subject("colocated", "vendor", {"adapter": row, **own, **settings}, folder) as running:
        yield running


async def sent(running: Subject, upstream: Upstream, request: pb.GenerateRequest) -> Any:
    """Returns the body that a request becomes."""
    upstream.answer(OPENAI.stream(text("Hello")))
    await running.generate(request)
    return upstream.last.json


async def test_four_lines_of_configuration_are_enough_for_any_other_server(upstream: Upstream, tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text(
        "providers:\n"
        "  my-server:\n"
        "    adapter: openai\n"
        f"    base_url: {upstream.url}/v1\n"
        "    api_key: ${MY_SERVER_KEY}\n"
    )
    generator: Generator = create(load(file, environ={"MY_SERVER_KEY": "k1"}), "my-server")
    await generator.start()
    batches: list[pb.GenerateResponse] = []
    try:
        upstream.answer(OPENAI.stream(text("Hello")))
        await generator.generate(asking("my-server", "any"), Call("/test"), batches.append)
        upstream.answer(OPENAI.models)
        models = await generator.list_models(pb.ListModelsRequest(), Call("/test"))
    finally:
        await generator.close()
    assert text_of([event for batch in batches for event in batch.events]) == "Hello"
    assert [model.id for model in models.models] == ["a", "b"]
    assert [request.path for request in upstream.requests] == ["/v1/chat/completions", "/v1/models"]
    assert {request.headers["authorization"] for request in upstream.requests} == {"Bearer k1"}


@pytest.mark.parametrize("name", sorted(VENDORS))
def test_a_row_stands_by_itself(name: str) -> None:
    """Without any environment it is made, leads to its vendor or to this machine, and names what is missing."""
    servicer, settings = make(load(None, [f"providers.x.adapter={name}"], environ={}), "x")
    adapter = servicer.adapter
    assert isinstance(adapter, OpenAIAdapter)
    address = adapter.upstream.base_url
    assert address.startswith(("https://", "http://127.0.0.1:"))
    variables = [ROWS[name].key_variable] if ROWS[name].key_variable else []
    assert list(adapter.missing()) == (["AZURE_OPENAI_ENDPOINT"] if name == "azure" else []) + variables
    assert bool(variables) == address.startswith("https://")
    known = chat_request.OPTIONS | {f"vendor_options.{option}" for option in chat_request.VENDOR_OPTIONS}
    assert set(settings.unsupported) <= known  # type: ignore[attr-defined]  # settings of this adapter
    own: tuple[str, ...] = settings.vendor_options  # type: ignore[attr-defined]  # settings of this adapter
    assert not set(own) & chat_request.FORBIDDEN_VENDOR_OPTIONS
    for variable in variables:
        assert f"`{variable}`" in VENDORS[name].setup


CLAIMS = [
    pytest.param(wire, capability, id=f"{name}-{model_pb2.Capability.Name(capability).lower()}")
    for name, wire in sorted(ROWS.items())
    for capability in sorted(frozenset[Any]().union(*wire.capabilities.values()))
]


@pytest.mark.parametrize("transport", ["colocated"])
@pytest.mark.parametrize(("wire", "capability"), CLAIMS)
async def test_what_a_row_claims_is_done(
    wire: Format, capability: model_pb2.Capability.ValueType, start: Start, upstream: Upstream
) -> None:
    upstream.answer(wire.models)
    async with start() as running:
        models = (await running.call("ListModels", pb.ListModelsRequest())).models
        claiming = [model.id for model in models if capability in model.capabilities]
        assert claiming
        upstream.requests.clear()
        await EXERCISES[capability](running, wire, claiming[0], upstream)


@pytest.mark.parametrize(
    ("form", "effort", "body"),
    [
        ("reasoning_effort", LOW, {"reasoning_effort": "low"}),
        ("reasoning_effort", NONE, {"reasoning_effort": "none"}),
        ("reasoning", LOW, {"reasoning": {"effort": "low"}}),
        ("enable_thinking", LOW, {"enable_thinking": True}),
        ("enable_thinking", NONE, {"enable_thinking": False}),
        ("thinking", LOW, {"thinking": {"type": "enabled"}}),
        ("thinking", NONE, {"thinking": {"type": "disabled"}}),
        ("thinking_effort", LOW, {"thinking": {"type": "enabled"}, "reasoning_effort": "low"}),
        ("thinking_effort", NONE, {"thinking": {"type": "disabled"}}),
    ],
)
async def test_how_effort_is_said(
    form: str, effort: EFFORT.ValueType, body: dict[str, Any], upstream: Upstream, tmp_path: Path
) -> None:
    async with vendor(upstream, tmp_path, effort=form) as running:
        plain_body = await sent(running, upstream, asking("vendor", "m"))
        parameters = parameters_pb2.GenerationParameters(reasoning_effort=effort)
        assert await sent(running, upstream, asking("vendor", "m", parameters=parameters)) == plain_body | body


async def test_names_of_fields_and_options_that_are_not_honoured(upstream: Upstream, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "seed_field": "random_seed",
        "max_tokens_field": "max_tokens",
        "unsupported": ["top_p", "vendor_options.store"],
        "vendor_options": ["top_k"],
    }
    async with vendor(upstream, tmp_path, **settings) as running:
        request = asking("vendor", "m", parameters=parameters_pb2.GenerationParameters(seed=7, max_output_tokens=8))
        request.parameters.vendor_options.update({"top_k": 3, "user": "u1"})
        body = await sent(running, upstream, request)
        assert (body["random_seed"], body["max_tokens"], body["top_k"], body["user"]) == (7, 8, 3, "u1")
        assert "seed" not in body
        request = asking("vendor", "m", parameters=parameters_pb2.GenerationParameters(top_p=0.5))
        assert (await failure_of(running, request)).metadata["option"] == "top_p"
        request = asking("vendor", "m")
        request.parameters.vendor_options.update({"store": True})
        assert (await failure_of(running, request)).metadata["option"] == "vendor_options.store"


STATE = b'[{"type":"reasoning.text","text":"Hm.","signature":"Ep4="}]'


def loop_of_tools(state: bytes = b"", provider: str = "vendor", **answer: str) -> list[message_pb2.Message]:
    """A dialogue whose model reasoned, said something and called a tool."""
    part = message_pb2.Part
    reasoning = message_pb2.Reasoning(text="Hm.", provider=provider, state=state)
    call = message_pb2.ToolCall(id="c1", name="weather", arguments_json="{}")
    said = [part(text=answer["text"])] if answer else []
    result = message_pb2.ToolResult(call_id="c1", text="rain")
    return [
        message_pb2.Message(role=USER, parts=[part(text="Hello?")]),
        message_pb2.Message(role=ASSISTANT, parts=[part(reasoning=reasoning), *said, part(tool_call=call)]),
        message_pb2.Message(role=TOOL, parts=[part(tool_result=result)]),
    ]


def continued(messages: list[message_pb2.Message]) -> pb.GenerateRequest:
    request = asking("vendor", "m")
    del request.messages[:]
    request.messages.extend(messages)
    return request


THOUGHT = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]


@pytest.mark.parametrize(
    ("back", "state", "fields"),
    [
        ("none", b"", {}),
        ("none", STATE, {}),
        ("reasoning_content", b"", {"reasoning_content": "Hm."}),
        ("reasoning", b"", {"reasoning": "Hm."}),
        ("reasoning_details", STATE, {"reasoning_details": json.loads(STATE)}),
        ("reasoning_details", b"", {"reasoning": "Hm."}),
        ("content", b"", {"content": [*THOUGHT, {"type": "text", "text": "I ask."}]}),
    ],
)
async def test_where_reasoning_goes_back(
    back: str, state: bytes, fields: dict[str, Any], upstream: Upstream, tmp_path: Path
) -> None:
    async with vendor(upstream, tmp_path, reasoning_back=back) as running:
        body = await sent(running, upstream, continued(loop_of_tools(state, text="I ask.")))
        (message,) = [message for message in body["messages"] if message["role"] == "assistant"]
        assert set(message) == {"role", "content", "tool_calls"} | set(fields)
        assert {name: message[name] for name in fields} == fields
        body = await sent(running, upstream, continued(loop_of_tools(state, "someone-else", text="I ask.")))
        (message,) = [message for message in body["messages"] if message["role"] == "assistant"]
        assert message["content"] == "I ask."
        assert set(message) == {"role", "content", "tool_calls"}, "it goes to none but its maker"


async def test_a_message_that_must_hold_reasoning_gets_a_blank(upstream: Upstream, tmp_path: Path) -> None:
    async with vendor(upstream, tmp_path, "deepseek") as running:
        for provider, wanted in (("vendor", "Hm."), ("someone-else", " ")):
            body = await sent(running, upstream, continued(loop_of_tools(provider=provider)))
            assert body["messages"][1]["reasoning_content"] == wanted
        plain_answer = message_pb2.Message(role=ASSISTANT, parts=[message_pb2.Part(text="Hi.")])
        body = await sent(running, upstream, continued([plain_answer]))
        assert body["messages"] == [{"role": "assistant", "content": "Hi."}]


async def test_sealed_reasoning_goes_back_as_it_came(upstream: Upstream, tmp_path: Path) -> None:
    """Two turns with OpenRouter: what the stream brought in pieces is what the next request holds, whole."""
    wire = ROWS["openrouter"]
    assert wire.reasoning is not None
    async with vendor(upstream, tmp_path, "openrouter") as running:
        upstream.answer(wire.stream(wire.reasoning))
        events = await running.generate(asking("vendor", "m"))
        state = b"".join(event.reasoning_delta.state for event in events)
        body = await sent(running, upstream, continued(loop_of_tools(state)))
        assert body["messages"][1]["reasoning_details"] == json.loads(wire.reasoning_state)
        details = json.loads(wire.reasoning_state)
        reply = json.loads(OPENAI.whole)
        reply["choices"][0]["message"] |= {"reasoning": "Let me think.", "reasoning_details": details}
        upstream.answer(plain(json.dumps(reply).encode()))
        whole = await running.generate(asking("vendor", "m", whole=True))
        assert b"".join(event.reasoning_delta.state for event in whole) == wire.reasoning_state
        error = await failure_of(running, continued(loop_of_tools(b"{broken")))
        assert error.reason_name == "INVALID_REQUEST"


async def test_content_in_parts_of_a_whole_reply(upstream: Upstream, tmp_path: Path) -> None:
    reply = json.loads(OPENAI.whole)
    reply["choices"][0]["message"]["content"] = [
        *THOUGHT,
        {"type": "reference", "reference_ids": [1]},
        {"type": "text", "text": "Yes."},
    ]
    upstream.answer(plain(json.dumps(reply).encode()))
    async with vendor(upstream, tmp_path, "mistral") as running:
        events = await running.generate(asking("vendor", "m", whole=True))
    assert "".join(event.reasoning_delta.text for event in events) == "Hm."
    assert text_of(events) == "Yes."


async def test_arguments_that_are_no_text(upstream: Upstream, tmp_path: Path) -> None:
    reply = json.loads(OPENAI.whole_tools)
    reply["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] = {"city": "Ærø"}
    upstream.answer(plain(json.dumps(reply).encode()))
    async with vendor(upstream, tmp_path, "zai") as running:
        events = await running.generate(asking("vendor", "m", whole=True))
    assert "".join(event.tool_call_delta.arguments_json for event in events) == '{"city":"Ærø"}'


async def test_a_stream_without_marker_ends_with_its_finish_reason_only_where_it_is_told(
    upstream: Upstream, tmp_path: Path
) -> None:
    frames = text("Hello")
    async with vendor(upstream, tmp_path, terminal="finish_reason") as running:
        for rest in (frames[:-1], frames[:-2], frames):
            upstream.answer(OPENAI.stream(rest))
            completed = (await running.generate(asking("vendor", "m")))[-1].completed
            assert completed.finish_reason == usage_pb2.FINISH_REASON_STOP
        upstream.answer(OPENAI.stream(frames[:-3]))
        assert (await failure_of(running, asking("vendor", "m"))).reason_name == "UPSTREAM_PROTOCOL_ERROR"
    async with vendor(upstream, tmp_path) as running:
        upstream.answer(OPENAI.stream(frames[:-1]))
        assert (await failure_of(running, asking("vendor", "m"))).reason_name == "UPSTREAM_PROTOCOL_ERROR"


def broken(code: Any, **more: Any) -> bytes:
    """OpenRouter's chunk for an answer that broke off."""
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "native_finish_reason": None}
    return event(
        {
            "id": "gen-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "provider": "x",
            "error": {"code": code, "message": "no", **more},
            "choices": [choice],
        }
    )


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (broken(429), "UPSTREAM_RATE_LIMITED"),
        (broken(402), "UPSTREAM_QUOTA_EXHAUSTED"),
        (broken(400), "UPSTREAM_INVALID_ARGUMENT"),
        (broken(502), "UPSTREAM_UNAVAILABLE"),
        (broken("server_error"), "UPSTREAM_UNAVAILABLE"),
        (broken(403, metadata={"reasons": ["violence"], "flagged_input": "x"}), "CONTENT_FILTERED"),
        (chunk({"content": ""}, "error"), "UPSTREAM_UNAVAILABLE"),
        (chunk({"content": ""}, "network_error"), "UPSTREAM_UNAVAILABLE"),
        (chunk({"content": ""}, "insufficient_system_resource"), "UPSTREAM_OVERLOADED"),
    ],
)
async def test_an_answer_that_broke_off_is_never_complete(
    frame: bytes, reason: str, upstream: Upstream, tmp_path: Path
) -> None:
    async with vendor(upstream, tmp_path, "openrouter") as running:
        for end in ([], [b"data: [DONE]\n\n"]):
            upstream.answer(OPENAI.stream([b": OPENROUTER PROCESSING\n\n", *OPENAI.unfinished[:2], frame, *end]))
            assert (await failure_of(running, asking("vendor", "m"))).reason_name == reason


async def test_a_whole_reply_that_broke_off(upstream: Upstream, tmp_path: Path) -> None:
    reply = json.loads(OPENAI.whole)
    reply["choices"][0] |= {"finish_reason": "error", "error": {"code": 429, "message": "no"}}
    upstream.answer(plain(json.dumps(reply).encode()))
    async with vendor(upstream, tmp_path, "openrouter") as running:
        error = await failure_of(running, asking("vendor", "m", whole=True))
    assert error.reason_name == "UPSTREAM_RATE_LIMITED"


@pytest.mark.parametrize(
    ("status", "kind", "code", "reason"),
    [
        (400, "data_inspection_failed", "data_inspection_failed", "CONTENT_FILTERED"),
        (400, "Arrearage", "Arrearage", "UPSTREAM_QUOTA_EXHAUSTED"),
        (400, "budget_exceeded", "400", "UPSTREAM_QUOTA_EXHAUSTED"),
        (400, "exceed_context_size_error", 400, "CONTEXT_TOO_LONG"),
        (429, "exceeded_current_quota_error", None, "UPSTREAM_QUOTA_EXHAUSTED"),
        (429, "engine_overloaded_error", None, "UPSTREAM_OVERLOADED"),
        (400, "content_filter", None, "CONTENT_FILTERED"),
        (400, "invalid_request_error", "model_decommissioned", "MODEL_NOT_FOUND"),
    ],
)
async def test_codes_of_others(
    status: int, kind: str, code: Any, reason: str, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.answer(OPENAI.refusal(status, kind, code))
    async with vendor(upstream, tmp_path) as running:
        assert (await failure_of(running, asking("vendor", "m"))).reason_name == reason
