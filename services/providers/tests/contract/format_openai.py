"""The chat completions format of OpenAI: recorded replies in its documented form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sluice_providers import options

from .upstream import Connection, Play, Request, plain
from .wire_format import KEY, Format


def event(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    return event(
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


USAGE = {
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


def _end(finish: str) -> list[bytes]:
    return [chunk({}, finish), chunk({}, choices=[], usage=USAGE), b"data: [DONE]\n\n"]


def finished(reason: str, *pieces: str) -> list[bytes]:
    first = chunk({"role": "assistant", "content": "", "refusal": None})
    return [first, *(chunk({"content": piece}) for piece in pieces), *_end(reason)]


def text(*pieces: str) -> list[bytes]:
    return finished("stop", *pieces)


def _call(index: int, **fields: Any) -> bytes:
    return chunk({"tool_calls": [{"index": index, **fields}]})


def _tools() -> list[bytes]:
    return [
        chunk({"role": "assistant", "content": None}),
        _call(0, id="call_a", type="function", function={"name": "weather", "arguments": ""}),
        _call(0, function={"arguments": '{"city":'}),
        _call(1, id="call_b", type="function", function={"name": "time", "arguments": ""}),
        _call(0, function={"arguments": '"Aarhus"}'}),
        _call(1, function={"arguments": '{"zone":"CET"}'}),
        *_end("tool_calls"),
    ]


def calls(calls: Sequence[tuple[str, str]], pieces: Sequence[tuple[int, str]]) -> list[bytes]:
    frames = [chunk({"role": "assistant", "content": None})]
    begun: set[int] = set()
    for number, piece in pieces:
        if number not in begun:
            begun.add(number)
            id, name = calls[number]
            frames.append(_call(number, id=id, type="function", function={"name": name, "arguments": piece}))
        else:
            frames.append(_call(number, function={"arguments": piece}))
    return [*frames, *_end("tool_calls")]


def _reasoning() -> list[bytes]:
    return [
        chunk({"role": "assistant", "reasoning_content": "Let me "}),
        chunk({"reasoning_content": "think."}),
        chunk({"content": "Yes."}),
        *_end("stop"),
    ]


def _whole(finish: str, **message: Any) -> bytes:
    reply = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1741569952,
        "model": "gpt-5-mini-2025-08-07",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "refusal": None, "annotations": [], **message},
                "logprobs": None,
                "finish_reason": finish,
            }
        ],
        "usage": USAGE,
        "service_tier": "default",
    }
    return json.dumps(reply).encode()


def _error(message: str, kind: str, code: str | None) -> Any:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def refusal(status: int, kind: str = "x", code: str | None = None, message: str = "no", **headers: str) -> Play:
    return plain(json.dumps(_error(message, kind, code)).encode(), status, **headers)


def error_frame(message: str = "The server had an error") -> bytes:
    return event(_error(message, "server_error", None))


async def vectors(connection: Connection, request: Request) -> None:
    """Answers with vectors, in another order than asked, as the format allows."""
    texts = request.json["input"]
    rows = [
        {"object": "embedding", "index": index, "embedding": [float(len(text)), 0.5]}
        for index, text in enumerate(texts)
    ]
    count = 2 * len(texts)
    usage = {"prompt_tokens": count, "total_tokens": count}
    reply = {"object": "list", "data": rows[::-1], "model": request.json["model"], "usage": usage}
    await plain(json.dumps(reply).encode())(connection, request)


def without_usage(frames: list[bytes]) -> list[bytes]:
    return [frame for frame in frames if b'"prompt_tokens"' not in frame]


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Aarhus"}'}}
MODELS = {
    "object": "list",
    "data": [
        {"id": "b", "object": "model", "created": 1686935002, "owned_by": "openai"},
        {"id": "a", "object": "model", "created": 1686935002, "owned_by": "you"},
    ],
}
GARBLED = {
    "syntax": b"data: {not json\n\n",
    "array": b"data: [1, 2]\n\n",
    "null": b"data: null\n\n",
    "empty": b"data: \n\n",
}

OPENAI = Format(
    name="openai",
    adapter="openai",
    model="gpt-5-mini-2025-08-07",
    settings=lambda url: {"api_key": KEY, "base_url": f"{url}/v1"},
    path="/v1/chat/completions",
    streams=lambda request: request.json.get("stream") is True,
    request_id_header="x-request-id",
    key_variable="OPENAI_API_KEY",
    text=text,
    finished=finished,
    finish_words={"stop": "stop", "length": "length", "content_filter": "content_filter"},
    opening=chunk({"role": "assistant", "content": ""}),
    tools=_tools(),
    calls=calls,
    reasoning=_reasoning(),
    whole=_whole("stop", content="Hello there"),
    whole_tools=_whole("tool_calls", content="Looking.", tool_calls=[CALL]),
    without_usage=without_usage(text("Hello there")),
    noise=[
        b": keep-alive\n\n",
        b"retry: 5\n\n",
        b"id: 7\n\n",
        chunk({}, choices=[]),
        chunk({"role": "assistant", "future": {"x": [1]}}),
    ],
    refusal=refusal,
    error_frame=error_frame,
    telling_error=(event(_error("no", "requests", "rate_limit_exceeded")), "UPSTREAM_RATE_LIMITED"),
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
    too_long=refusal(400, "invalid_request_error", "context_length_exceeded"),
    garbled=GARBLED,
    models=plain(json.dumps(MODELS).encode()),
    model_facts={"a": {"owned_by": "you"}, "b": {"owned_by": "openai"}},
    capabilities={"a": frozenset(), "b": frozenset()},
    parameters=options.PARAMETERS,
    refuses=frozenset({"files.uri"}),
    vendor_option=("service_tier", "auto"),
    embeddings=vectors,
    exact_count=None,
)
