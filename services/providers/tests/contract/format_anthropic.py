"""The messages format of Anthropic: recorded replies in its documented form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sluice.provider.v1 import model_pb2
from sluice_providers import options
from sluice_providers.wire import messages_request

from .format_openai import GARBLED
from .upstream import Play, plain
from .wire_format import KEY, Format


def event(payload: dict[str, Any]) -> bytes:
    name = str(payload["type"]).encode()
    return b"event: " + name + b"\ndata: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


MESSAGE: dict[str, Any] = {
    "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
    "type": "message",
    "role": "assistant",
    "model": "claude-test-1",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 15, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 1},
}


def start() -> bytes:
    return event({"type": "message_start", "message": MESSAGE})


def block(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> list[bytes]:
    return [
        event({"type": "content_block_start", "index": index, "content_block": block}),
        *(event({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas),
        event({"type": "content_block_stop", "index": index}),
    ]


def text_block(index: int, *pieces: str) -> list[bytes]:
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    return block(index, {"type": "text", "text": ""}, *deltas)


def end(reason: str) -> list[bytes]:
    return [
        event(
            {
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": None},
                "usage": {"output_tokens": 10, "output_tokens_details": {"thinking_tokens": 3}},
            }
        ),
        event({"type": "message_stop"}),
    ]


def finished(reason: str, *pieces: str) -> list[bytes]:
    ping = event({"type": "ping"})
    return [start(), ping, *text_block(0, *pieces), *end(reason)]


def text(*pieces: str) -> list[bytes]:
    return finished("end_turn", *pieces)


def _tools() -> list[bytes]:
    def call(index: int, id: str, name: str) -> bytes:
        block = {"type": "tool_use", "id": id, "name": name, "input": {}}
        return event({"type": "content_block_start", "index": index, "content_block": block})

    def piece(index: int, text: str) -> bytes:
        delta = {"type": "input_json_delta", "partial_json": text}
        return event({"type": "content_block_delta", "index": index, "delta": delta})

    def stop(index: int) -> bytes:
        return event({"type": "content_block_stop", "index": index})

    return [
        start(),
        call(0, "call_a", "weather"),
        piece(0, ""),
        piece(0, '{"city":'),
        call(1, "call_b", "time"),
        piece(0, '"Aarhus"}'),
        piece(1, '{"zone":"CET"}'),
        stop(0),
        stop(1),
        *end("tool_use"),
    ]


def calls(calls: Sequence[tuple[str, str]], pieces: Sequence[tuple[int, str]]) -> list[bytes]:
    frames = [start()]
    begun: set[int] = set()
    for number, piece in pieces:
        if number not in begun:
            begun.add(number)
            id, name = calls[number]
            use = {"type": "tool_use", "id": id, "name": name, "input": {}}
            frames.append(event({"type": "content_block_start", "index": number, "content_block": use}))
        delta = {"type": "input_json_delta", "partial_json": piece}
        frames.append(event({"type": "content_block_delta", "index": number, "delta": delta}))
    frames += [event({"type": "content_block_stop", "index": number}) for number in range(len(calls))]
    return [*frames, *end("tool_use")]


def _reasoning() -> list[bytes]:
    return [
        start(),
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "Let me "},
            {"type": "thinking_delta", "thinking": "think."},
            {"type": "signature_delta", "signature": "EqQBCg=="},
        ),
        *text_block(1, "Yes."),
        *end("end_turn"),
    ]


def _whole(reason: str, *content: Any) -> bytes:
    usage = {**MESSAGE["usage"], "output_tokens": 10, "output_tokens_details": {"thinking_tokens": 3}}
    reply = {**MESSAGE, "content": content, "stop_reason": reason, "usage": usage}
    return json.dumps(reply).encode()


def _error(message: str, kind: str, code: str | None) -> Any:
    details = {"error_code": code} if code else None
    return {"type": "error", "error": {"type": kind, "message": message, "details": details}, "request_id": "req_1"}


def refusal(status: int, kind: str = "x", code: str | None = None, message: str = "no", **headers: str) -> Play:
    return plain(json.dumps(_error(message, kind, code)).encode(), status, **headers)


def error_frame(message: str = "Internal server error", kind: str = "api_error") -> bytes:
    return event({"type": "error", "error": {"type": kind, "message": message, "details": None}})


def _models() -> Any:
    def row(id: str, **more: Any) -> Any:
        times = {"created_at": "2025-02-19T00:00:00Z", "lifecycle": "active"}
        return {"type": "model", "id": id, "display_name": id.upper(), **times, **more}

    yes: Any = {"supported": True}
    able: dict[str, Any] = dict.fromkeys(
        ("batch", "citations", "code_execution", "image_input", "pdf_input", "structured_outputs"), yes
    )
    kinds = dict.fromkeys(("adaptive", "between_tools", "disabled", "enabled"), yes)
    levels = dict.fromkeys(("low", "medium", "high", "max"), yes)
    able |= {
        "context_management": yes,
        "effort": {**yes, **levels},
        "server_tools": {**yes, "code_execution": yes, "web_search": yes},
        "thinking": {**yes, "types": kinds},
    }
    no: Any = {"supported": False}
    some = able | {"citations": no, "structured_outputs": no, "thinking": {**no, "types": dict.fromkeys(kinds, no)}}
    rows = [
        row("b", max_input_tokens=200000, max_tokens=64000),
        row("a"),
        row("c", line="opus", capabilities=able),
        row("d", capabilities=some, created_at="1970-01-01T00:00:00Z"),
        row("gone", capabilities=able, lifecycle="retired"),
    ]
    return {"data": rows, "first_id": "b", "last_id": "gone", "has_more": False}


def _cited() -> list[bytes]:
    citation = {
        "type": "search_result_location",
        "cited_text": "…",
        "source": "src/a.py",
        "title": "src/a.py",
        "search_result_index": 0,
        "start_block_index": 0,
        "end_block_index": 1,
    }
    deltas = {"type": "citations_delta", "citation": citation}, {"type": "text_delta", "text": "Yes."}
    return [start(), *block(0, {"type": "text", "text": "", "citations": []}, *deltas), *end("end_turn")]


_C = model_pb2.Capability
USE = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Aarhus"}}

ANTHROPIC = Format(
    name="anthropic",
    adapter="anthropic",
    model="claude-test-1",
    settings=lambda url: {"api_key": KEY, "base_url": url},
    path="/v1/messages",
    streams=lambda request: request.json.get("stream") is True,
    request_id_header="request-id",
    key_variable="ANTHROPIC_API_KEY",
    text=text,
    finished=finished,
    finish_words={"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"},
    opening=start(),
    tools=_tools(),
    calls=calls,
    reasoning=_reasoning(),
    cited=_cited(),
    reasoning_state=b"EqQBCg==",
    whole=_whole("end_turn", {"type": "text", "text": "Hello there", "citations": None}),
    whole_tools=_whole("tool_use", {"type": "text", "text": "Looking."}, USE),
    without_usage=[frame.replace(b'"usage"', b'"unused"') for frame in text("Hello there")],
    early_usage=True,
    noise=[
        b": keep-alive\n\n",
        b"retry: 5\n\n",
        b"id: 7\n\n",
        event({"type": "ping"}),
        event({"type": "from_the_future", "index": 3}),
        *block(99, {"type": "block_of_tomorrow", "state": [1]}, {"type": "delta_of_tomorrow", "state": 2}),
    ],
    refusal=refusal,
    error_frame=error_frame,
    telling_error=(error_frame("Overloaded", "overloaded_error"), "UPSTREAM_OVERLOADED"),
    statuses=(
        (400, "invalid_request_error", None, "UPSTREAM_INVALID_ARGUMENT"),
        (400, "invalid_request_error", "organization_on_hold", "UPSTREAM_PERMISSION"),
        (400, "invalid_request_error", "cmek_key_disabled", "UPSTREAM_PERMISSION"),
        (400, "invalid_request_error", "of_tomorrow", "UPSTREAM_INVALID_ARGUMENT"),
        (401, "authentication_error", None, "UPSTREAM_AUTHENTICATION"),
        (402, "billing_error", None, "UPSTREAM_QUOTA_EXHAUSTED"),
        (402, "billing_error", "linked_organization_billing_unavailable", "UPSTREAM_QUOTA_EXHAUSTED"),
        (403, "permission_error", None, "UPSTREAM_PERMISSION"),
        (404, "not_found_error", None, "MODEL_NOT_FOUND"),
        (408, "timeout_error", None, "UPSTREAM_TIMEOUT"),
        (409, "conflict_error", None, "UPSTREAM_UNAVAILABLE"),
        (413, "request_too_large", None, "CONTEXT_TOO_LONG"),
        (429, "rate_limit_error", None, "UPSTREAM_RATE_LIMITED"),
        (429, "rate_limit_error", "ramp_limit_exceeded", "UPSTREAM_RATE_LIMITED"),
        (429, "rate_limit_error", "enforced_spend_limit_reached", "UPSTREAM_QUOTA_EXHAUSTED"),
        (500, "api_error", None, "UPSTREAM_UNAVAILABLE"),
        (502, "api_error", None, "UPSTREAM_UNAVAILABLE"),
        (503, "api_error", None, "UPSTREAM_UNAVAILABLE"),
        (503, "api_error", "cmek_context_unavailable", "UPSTREAM_UNAVAILABLE"),
        (504, "timeout_error", None, "UPSTREAM_TIMEOUT"),
        (529, "overloaded_error", None, "UPSTREAM_OVERLOADED"),
    ),
    too_long=refusal(400, "invalid_request_error", message="prompt is too long: 210000 tokens > 200000 maximum"),
    garbled=GARBLED,
    models=plain(json.dumps(_models()).encode()),
    model_facts={
        "a": {"display_name": "A"},
        "b": {"display_name": "B", "context_window": 200000, "max_output_tokens": 64000},
        "c": {"display_name": "C", "family": "opus"},
        "d": {"display_name": "D", "family": ""},
    },
    capabilities={
        "a": frozenset({_C.CAPABILITY_STREAMING, _C.CAPABILITY_TOOLS}),
        "b": frozenset({_C.CAPABILITY_STREAMING, _C.CAPABILITY_TOOLS}),
        "c": frozenset(
            {
                _C.CAPABILITY_STREAMING,
                _C.CAPABILITY_TOOLS,
                _C.CAPABILITY_STRUCTURED_OUTPUT,
                _C.CAPABILITY_IMAGES,
                _C.CAPABILITY_REASONING,
                _C.CAPABILITY_CITATIONS,
            }
        ),
        "d": frozenset({_C.CAPABILITY_STREAMING, _C.CAPABILITY_TOOLS, _C.CAPABILITY_IMAGES}),
    },
    parameters=options.PARAMETERS & messages_request.OPTIONS,
    vendor_option=("service_tier", "auto"),
    refuses=frozenset({"response_format.json", "tools.custom"}),
    embeddings=None,
    exact_count=plain(b'{"input_tokens": 14}'),
)
