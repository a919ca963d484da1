"""What only the Responses format has: the whole body, and which requests take the interface."""

from __future__ import annotations

import base64
from typing import Any

import openai
import pytest
from openai.types.responses import response_create_params

from sluice.chat.v1 import parameters_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.call import Call
from sluice_kit.config import load
from sluice_kit.errors import SluiceError
from sluice_providers.colocate import make
from sluice_providers.responses import wanted
from sluice_providers.wire import responses_request
from sluice_providers.wire.responses_request import Sealed, seal

from .asked import PNG, full_request
from .conftest import Start
from .format_openai import OPENAI
from .format_responses import RESPONSES, text
from .responding import returning
from .subject import asking, text_of
from .upstream import Upstream, plain, stream
from .wire_format import KEY, Format

LOW = parameters_pb2.GenerationParameters(reasoning_effort=parameters_pb2.REASONING_EFFORT_LOW)


@pytest.fixture
def wire() -> Format:
    return RESPONSES


def everything() -> pb.GenerateRequest:
    """A request with everything that the format can carry, reasoning of its own included."""
    request = full_request(RESPONSES)
    request.messages[1].parts[0].reasoning.state = seal(Sealed("rs_9", "gAAA=="))
    return request


async def test_the_responses_body(start: Start, upstream: Upstream) -> None:
    upstream.answer(stream(text("Hello")))
    async with start() as running:
        await running.generate(everything())
    data = base64.b64encode(PNG).decode()
    pdf = base64.b64encode(b"%PDF-1.7").decode()
    assert upstream.last.path == "/v1/responses"
    assert upstream.last.json == {
        "model": RESPONSES.model,
        "instructions": "Be brief.",
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Look:"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{data}", "detail": "auto"},
                    {"type": "input_image", "image_url": "https://example.com/a.jpg", "detail": "auto"},
                    {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{pdf}"},
                ],
            },
            {
                "type": "reasoning",
                "id": "rs_9",
                "encrypted_content": "gAAA==",
                "summary": [{"type": "summary_text", "text": "Hm."}],
            },
            {"role": "assistant", "content": "I ask."},
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Ærø"}'},
            {"type": "function_call_output", "call_id": "call_1", "output": "The tool failed: no net"},
            {"role": "user", "content": [{"type": "input_text", "text": "And now?"}]},
        ],
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 77,
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {
            "format": {
                "type": "json_schema",
                "name": "out",
                "schema": {"type": "object", "properties": {}},
                "strict": True,
            },
            "verbosity": "high",
        },
        "tools": [
            {
                "type": "function",
                "name": "weather",
                "description": "Tells the weather",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
                "strict": True,
            }
        ],
        "tool_choice": {"type": "function", "name": "weather"},
        "service_tier": "auto",
        "metadata": {"user_id": "u1"},
        "stream": True,
    }


def test_every_field_is_one_of_the_vendors_own() -> None:
    known = response_create_params.ResponseCreateParamsBase.__annotations__.keys() | {"stream"}
    assert responses_request.responses_body(everything(), integration="vendor", summary="auto").keys() <= known
    assert known >= responses_request.VENDOR_OPTIONS
    assert not responses_request.VENDOR_OPTIONS & responses_request.FORBIDDEN_VENDOR_OPTIONS
    for name in responses_request.FORBIDDEN_VENDOR_OPTIONS:
        option = f"vendor_options.{name}"
        assert responses_request.unsupported([option], responses_request.FORBIDDEN_VENDOR_OPTIONS) == [option]


@pytest.mark.parametrize("whole_reply", [False, True])
async def test_the_sdk_sends_the_same(whole_reply: bool, upstream: Upstream) -> None:
    """As test_sdk_agreement.py has it for the other formats."""
    upstream.answer(plain(RESPONSES.whole) if whole_reply else stream(text("Hello")))
    base = f"{upstream.url}/v1"
    rows = {"adapter": "openai", "api_key": KEY, "base_url": base, "responses": "always"}
    words = [f"providers.vendor.{name}={value}" for name, value in rows.items()]
    servicer, _ = make(load(None, words, environ={}), "vendor")
    await servicer.start()
    try:
        request = everything()
        request.whole = whole_reply
        await servicer.generate(request, Call("/test"), lambda batch: None)
        ours = upstream.last
        client: Any = openai.AsyncOpenAI(api_key=KEY, base_url=base, max_retries=0)
        async with client:
            result = await client.responses.create(**ours.json)
            if not whole_reply:
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


async def test_settings_change_what_is_asked(start: Start, upstream: Upstream) -> None:
    upstream.answer(stream(text("Hello")))
    async with start(reasoning_summary="none", vendor_options=["top_logprobs"]) as running:
        request = asking("vendor", "m", parameters=LOW)
        request.parameters.vendor_options.update({"top_logprobs": 3})
        await running.generate(request)
        assert upstream.last.json["reasoning"] == {"effort": "low"}
        assert upstream.last.json["top_logprobs"] == 3
        await running.generate(asking("vendor", "m"))
    assert "include" not in upstream.last.json, "models that do not reason refuse the word"
    assert "reasoning" not in upstream.last.json


def effort(value: parameters_pb2.ReasoningEffort.ValueType) -> pb.GenerateRequest:
    """A request for reasoning of the given effort."""
    return asking("vendor", "m", parameters=parameters_pb2.GenerationParameters(reasoning_effort=value))


AUTO: dict[str, tuple[pb.GenerateRequest, bool]] = {
    "plain": (asking("vendor", "m"), False),
    "no-effort": (effort(parameters_pb2.REASONING_EFFORT_UNSPECIFIED), False),
    "effort-none": (effort(parameters_pb2.REASONING_EFFORT_NONE), False),
    "effort": (effort(parameters_pb2.REASONING_EFFORT_MINIMAL), True),
    "own-reasoning": (returning("vendor", seal(Sealed("rs_1", "x"))), True),
    "unsealed-reasoning": (returning("vendor", b""), False),
    "reasoning-of-another": (returning("another", b"x"), False),
    "background": (asking("vendor", "m", background=True), True),
}


@pytest.mark.parametrize(("request_", "takes"), AUTO.values(), ids=AUTO.keys())
async def test_auto_takes_it_for_what_only_it_has(
    request_: pb.GenerateRequest, takes: bool, start: Start, upstream: Upstream
) -> None:
    upstream.answer(stream(text("Hello") if takes else OPENAI.text("Hello")))
    async with start(responses="auto") as running:
        assert text_of(await running.generate(request_)) == "Hello"
    assert upstream.last.path == ("/v1/responses" if takes else "/v1/chat/completions")
    for own in (False, True):
        assert wanted(request_, "vendor", None, own=own) == (takes and own), "unset: at the vendor's own address only"
        assert wanted(request_, "vendor", "always", own=own)
        assert not wanted(request_, "vendor", "never", own=own)


async def test_a_server_of_the_same_format_is_never_asked_for_it(start: Start, upstream: Upstream) -> None:
    upstream.answer(stream(OPENAI.text("Hello")))
    async with start(responses=None) as running:
        for request, _ in AUTO.values():
            await running.generate(request)
    assert {request.path for request in upstream.requests} == {"/v1/chat/completions"}


@pytest.mark.parametrize(
    ("url", "setting", "takes"),
    [
        ("https://api.openai.com/v1", None, True),
        ("https://eu.api.openai.com/v1", None, True),
        ("https://api.openai.com/v1", "never", False),
        ("https://api.openai.com.example/v1", None, False),
        ("http://proxy.internal/v1", None, False),
        ("http://proxy.internal/v1", "auto", True),
    ],
)
def test_an_address_of_the_environment_is_taken_for_what_it_is(url: str, setting: str | None, takes: bool) -> None:
    words = ["providers.vendor.adapter=openai", *([f"providers.vendor.responses={setting}"] if setting else [])]
    servicer, _ = make(load(None, words, environ={"OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY}), "vendor")
    # Chat completions know stop texts, the other interface does not.
    assert list(servicer.adapter.unsupported(AUTO["effort"][0], ["stop"])) == (["stop"] if takes else [])


async def test_options_follow_the_interface_that_a_request_takes(start: Start, upstream: Upstream) -> None:
    request = asking("vendor", "m", parameters=parameters_pb2.GenerationParameters(stop=["END"], seed=5))
    async with start(responses="auto") as running:
        upstream.answer(stream(OPENAI.text("Hello")))
        await running.generate(request)
        assert (upstream.last.json["stop"], upstream.last.json["seed"]) == (["END"], 5)
        request.parameters.reasoning_effort = parameters_pb2.REASONING_EFFORT_HIGH
        with pytest.raises(SluiceError) as caught:
            await running.generate(request)
        assert caught.value.reason_name == "UNSUPPORTED_OPTION"
        assert len(upstream.requests) == 1
        request.lenient = True
        upstream.answer(stream(text("Hello")))
        events = await running.generate(request)
    dropped = {event.notice.metadata["option"] for event in events if event.HasField("notice")}
    assert dropped == {"stop", "seed"}
    assert upstream.last.path == "/v1/responses"
