"""The Responses format of OpenAI: recorded replies in its documented form."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from sluice_providers import options
from sluice_providers.wire.responses_request import Sealed, seal

from .format_openai import OPENAI
from .wire_format import KEY

MODEL = "gpt-5-mini-2025-08-07"
ID = "resp_68af4030592c81938ec0a5fbab4a3e9f"
USAGE = {
    "input_tokens": 19,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
    "output_tokens": 10,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 29,
}
Draft = tuple[str, dict[str, Any]]
"""An event before it has its number: its type and its fields."""


def event(payload: dict[str, Any]) -> bytes:
    """One event as the vendor writes it."""
    name = str(payload["type"]).encode()
    return b"event: " + name + b"\ndata: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def response(status: str, output: Sequence[Any] = (), **more: Any) -> dict[str, Any]:
    """A response object."""
    return {
        "id": ID,
        "object": "response",
        "created_at": 1756315696,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": "Be brief.",
        "max_output_tokens": None,
        "model": MODEL,
        "output": list(output),
        "parallel_tool_calls": True,
        "reasoning": {"effort": "low", "summary": None},
        "store": False,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "usage": USAGE if status in ("completed", "incomplete") else None,
        "user": None,
        "metadata": {},
        **more,
    }


def ended(reason: str) -> dict[str, Any]:
    """Fields of a response that ends for a reason: `completed`, or why it is incomplete."""
    return {} if reason == "completed" else {"incomplete_details": {"reason": reason}}


def frames(drafts: list[Draft], output: list[Any], reason: str = "completed") -> list[bytes]:
    """The stream of a response: its start, the drafts, its end; all numbered."""
    status = "completed" if reason == "completed" else "incomplete"
    every: list[Draft] = [
        ("created", {"response": response("in_progress")}),
        ("in_progress", {"response": response("in_progress")}),
        *drafts,
        (status, {"response": response(status, output, **ended(reason))}),
    ]
    return [
        event({"type": f"response.{kind}", "sequence_number": number, **fields})
        for number, (kind, fields) in enumerate(every)
    ]


def message(text: str, status: str = "completed", index: int = 0) -> dict[str, Any]:
    content = [{"type": "output_text", "annotations": [], "logprobs": [], "text": text}] if text else []
    return {"id": f"msg_{index}", "type": "message", "status": status, "content": content, "role": "assistant"}


def said(index: int, *pieces: str) -> list[Draft]:
    """A message that grows by the given pieces."""
    place = {"item_id": f"msg_{index}", "output_index": index, "content_index": 0}
    text = "".join(pieces)
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
    return [
        ("output_item.added", {"output_index": index, "item": message("", "in_progress", index)}),
        ("content_part.added", {**place, "part": part}),
        *(("output_text.delta", {**place, "delta": piece, "logprobs": [], "obfuscation": "x1"}) for piece in pieces),
        ("output_text.done", {**place, "text": text, "logprobs": []}),
        ("content_part.done", {**place, "part": {**part, "text": text}}),
        ("output_item.done", {"output_index": index, "item": message(text, index=index)}),
    ]


def thought(*parts: str, index: int = 0, sealed: str | None = "gAAAAABo") -> dict[str, Any]:
    """A reasoning item with the parts of its summary."""
    summary = [{"type": "summary_text", "text": part} for part in parts]
    return {"id": f"rs_{index}", "type": "reasoning", "encrypted_content": sealed, "summary": summary}


def thinking(index: int, *parts: tuple[str, ...], sealed: str | None = "gAAAAABo") -> list[Draft]:
    """Reasoning that is summed up in parts, each of which comes in pieces."""
    place = {"item_id": f"rs_{index}", "output_index": index}
    drafts: list[Draft] = [("output_item.added", {"output_index": index, "item": thought(index=index, sealed="gA")})]
    for number, pieces in enumerate(parts):
        at = {**place, "summary_index": number}
        part = {"type": "summary_text", "text": ""}
        text = "".join(pieces)
        drafts += [
            ("reasoning_summary_part.added", {**at, "part": part}),
            *(("reasoning_summary_text.delta", {**at, "delta": piece, "obfuscation": "x1"}) for piece in pieces),
            ("reasoning_summary_text.done", {**at, "text": text}),
            ("reasoning_summary_part.done", {**at, "part": {**part, "text": text}}),
        ]
    item = thought(*("".join(pieces) for pieces in parts), index=index, sealed=sealed)
    return [*drafts, ("output_item.done", {"output_index": index, "item": item})]


def call(id: str, name: str, arguments: str, status: str = "completed") -> dict[str, Any]:
    return {
        "id": f"fc_{id}",
        "type": "function_call",
        "status": status,
        "arguments": arguments,
        "call_id": id,
        "name": name,
    }


def custom(id: str, name: str, input: str) -> dict[str, Any]:
    return {"id": f"ctc_{id}", "type": "custom_tool_call", "input": input, "call_id": id, "name": name}


def _begun(index: int, item: dict[str, Any]) -> Draft:
    return "output_item.added", {"output_index": index, "item": item}


def called(index: int, item: dict[str, Any], *pieces: str) -> list[Draft]:
    """A call of a tool that grows by the given pieces."""
    of_custom = item["type"] == "custom_tool_call"
    kind, field = ("custom_tool_call_input", "input") if of_custom else ("function_call_arguments", "arguments")
    place = {"item_id": item["id"], "output_index": index}
    return [
        _begun(index, {**item, field: ""}),
        *((f"{kind}.delta", {**place, "delta": piece}) for piece in pieces),
        (f"{kind}.done", {**place, field: "".join(pieces)}),
        ("output_item.done", {"output_index": index, "item": item}),
    ]


def calls(calls: Sequence[tuple[str, str]], pieces: Sequence[tuple[int, str]]) -> list[bytes]:
    items = [
        call(id, name, "".join(text for number, text in pieces if number == index))
        for index, (id, name) in enumerate(calls)
    ]
    drafts: list[Draft] = []
    begun = 0
    for index, piece in pieces:
        if index == begun:
            drafts.append(_begun(index, {**items[index], "arguments": "", "status": "in_progress"}))
            begun += 1
        place = {"item_id": items[index]["id"], "output_index": index}
        drafts.append(("function_call_arguments.delta", {**place, "delta": piece, "obfuscation": "x1"}))
    drafts += [("output_item.done", {"output_index": index, "item": item}) for index, item in enumerate(items)]
    return frames(drafts, items)


def _tools() -> list[bytes]:
    return calls(
        [("call_a", "weather"), ("call_b", "time")],
        [(0, '{"city":'), (1, ""), (0, '"Aarhus"}'), (1, '{"zone":"CET"}')],
    )


def finished(reason: str, *pieces: str) -> list[bytes]:
    if not pieces:
        return frames([], [], reason)
    return frames(said(0, *pieces), [message("".join(pieces))], reason)


def text(*pieces: str) -> list[bytes]:
    return finished("completed", *pieces)


def whole(*output: Any, reason: str = "completed", **more: Any) -> bytes:
    """A whole reply."""
    status = "completed" if reason == "completed" else "incomplete"
    return json.dumps(response(status, output, **ended(reason), **more)).encode()


def failed(code: str) -> bytes:
    """The event of a response that failed."""
    error = {"code": code, "message": "no"}
    return event({"type": "response.failed", "sequence_number": 99, "response": response("failed", error=error)})


def error_frame(message: str = "The server had an error", code: str = "server_error") -> bytes:
    return event({"type": "error", "code": code, "message": message, "param": None, "sequence_number": 99})


RESPONSES = dataclasses.replace(
    OPENAI,
    name="responses",
    model=MODEL,
    settings=lambda url: {"api_key": KEY, "base_url": f"{url}/v1", "responses": "always"},
    path="/v1/responses",
    text=text,
    finished=finished,
    finish_words={"stop": "completed", "length": "max_output_tokens", "content_filter": "content_filter"},
    opening=text()[0],
    tools=_tools(),
    calls=calls,
    reasoning=frames(
        thinking(0, ("Let me ", "think.")) + said(1, "Yes."), [thought("Let me think."), message("Yes.", index=1)]
    ),
    reasoning_state=seal(Sealed("rs_0", "gAAAAABo")),
    whole=whole(message("Hello there")),
    whole_tools=whole(message("Looking."), call("c1", "weather", '{"city":"Aarhus"}')),
    without_usage=[frame.replace(b'"usage"', b'"unused"') for frame in text("Hello there")],
    noise=[
        b": keep-alive\n\n",
        b"retry: 5\n\n",
        b"id: 7\n\n",
        event({"type": "keepalive", "sequence_number": 3}),
        event({"type": "response.in_progress", "response": response("in_progress")}),
        event({"type": "response.from_the_future.delta", "output_index": 3, "delta": {"x": [1]}}),
        event({"type": "response.output_item.added", "output_index": 7, "item": {"type": "new", "content": 3}}),
        event({"type": "response.output_item.done", "output_index": 7, "item": {"type": "new", "arguments": {}}}),
    ],
    error_frame=error_frame,
    telling_error=(failed("rate_limit_exceeded"), "UPSTREAM_RATE_LIMITED"),
    parameters=options.PARAMETERS - {"stop", "seed", "presence_penalty", "frequency_penalty"},
    refuses=frozenset(),
)
