"""Replies in the vendors' documented wire formats, for tests that are the same for each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sluice.error.v1.error_reason_pb2 import ErrorReason

_R = ErrorReason


def openai_event(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def anthropic_event(payload: dict[str, Any]) -> bytes:
    name = str(payload["type"]).encode()
    return b"event: " + name + b"\ndata: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def openai_chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    return openai_event(
        {
            "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
            "object": "chat.completion.chunk",
            "created": 1741569952,
            "model": "gpt-5-mini-2025-08-07",
            "service_tier": "default",
            "system_fingerprint": None,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
            "usage": None,
            "obfuscation": "x1",
            **more,
        }
    )


OPENAI_USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 3,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}


def _openai_end(finish: str) -> list[bytes]:
    return [openai_chunk({}, finish), openai_chunk({}, choices=[], usage=OPENAI_USAGE), b"data: [DONE]\n\n"]


def _openai_text(*pieces: str) -> list[bytes]:
    first = openai_chunk({"role": "assistant", "content": "", "refusal": None})
    return [first, *(openai_chunk({"content": piece}) for piece in pieces), *_openai_end("stop")]


def _openai_call(index: int, **fields: Any) -> bytes:
    return openai_chunk({"tool_calls": [{"index": index, **fields}]})


def _openai_tools() -> list[bytes]:
    return [
        openai_chunk({"role": "assistant", "content": None}),
        _openai_call(0, id="call_a", type="function", function={"name": "weather", "arguments": ""}),
        _openai_call(0, function={"arguments": '{"city":'}),
        _openai_call(1, id="call_b", type="function", function={"name": "time", "arguments": ""}),
        _openai_call(0, function={"arguments": '"Aarhus"}'}),
        _openai_call(1, function={"arguments": '{"zone":"CET"}'}),
        *_openai_end("tool_calls"),
    ]


def _openai_reasoning() -> list[bytes]:
    return [
        openai_chunk({"role": "assistant", "reasoning_content": "Let me "}),
        openai_chunk({"reasoning_content": "think."}),
        openai_chunk({"content": "Yes."}),
        *_openai_end("stop"),
    ]


def _openai_whole() -> Any:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1741569952,
        "model": "gpt-5-mini-2025-08-07",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello there", "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": OPENAI_USAGE,
        "service_tier": "default",
    }


def _openai_error(message: str, kind: str, code: str | None) -> Any:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


ANTHROPIC_MESSAGE: dict[str, Any] = {
    "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
    "type": "message",
    "role": "assistant",
    "model": "claude-test-1",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 15, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 1},
}


def anthropic_start() -> bytes:
    return anthropic_event({"type": "message_start", "message": ANTHROPIC_MESSAGE})


def anthropic_block(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> list[bytes]:
    return [
        anthropic_event({"type": "content_block_start", "index": index, "content_block": block}),
        *(anthropic_event({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas),
        anthropic_event({"type": "content_block_stop", "index": index}),
    ]


def anthropic_text(index: int, *pieces: str) -> list[bytes]:
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    return anthropic_block(index, {"type": "text", "text": ""}, *deltas)


def anthropic_end(reason: str) -> list[bytes]:
    return [
        anthropic_event(
            {
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": None},
                "usage": {"output_tokens": 10, "output_tokens_details": {"thinking_tokens": 3}},
            }
        ),
        anthropic_event({"type": "message_stop"}),
    ]


def _anthropic_text(*pieces: str) -> list[bytes]:
    ping = anthropic_event({"type": "ping"})
    return [anthropic_start(), ping, *anthropic_text(0, *pieces), *anthropic_end("end_turn")]


def _anthropic_tools() -> list[bytes]:
    def call(index: int, id: str, name: str) -> bytes:
        block = {"type": "tool_use", "id": id, "name": name, "input": {}}
        return anthropic_event({"type": "content_block_start", "index": index, "content_block": block})

    def piece(index: int, text: str) -> bytes:
        delta = {"type": "input_json_delta", "partial_json": text}
        return anthropic_event({"type": "content_block_delta", "index": index, "delta": delta})

    def stop(index: int) -> bytes:
        return anthropic_event({"type": "content_block_stop", "index": index})

    return [
        anthropic_start(),
        call(0, "call_a", "weather"),
        piece(0, ""),
        piece(0, '{"city":'),
        call(1, "call_b", "time"),
        piece(0, '"Aarhus"}'),
        piece(1, '{"zone":"CET"}'),
        stop(0),
        stop(1),
        *anthropic_end("tool_use"),
    ]


def _anthropic_reasoning() -> list[bytes]:
    return [
        anthropic_start(),
        *anthropic_block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "Let me "},
            {"type": "thinking_delta", "thinking": "think."},
            {"type": "signature_delta", "signature": "EqQBCg=="},
        ),
        *anthropic_text(1, "Yes."),
        *anthropic_end("end_turn"),
    ]


def _anthropic_whole() -> Any:
    usage = {**ANTHROPIC_MESSAGE["usage"], "output_tokens": 10, "output_tokens_details": {"thinking_tokens": 3}}
    return {
        **ANTHROPIC_MESSAGE,
        "content": [{"type": "text", "text": "Hello there", "citations": None}],
        "stop_reason": "end_turn",
        "usage": usage,
    }


def _anthropic_error(message: str, kind: str, code: str | None) -> Any:
    details = {"error_code": code} if code else None
    return {"type": "error", "error": {"type": kind, "message": message, "details": details}, "request_id": "req_1"}


@dataclass(frozen=True)
class Format:
    """One vendor's format: its recorded replies, and what its errors mean."""

    adapter: str
    path: str
    base: str
    key_variable: str
    request_id_header: str
    model: str
    text: Any
    tools: list[bytes]
    reasoning: list[bytes]
    whole: Any
    error: Any
    error_event: bytes
    statuses: tuple[tuple[int, str, str | None, str], ...]
    """Status, the vendor's type and code, the reason."""

    def error_body(self, kind: str, code: str | None = None, message: str = "no") -> bytes:
        return json.dumps(self.error(message, kind, code)).encode()


OPENAI = Format(
    adapter="openai",
    path="/v1/chat/completions",
    base="/v1",
    key_variable="OPENAI_API_KEY",
    request_id_header="x-request-id",
    model="gpt-5-mini-2025-08-07",
    text=_openai_text,
    tools=_openai_tools(),
    reasoning=_openai_reasoning(),
    whole=_openai_whole(),
    error=_openai_error,
    error_event=openai_event(_openai_error("The server had an error", "server_error", None)),
    statuses=(
        (400, "invalid_request_error", None, "UPSTREAM_INVALID_ARGUMENT"),
        (400, "invalid_request_error", "context_length_exceeded", "CONTEXT_TOO_LONG"),
        (400, "invalid_request_error", "content_policy_violation", "CONTENT_FILTERED"),
        (401, "invalid_request_error", "invalid_api_key", "UPSTREAM_AUTHENTICATION"),
        (402, "billing", None, "UPSTREAM_QUOTA_EXHAUSTED"),
        (403, "invalid_request_error", "unsupported_country_region_territory", "UPSTREAM_PERMISSION"),
        (404, "invalid_request_error", "model_not_found", "MODEL_NOT_FOUND"),
        (408, "timeout", None, "UPSTREAM_TIMEOUT"),
        (413, "invalid_request_error", None, "CONTEXT_TOO_LONG"),
        (429, "requests", "rate_limit_exceeded", "UPSTREAM_RATE_LIMITED"),
        (429, "insufficient_quota", "insufficient_quota", "UPSTREAM_QUOTA_EXHAUSTED"),
        (500, "server_error", None, "UPSTREAM_UNAVAILABLE"),
        (502, "server_error", None, "UPSTREAM_UNAVAILABLE"),
        (503, "server_error", None, "UPSTREAM_UNAVAILABLE"),
        (504, "server_error", None, "UPSTREAM_TIMEOUT"),
        (529, "server_error", None, "UPSTREAM_OVERLOADED"),
    ),
)

ANTHROPIC = Format(
    adapter="anthropic",
    path="/v1/messages",
    base="",
    key_variable="ANTHROPIC_API_KEY",
    request_id_header="request-id",
    model="claude-test-1",
    text=_anthropic_text,
    tools=_anthropic_tools(),
    reasoning=_anthropic_reasoning(),
    whole=_anthropic_whole(),
    error=_anthropic_error,
    error_event=anthropic_event(
        {"type": "error", "error": {"type": "api_error", "message": "Internal server error", "details": None}}
    ),
    statuses=(
        (400, "invalid_request_error", None, "UPSTREAM_INVALID_ARGUMENT"),
        (401, "authentication_error", None, "UPSTREAM_AUTHENTICATION"),
        (402, "billing_error", None, "UPSTREAM_QUOTA_EXHAUSTED"),
        (403, "permission_error", None, "UPSTREAM_PERMISSION"),
        (404, "not_found_error", None, "MODEL_NOT_FOUND"),
        (408, "timeout_error", None, "UPSTREAM_TIMEOUT"),
        (413, "request_too_large", None, "CONTEXT_TOO_LONG"),
        (429, "rate_limit_error", None, "UPSTREAM_RATE_LIMITED"),
        (429, "rate_limit_error", "enforced_spend_limit_reached", "UPSTREAM_QUOTA_EXHAUSTED"),
        (500, "api_error", None, "UPSTREAM_UNAVAILABLE"),
        (502, "api_error", None, "UPSTREAM_UNAVAILABLE"),
        (503, "api_error", None, "UPSTREAM_UNAVAILABLE"),
        (504, "timeout_error", None, "UPSTREAM_TIMEOUT"),
        (529, "overloaded_error", None, "UPSTREAM_OVERLOADED"),
    ),
)
FORMATS = {"openai": OPENAI, "anthropic": ANTHROPIC}
