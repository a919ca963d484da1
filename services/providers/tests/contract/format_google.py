"""The generateContent format of Gemini: recorded replies in its documented form."""

from __future__ import annotations

import json
from typing import Any

from sluice.provider.v1 import model_pb2
from sluice_providers import options
from sluice_providers.wire import gemini_request

from .format_openai import GARBLED
from .upstream import Connection, Play, Request, plain
from .wire_format import KEY, Format, joined

MODEL = "gemini-3-flash-test"
USAGE = {
    "promptTokenCount": 19,
    "cachedContentTokenCount": 4,
    "candidatesTokenCount": 7,
    "thoughtsTokenCount": 3,
    "totalTokenCount": 29,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 19}],
}
SO_FAR = {"promptTokenCount": 19, "totalTokenCount": 19}


def event(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def reply(*parts: Any, finish: str | None = None, usage: Any = None) -> dict[str, Any]:
    """A chunk of a stream, or a whole reply."""
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    known = {"modelVersion": MODEL, "responseId": "dGhpcyBpcw"}
    return {"candidates": [candidate], "usageMetadata": usage or SO_FAR, **known}


def chunk(*parts: Any, finish: str | None = None) -> bytes:
    """A chunk of a stream; the last one says why and how much."""
    return event(reply(*parts, finish=finish, usage=USAGE if finish else SO_FAR))


def finished(reason: str, *pieces: str) -> list[bytes]:
    *before, last = pieces or ("",)
    return [*(chunk({"text": piece}) for piece in before), chunk({"text": last}), chunk({"text": ""}, finish=reason)]


def text(*pieces: str) -> list[bytes]:
    return finished("STOP", *pieces)


def call(id: str | None, name: str, **args: str) -> dict[str, Any]:
    """A part that calls a function."""
    return {"functionCall": ({"id": id} if id else {}) | {"name": name, "args": args}}


def error(message: str, status: str, code: int = 500, *details: Any) -> dict[str, Any]:
    """An error as Google writes it."""
    found: dict[str, Any] = {"code": code, "message": message, "status": status}
    if details:
        found["details"] = list(details)
    return {"error": found}


def error_info(reason: str) -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com"},
    }


def quota_failure(*ids: str) -> dict[str, Any]:
    metric = "generativelanguage.googleapis.com/generate_content_free_tier_requests"
    return {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaMetric": metric, "quotaId": id, "quotaValue": "20"} for id in ids],
    }


def retry_info(delay: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def refusal(status: int, kind: str = "x", code: str | None = None, message: str = "no", **headers: str) -> Play:
    details = () if code is None else (quota_failure(code) if "Per" in code else error_info(code),)
    return plain(json.dumps(error(message, kind, status, *details)).encode(), status, **headers)


def error_frame(message: str = "An internal error has occurred", status: str = "INTERNAL", code: int = 500) -> bytes:
    return event(error(message, status, code))


async def vectors(connection: Connection, request: Request) -> None:
    texts = [row["content"]["parts"][0]["text"] for row in request.json["requests"]]
    rows = [{"values": [float(len(text)), 0.5]} for text in texts]
    usage = {"promptTokenCount": 2 * len(texts)}
    await plain(json.dumps({"embeddings": rows, "usageMetadata": usage}).encode())(connection, request)


MODELS = {
    "models": [
        {
            "name": "models/b",
            "version": "001",
            "displayName": "B",
            "description": "A model",
            "inputTokenLimit": 2048,
            "supportedGenerationMethods": ["embedContent", "countTextTokens"],
        },
        {
            "name": "models/a",
            "version": "001",
            "displayName": "A",
            "inputTokenLimit": 1048576,
            "outputTokenLimit": 65536,
            "supportedGenerationMethods": ["generateContent", "countTokens", "createCachedContent"],
            "temperature": 1,
            "topP": 0.95,
            "topK": 64,
            "maxTemperature": 2,
            "thinking": True,
        },
        {
            "name": f"models/{MODEL}",
            "version": "3-flash",
            "displayName": "Gemini 3 Flash Test",
            "inputTokenLimit": 1048576,
            "outputTokenLimit": 65536,
            "supportedGenerationMethods": ["generateContent", "countTokens", "createCachedContent"],
            "thinking": True,
        },
    ]
}
_C = model_pb2.Capability
SIGNATURE = "EqQBCg=="

GOOGLE = Format(
    name="google",
    adapter="google",
    model=MODEL,
    settings=lambda url: {"api_key": KEY, "base_url": url},
    path=f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse",
    whole_path=f"/v1beta/models/{MODEL}:generateContent",
    streams=lambda request: ":streamGenerateContent" in request.path,
    key_variable="GEMINI_API_KEY",
    text=text,
    finished=finished,
    finish_words={"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"},
    opening=chunk({"text": ""}),
    tools=[
        chunk({"thoughtSignature": SIGNATURE, **call("call_a", "weather", city="Aarhus")}),
        chunk(call("call_b", "time", zone="CET")),
        chunk({"text": ""}, finish="STOP"),
    ],
    calls=lambda calls, pieces: [
        *(chunk({"functionCall": {"id": id, "name": name, "args": args}}) for id, name, args in joined(calls, pieces)),
        chunk({"text": ""}, finish="STOP"),
    ],
    reasoning=[
        chunk({"text": "Let me ", "thought": True}),
        chunk({"text": "think.", "thought": True}),
        chunk({"text": "Yes.", "thoughtSignature": SIGNATURE}),
        chunk({"text": ""}, finish="STOP"),
    ],
    reasoning_state=SIGNATURE.encode(),
    whole=json.dumps(reply({"text": "Hello there"}, finish="STOP", usage=USAGE), indent=2).encode(),
    whole_tools=json.dumps(
        reply({"text": "Looking."}, call("c1", "weather", city="Aarhus"), finish="STOP", usage=USAGE), indent=2
    ).encode(),
    without_usage=[frame.replace(b'"usageMetadata"', b'"unused"') for frame in text("Hello there")],
    early_usage=True,
    noise=[
        b": keep-alive\n\n",
        b"retry: 5\n\n",
        b"id: 7\n\n",
        event({"modelVersion": MODEL, "responseId": "dGhpcyBpcw"}),
        chunk({"future": {"x": [1]}}),
        event({"candidates": [], "usageMetadata": SO_FAR}),
    ],
    refusal=refusal,
    error_frame=error_frame,
    telling_error=(error_frame("slow down", "RESOURCE_EXHAUSTED", 429), "UPSTREAM_RATE_LIMITED"),
    statuses=(
        (400, "INVALID_ARGUMENT", None, "UPSTREAM_INVALID_ARGUMENT"),
        (400, "INVALID_ARGUMENT", "API_KEY_INVALID", "UPSTREAM_AUTHENTICATION"),
        (400, "FAILED_PRECONDITION", None, "UPSTREAM_PERMISSION"),
        (400, "OUT_OF_RANGE", None, "UPSTREAM_INVALID_ARGUMENT"),
        (401, "UNAUTHENTICATED", "ACCESS_TOKEN_EXPIRED", "UPSTREAM_AUTHENTICATION"),
        (403, "PERMISSION_DENIED", None, "UPSTREAM_PERMISSION"),
        (403, "PERMISSION_DENIED", "SERVICE_DISABLED", "UPSTREAM_PERMISSION"),
        (403, "PERMISSION_DENIED", "BILLING_DISABLED", "UPSTREAM_QUOTA_EXHAUSTED"),
        (404, "NOT_FOUND", None, "MODEL_NOT_FOUND"),
        (413, "x", None, "CONTEXT_TOO_LONG"),
        (429, "RESOURCE_EXHAUSTED", None, "UPSTREAM_RATE_LIMITED"),
        (429, "RESOURCE_EXHAUSTED", "GenerateRequestsPerMinutePerProjectPerModel", "UPSTREAM_RATE_LIMITED"),
        (429, "RESOURCE_EXHAUSTED", "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "UPSTREAM_QUOTA_EXHAUSTED"),
        (499, "CANCELLED", None, "UPSTREAM_UNAVAILABLE"),
        (500, "INTERNAL", None, "UPSTREAM_UNAVAILABLE"),
        (502, "x", None, "UPSTREAM_UNAVAILABLE"),
        (503, "UNAVAILABLE", None, "UPSTREAM_OVERLOADED"),
        (504, "DEADLINE_EXCEEDED", None, "UPSTREAM_TIMEOUT"),
    ),
    too_long=refusal(
        400,
        "INVALID_ARGUMENT",
        message="The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).",
    ),
    garbled=GARBLED,
    models=plain(json.dumps(MODELS).encode()),
    model_facts={
        "a": {"display_name": "A", "context_window": 1048576, "max_output_tokens": 65536, "owned_by": "google"},
        "b": {"display_name": "B", "context_window": 2048},
        MODEL: {"display_name": "Gemini 3 Flash Test", "family": "gemini"},
    },
    capabilities={
        "a": frozenset({_C.CAPABILITY_STREAMING, _C.CAPABILITY_REASONING}),
        "b": frozenset({_C.CAPABILITY_EMBEDDINGS}),
        MODEL: frozenset(
            {
                _C.CAPABILITY_STREAMING,
                _C.CAPABILITY_REASONING,
                _C.CAPABILITY_TOOLS,
                _C.CAPABILITY_STRUCTURED_OUTPUT,
                _C.CAPABILITY_IMAGES,
            }
        ),
    },
    parameters=options.PARAMETERS & gemini_request.OPTIONS,
    vendor_option=("top_k", 40),
    refuses=frozenset({"tools.custom"}),
    embeddings=vectors,
    exact_count=plain(b'{"totalTokens": 14, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 14}]}'),
)
