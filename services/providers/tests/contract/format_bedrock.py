"""The Converse format of Amazon Bedrock: recorded replies in its documented form, framed as an event stream of AWS."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from sluice.provider.v1 import model_pb2
from sluice_providers import options
from sluice_providers.wire import converse_request

from .upstream import Connection, Play, Request, plain
from .wire_format import KEY, Format

MODEL = "anthropic.claude-test-v1:0"


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One message with right checksums."""
    head = b"".join(
        struct.pack(">B", len(name)) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    data = prelude + struct.pack(">I", zlib.crc32(prelude)) + head + payload
    return data + struct.pack(">I", zlib.crc32(data))


def raw_event(kind: str, payload: bytes) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, payload)


def event(kind: str, **payload: Any) -> bytes:
    return raw_event(kind, json.dumps({**payload, "p": "abcdefgh"}, ensure_ascii=False).encode())


def exception(kind: str, **payload: Any) -> bytes:
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, json.dumps(payload).encode())


USAGE = {
    "inputTokens": 12,
    "outputTokens": 10,
    "totalTokens": 29,
    "cacheReadInputTokens": 4,
    "cacheWriteInputTokens": 3,
}


def start() -> bytes:
    return event("messageStart", role="assistant")


def delta(index: int, **delta: Any) -> bytes:
    return event("contentBlockDelta", contentBlockIndex=index, delta=delta)


def stop(index: int) -> bytes:
    return event("contentBlockStop", contentBlockIndex=index)


def call(index: int, id: str, name: str, **more: Any) -> bytes:
    tool = {"toolUseId": id, "name": name, **more}
    return event("contentBlockStart", contentBlockIndex=index, start={"toolUse": tool})


def end(reason: str) -> list[bytes]:
    return [
        event("messageStop", stopReason=reason),
        event("metadata", usage=USAGE, metrics={"latencyMs": 551}),
    ]


def finished(reason: str, *pieces: str) -> list[bytes]:
    return [start(), *(delta(0, text=piece) for piece in pieces), stop(0), *end(reason)]


def text(*pieces: str) -> list[bytes]:
    return finished("end_turn", *pieces)


def _tools() -> list[bytes]:
    return [
        start(),
        call(0, "call_a", "weather"),
        delta(0, toolUse={"input": ""}),
        delta(0, toolUse={"input": '{"city":'}),
        call(1, "call_b", "time"),
        delta(0, toolUse={"input": '"Aarhus"}'}),
        delta(1, toolUse={"input": '{"zone":"CET"}'}),
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
            frames.append(call(number, *calls[number]))
        frames.append(delta(number, toolUse={"input": piece}))
    return [*frames, *(stop(number) for number in range(len(calls))), *end("tool_use")]


def _reasoning() -> list[bytes]:
    return [
        start(),
        delta(0, reasoningContent={"text": "Let me "}),
        delta(0, reasoningContent={"text": "think."}),
        delta(0, reasoningContent={"signature": "EqQBCg=="}),
        stop(0),
        delta(1, text="Yes."),
        stop(1),
        *end("end_turn"),
    ]


def whole(reason: str, *content: Any) -> bytes:
    message = {"role": "assistant", "content": content}
    return json.dumps(
        {"output": {"message": message}, "stopReason": reason, "usage": USAGE, "metrics": {"latencyMs": 551}}
    ).encode()


def refusal(status: int, kind: str = "x", code: str | None = None, message: str = "no", **headers: str) -> Play:
    """The type stands in a header, with the address of a name space behind it."""
    told = {"x_amzn_errortype": f"{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/"}
    return plain(json.dumps({"message": message}).encode(), status, **told, **headers)


def error_frame(message: str = "The system encountered an unexpected error.") -> bytes:
    return exception("internalServerException", message=message)


def _with_bad_checksum(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _row(id: str, **more: Any) -> dict[str, Any]:
    return {
        "modelArn": f"arn:aws:bedrock:eu-central-1::foundation-model/{id}",
        "modelId": id,
        "modelName": id.upper(),
        "providerName": "Anthropic",
        "inputModalities": ["TEXT"],
        "outputModalities": ["TEXT"],
        "responseStreamingSupported": True,
        "customizationsSupported": [],
        "inferenceTypesSupported": ["ON_DEMAND"],
        "modelLifecycle": {"status": "ACTIVE"},
        **more,
    }


FOUNDATION = {
    "modelSummaries": [
        _row("b", inputModalities=["TEXT", "IMAGE"], inferenceTypesSupported=["ON_DEMAND", "PROVISIONED"]),
        _row("a", responseStreamingSupported=False, outputModalities=["EMBEDDING"], providerName="Amazon"),
        _row("only-by-profile", inferenceTypesSupported=["INFERENCE_PROFILE"], inputModalities=["TEXT", "IMAGE"]),
        _row("painter", outputModalities=["IMAGE"]),
        _row("bought:0:4k", inferenceTypesSupported=["PROVISIONED"]),
    ]
}


def _profile(id: str, model: str, kind: str = "SYSTEM_DEFINED") -> dict[str, Any]:
    part = "inference-profile" if kind == "SYSTEM_DEFINED" else "application-inference-profile"
    return {
        "inferenceProfileName": f"EU {model}",
        "inferenceProfileArn": f"arn:aws:bedrock:eu-central-1:123456789012:{part}/{id}",
        "inferenceProfileId": id,
        "models": [{"modelArn": f"arn:aws:bedrock:{region}::foundation-model/{model}"} for region in ("eu-1", "eu-2")],
        "createdAt": "2025-03-01T10:00:00Z",
        "status": "ACTIVE",
        "type": kind,
    }


PROFILES = [
    _profile("eu.only-by-profile", "only-by-profile"),
    _profile("x1y2z3", "b", "APPLICATION"),
    _profile("eu.from-elsewhere", "from-elsewhere"),
]


async def models(connection: Connection, request: Request) -> None:
    """The lists of the control plane, the second in two pages."""
    if request.path == "/foundation-models":
        reply: dict[str, Any] = FOUNDATION
    elif "nextToken=more" in request.path:
        reply = {"inferenceProfileSummaries": PROFILES[1:]}
    else:
        assert request.path.startswith("/inference-profiles")
        reply = {"inferenceProfileSummaries": PROFILES[:1], "nextToken": "more"}
    await plain(json.dumps(reply).encode())(connection, request)


async def vectors(connection: Connection, request: Request) -> None:
    """Answers as Titan does, which takes one text."""
    words = request.json["inputText"]
    reply = {"embedding": [len(words), 0.5], "inputTextTokenCount": 2, "embeddingsByType": {"float": [1.0]}}
    await plain(json.dumps(reply).encode())(connection, request)


def settings(url: str) -> dict[str, Any]:
    return {
        "region": "eu-central-1",
        "access_key_id": KEY,
        "secret_access_key": KEY,
        "credential_chain": False,
        "base_url": url,
        "control_url": url,
        "agent_url": url,
        "embedding_forms": {"embedding-model": "titan-v2", "a": "titan-v2"},
    }


_C = model_pb2.Capability
USE = {"toolUse": {"toolUseId": "c1", "name": "weather", "input": {"city": "Aarhus"}}}

BEDROCK = Format(
    name="bedrock",
    adapter="bedrock",
    model=MODEL,
    settings=settings,
    path=f"/model/{MODEL}/converse-stream",
    whole_path=f"/model/{MODEL}/converse",
    streams=lambda request: request.path.endswith("/converse-stream"),
    media_type="application/vnd.amazon.eventstream",
    request_id_header="x-amzn-RequestId",
    key_variable="AWS_ACCESS_KEY_ID or AWS_BEARER_TOKEN_BEDROCK",
    text=text,
    finished=finished,
    finish_words={"stop": "end_turn", "length": "max_tokens", "content_filter": "guardrail_intervened"},
    opening=start(),
    tools=_tools(),
    calls=calls,
    reasoning=_reasoning(),
    reasoning_state=b"EqQBCg==",
    whole=whole("end_turn", {"text": "Hello there"}),
    whole_tools=whole("tool_use", {"text": "Looking."}, USE),
    without_usage=text("Hello there")[:-1],
    usage=(19, 4, 10, 0),
    noise=[
        event("fromTheFuture", contentBlockIndex=3, delta={"text": "no"}),
        event("contentBlockStart", contentBlockIndex=7, start={}),
        frame({":message-type": "event"}, b""),
    ],
    after_marker=1,
    refusal=refusal,
    error_frame=error_frame,
    telling_error=(exception("throttlingException", message="Too many tokens"), "UPSTREAM_RATE_LIMITED"),
    statuses=(
        (400, "ValidationException", None, "UPSTREAM_INVALID_ARGUMENT"),
        (400, "ServiceQuotaExceededException", None, "UPSTREAM_QUOTA_EXHAUSTED"),
        (401, "x", None, "UPSTREAM_AUTHENTICATION"),
        (403, "AccessDeniedException", None, "UPSTREAM_PERMISSION"),
        (403, "UnrecognizedClientException", None, "UPSTREAM_AUTHENTICATION"),
        (403, "InvalidSignatureException", None, "UPSTREAM_AUTHENTICATION"),
        (403, "ExpiredTokenException", None, "UPSTREAM_AUTHENTICATION"),
        (404, "ResourceNotFoundException", None, "MODEL_NOT_FOUND"),
        (408, "ModelTimeoutException", None, "UPSTREAM_TIMEOUT"),
        (424, "ModelErrorException", None, "UPSTREAM_UNAVAILABLE"),
        (429, "ThrottlingException", None, "UPSTREAM_RATE_LIMITED"),
        (429, "ModelNotReadyException", None, "UPSTREAM_OVERLOADED"),
        (500, "InternalServerException", None, "UPSTREAM_UNAVAILABLE"),
        (502, "x", None, "UPSTREAM_UNAVAILABLE"),
        (503, "ServiceUnavailableException", None, "UPSTREAM_UNAVAILABLE"),
        (504, "x", None, "UPSTREAM_TIMEOUT"),
    ),
    too_long=refusal(400, "ValidationException", message="Input is too long for requested model."),
    garbled={
        "syntax": raw_event("contentBlockDelta", b"{not json"),
        "array": raw_event("contentBlockDelta", b"[1, 2]"),
        "null": raw_event("contentBlockDelta", b"null"),
        "empty": raw_event("contentBlockDelta", b""),
        "checksum": _with_bad_checksum(delta(0, text="Hello")),
        "second start": start(),
        "a call without name": event("contentBlockStart", contentBlockIndex=0, start={"toolUse": {"toolUseId": "x"}}),
        "arguments of no call": delta(5, toolUse={"input": "{}"}),
        "the count before the end": end("end_turn")[1],
        "no reason": event("messageStop"),
    },
    models=models,
    model_facts={
        "a": {"display_name": "A", "owned_by": "Amazon"},
        "b": {"display_name": "B", "owned_by": "Anthropic"},
        "eu.only-by-profile": {"display_name": "EU only-by-profile", "owned_by": "Anthropic"},
        PROFILES[1]["inferenceProfileArn"]: {"display_name": "EU b"},
    },
    capabilities={
        "a": frozenset({_C.CAPABILITY_EMBEDDINGS}),
        "b": frozenset({_C.CAPABILITY_STREAMING, _C.CAPABILITY_IMAGES}),
        "eu.only-by-profile": frozenset({_C.CAPABILITY_STREAMING, _C.CAPABILITY_IMAGES}),
        PROFILES[1]["inferenceProfileArn"]: frozenset({_C.CAPABILITY_STREAMING, _C.CAPABILITY_IMAGES}),
    },
    parameters=options.PARAMETERS & converse_request.OPTIONS,
    vendor_option=("performanceConfig", {"latency": "optimized"}),
    refuses=frozenset({"response_format.json", "tools.custom", "images.uri", "files.uri"}),
    embeddings=vectors,
    exact_count=plain(b'{"inputTokens": 14}'),
)
