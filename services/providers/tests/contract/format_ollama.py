"""Ollama's own chat interface: recorded replies in its documented form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sluice.provider.v1 import model_pb2
from sluice_providers import options
from sluice_providers.wire import ollama_request

from .upstream import Connection, Play, Request, plain
from .wire_format import Format, joined

MODEL = "qwen3:8b"
METRICS = {
    "total_duration": 4883583458,
    "load_duration": 1334875,
    "prompt_eval_count": 19,
    "prompt_eval_duration": 342546000,
    "eval_count": 10,
    "eval_duration": 4535599000,
}


def line(payload: Any) -> bytes:
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def reply(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One object of a stream, or a whole reply."""
    return {
        "model": MODEL,
        "created_at": "2025-11-04T14:34:51.706015396Z",
        "message": {"role": "assistant", "content": "", **message},
        "done": False,
        **more,
    }


def piece(**message: Any) -> bytes:
    return line(reply(message))


def last(reason: str = "stop") -> bytes:
    return line(reply({}, done=True, done_reason=reason, **METRICS))


def call(name: str, id: str | None = None, **arguments: Any) -> dict[str, Any]:
    """A tool call; servers before 0.12 give it no id."""
    function = {"name": name, "arguments": arguments}
    return {"function": function} if id is None else {"id": id, "function": {"index": 0, **function}}


def finished(reason: str, *pieces: str) -> list[bytes]:
    return [*(piece(content=text) for text in pieces), last(reason)]


def text(*pieces: str) -> list[bytes]:
    return finished("stop", *pieces)


def calls(calls: Sequence[tuple[str, str]], pieces: Sequence[tuple[int, str]]) -> list[bytes]:
    """The server sends each call whole, and old ones without an id."""
    rows = [{"function": {"name": name, "arguments": arguments}} for _, name, arguments in joined(calls, pieces)]
    return [*(piece(tool_calls=[row]) for row in rows), last()]


def whole(**message: Any) -> bytes:
    return json.dumps(reply(message, done=True, done_reason="stop", **METRICS)).encode()


def refusal(status: int, kind: str = "x", code: str | None = None, message: str = "no", **headers: str) -> Play:
    """The vendor knows neither types nor codes."""
    return plain(line({"error": message}), status, "application/json; charset=utf-8", **headers)


def error_frame(message: str = "an error was encountered while running the model: unexpected EOF") -> bytes:
    return line({"error": message})


def _tag(name: str, size: int, family: str, parameters: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "modified_at": "2025-10-03T23:34:03.409490317-07:00",
        "size": size,
        "digest": f"{name}-digest",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": family,
            "families": [family],
            "parameter_size": parameters,
            "quantization_level": "Q4_K_M",
        },
        **more,
    }


TAGS = {
    "models": [
        _tag("b", 5_225_388_164, "qwen3", "8.2B"),
        _tag("a", 274_302_450, "nomic-bert", "137M"),
        _tag("c-cloud", 384, "gptoss", "116.8B", remote_model="c", remote_host="https://ollama.com:443"),
        _tag("d", 812, "", ""),
    ]
}
SHOWN: dict[str, Any] = {
    "b": {
        "capabilities": ["completion", "vision", "tools", "thinking", "insert"],
        "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40960, "qwen3.block_count": 36},
    },
    "a": {
        "capabilities": ["embedding"],
        "model_info": {"general.architecture": "nomic-bert", "nomic-bert.context_length": 2048},
    },
    "c-cloud": {"capabilities": ["completion", "tools"], "model_info": {}},
}


async def models(connection: Connection, request: Request) -> None:
    """Lists the models, and shows each but one."""
    if request.path == "/api/tags":
        await plain(line(TAGS))(connection, request)
        return
    assert (request.method, request.path) == ("POST", "/api/show")
    shown = SHOWN.get(request.json["model"])
    await (plain(line(shown)) if shown else refusal(500, message="unreadable"))(connection, request)


async def vectors(connection: Connection, request: Request) -> None:
    """Answers with a vector for each text."""
    body = request.json
    vectors = [[float(len(text)), 0.5] for text in body["input"]]
    count = 2 * len(vectors)
    found = {"model": body["model"], "embeddings": vectors, "total_duration": 14143917, "prompt_eval_count": count}
    await plain(line(found))(connection, request)


_C = model_pb2.Capability
OLLAMA = Format(
    name="ollama",
    adapter="ollama",
    model=MODEL,
    # A command line that this machine happens to have is no part of a test.
    settings=lambda url: {"base_url": url, "cli": False},
    path="/api/chat",
    streams=lambda request: request.json["stream"] is True,
    media_type="application/x-ndjson",
    key_variable=None,
    text=text,
    finished=finished,
    finish_words={"stop": "stop", "length": "length"},
    opening=piece(),
    tools=[
        piece(tool_calls=[call("weather", city="Aarhus")]),
        piece(tool_calls=[call("time", zone="CET")]),
        last(),
    ],
    calls=calls,
    reasoning=[piece(thinking="Let me "), piece(thinking="think."), piece(content="Yes."), last()],
    whole=whole(content="Hello there"),
    whole_tools=whole(content="Looking.", tool_calls=[call("weather", "c1", city="Aarhus")]),
    without_usage=[piece(content="Hello there"), line(reply({}, done=True, done_reason="stop"))],
    usage=(19, 0, 10, 0),
    noise=[b"\n", b" \r\n", piece(), line({"future": {"x": [1]}}), line(reply({"future": None}))],
    made_up_ids=True,
    refusal=refusal,
    error_frame=error_frame,
    telling_error=(error_frame("the input length exceeds the context length"), "CONTEXT_TOO_LONG"),
    statuses=(
        (400, "", None, "UPSTREAM_INVALID_ARGUMENT"),
        (401, "", None, "UPSTREAM_AUTHENTICATION"),
        (402, "", None, "UPSTREAM_QUOTA_EXHAUSTED"),
        (403, "", None, "UPSTREAM_PERMISSION"),
        (404, "", None, "MODEL_NOT_FOUND"),
        (429, "", None, "UPSTREAM_RATE_LIMITED"),
        (500, "", None, "UPSTREAM_UNAVAILABLE"),
        (502, "", None, "UPSTREAM_UNAVAILABLE"),
        (503, "", None, "UPSTREAM_UNAVAILABLE"),
    ),
    too_long=refusal(
        400,
        message='{"error":{"code":400,"message":"request (8889 tokens) exceeds the available context size (4096 '
        'tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":8889,"n_ctx":4096}}',
    ),
    garbled={
        "syntax": b"{not json\n",
        "array": b"[1, 2]\n",
        "null": b"null\n",
        "types": line(reply({"content": 7})),
        "nameless": piece(tool_calls=[{"function": {"arguments": {}}}]),
        "arguments": piece(tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]),
    },
    models=models,
    model_facts={
        "a": {"family": "nomic-bert", "parameter_size": "137M", "display_size": "261.6 MiB", "context_window": 2048},
        "b": {"family": "qwen3", "size_bytes": 5_225_388_164, "display_size": "4.9 GiB", "context_window": 40960},
        "c-cloud": {"family": "gptoss", "parameter_size": "116.8B", "display_size": "", "size_bytes": 0},
        "d": {"family": "", "display_size": "812 B", "context_window": 0},
    },
    capabilities={
        "a": frozenset({_C.CAPABILITY_EMBEDDINGS}),
        "b": frozenset(
            {
                _C.CAPABILITY_STREAMING,
                _C.CAPABILITY_IMAGES,
                _C.CAPABILITY_TOOLS,
                _C.CAPABILITY_REASONING,
                _C.CAPABILITY_STRUCTURED_OUTPUT,
            }
        ),
        "c-cloud": frozenset({_C.CAPABILITY_STREAMING, _C.CAPABILITY_TOOLS}),
        "d": frozenset(),
    },
    parameters=options.PARAMETERS & ollama_request.OPTIONS,
    vendor_option=("top_k", 40),
    refuses=frozenset({"tools.custom", "tools.strict", "tool_choice", "images.uri", "files", "files.uri"}),
    embeddings=vectors,
    exact_count=None,
    version=(plain(b'{"version":"0.12.9"}'), "0.12.9"),
)
