"""Writes requests for the messages interface of Anthropic."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sluice.chat.v1 import message_pb2, parameters_pb2, passage_pb2, tool_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.rpc import invalid_field
from sluice_providers.options import VENDOR_PREFIX
from sluice_providers.wire.messages_cache import PromptCache, mark
from sluice_providers.wire.prompt import (
    encoded,
    media_type,
    misplaced,
    parse_json,
    render_passages,
    tool_schema,
    vendor_options,
)

OPTIONS: Final = frozenset(
    {
        "max_output_tokens", "stop", "reasoning_effort", "parallel_tool_calls",
        "tools", "tools.strict", "tool_choice", "images", "images.uri", "files", "files.uri",
        "response_format.json_schema",
    }
)  # fmt: skip  # names read better side by side
"""What the interface has. It knows no seed, penalties or verbosity, and no longer temperature and top_p."""

VENDOR_OPTIONS: Final = frozenset(
    {"cache_control", "inference_geo", "metadata", "service_tier", "speed", "thinking", "user_profile_id"}
)
"""Names that `vendor_options` may hold."""

REDACTED: Final = b"redacted:"
"""Marks sealed reasoning without readable text. A signature never holds a colon."""

_EFFORT: Final = {
    parameters_pb2.REASONING_EFFORT_LOW: "low",
    parameters_pb2.REASONING_EFFORT_MEDIUM: "medium",
    parameters_pb2.REASONING_EFFORT_HIGH: "high",
}
_CHOICE: Final = {
    tool_pb2.TOOL_CHOICE_MODE_AUTO: "auto",
    tool_pb2.TOOL_CHOICE_MODE_NONE: "none",
    tool_pb2.TOOL_CHOICE_MODE_REQUIRED: "any",
}
_MAX_BLOCK_LINES: Final = 10


@dataclass(frozen=True, slots=True)
class Source:
    """A passage as it was handed over: its id, and the first and last line of each of its blocks."""

    passage_id: str
    blocks: tuple[tuple[int, int], ...]


def unsupported(request: pb.GenerateRequest, names: Collection[str]) -> list[str]:
    """Returns the options that the format cannot carry."""
    refused = []
    for name in names:
        if name.startswith(VENDOR_PREFIX):
            known = name.removeprefix(VENDOR_PREFIX) in VENDOR_OPTIONS
        elif name == "reasoning_effort":
            known = request.parameters.reasoning_effort != parameters_pb2.REASONING_EFFORT_MINIMAL
        elif name == "parallel_tool_calls":
            known = bool(request.tools)
        else:
            known = name in OPTIONS
        if not known:
            refused.append(name)
    return refused


def messages_body(
    request: pb.GenerateRequest,
    *,
    integration: str,
    max_tokens: int,
    native_citations: bool,
    prompt_cache: PromptCache,
) -> tuple[dict[str, Any], list[Source]]:
    """Returns the body of a request, without the stream switch, and the passages it hands over to be cited.

    Raises InvalidRequestError.
    """
    given = request.parameters
    form = request.response_format.WhichOneof("kind")
    # The vendor refuses citations together with an output format.
    native = native_citations and bool(request.passages) and form != "json_schema"
    lead, sources = _search_results(request.passages) if native else (_rendered(request), [])
    body: dict[str, Any] = {
        "model": request.target.model,
        "max_tokens": given.max_output_tokens or max_tokens,
        "messages": _messages(request, lead, integration),
    }
    if request.system_instruction:
        body["system"] = request.system_instruction
    if given.stop:
        body["stop_sequences"] = list(given.stop)
    output: dict[str, Any] = {}
    if given.reasoning_effort == parameters_pb2.REASONING_EFFORT_NONE:
        body["thinking"] = {"type": "disabled"}
    elif given.reasoning_effort in _EFFORT:
        body["thinking"] = {"type": "adaptive", "display": "summarized"}
        output["effort"] = _EFFORT[given.reasoning_effort]
    if form == "json_schema":
        schema = parse_json(request.response_format.json_schema.schema_json, "response_format.json_schema.schema_json")
        output["format"] = {"type": "json_schema", "schema": schema}
    if output:
        body["output_config"] = output
    if request.tools:
        body["tools"] = [_tool(tool, index) for index, tool in enumerate(request.tools)]
    choice = _tool_choice(request)
    if choice:
        body["tool_choice"] = choice
    if request.HasField("parameters"):
        body |= vendor_options(request)
    mark(body, prompt_cache)
    return body, sources


def _rendered(request: pb.GenerateRequest) -> list[dict[str, Any]]:
    text = render_passages(request)
    return [{"type": "text", "text": text}] if text else []


def _search_results(passages: Sequence[passage_pb2.Passage]) -> tuple[list[dict[str, Any]], list[Source]]:
    """Returns the passages as search results, whose blocks are the smallest thing that can be cited."""
    results = []
    sources = []
    for passage in passages:
        blocks = _blocks(passage)
        if not blocks:
            continue
        results.append(
            {
                "type": "search_result",
                "source": f"{passage.path}#L{passage.start_line}-L{passage.end_line}",
                "title": f"{passage.path} {passage.symbol}".strip(),
                "content": [{"type": "text", "text": text} for _, _, text in blocks],
                "citations": {"enabled": True},
            }
        )
        sources.append(Source(passage.id, tuple((first, last) for first, last, _ in blocks)))
    return results, sources


def _blocks(passage: passage_pb2.Passage) -> list[tuple[int, int, str]]:
    """Cuts a passage into blocks of its lines: behind blank lines, and at the latest after ten. None is blank.

    Returns the first and the last line that is not blank, and the text, of each.
    """
    blocks: list[tuple[int, int, str]] = []
    held: list[str] = []
    first = last = 0
    for number, line in enumerate(passage.text.splitlines(), max(passage.start_line, 1)):
        begins = bool(line.strip()) and bool(held) and not held[-1].strip()
        if last and (begins or len(held) >= _MAX_BLOCK_LINES):
            blocks.append((first, last, "\n".join(held) + "\n"))
            held, last = [], 0
        held.append(line)
        if line.strip():
            first, last = first if last else number, number
    if last:
        blocks.append((first, last, "\n".join(held)))
    return blocks


def _messages(request: pb.GenerateRequest, lead: list[dict[str, Any]], integration: str) -> list[dict[str, Any]]:
    written = []
    last_user = max(
        (index for index, message in enumerate(request.messages) if message.role == message_pb2.MESSAGE_ROLE_USER),
        default=-1,
    )
    for index, message in enumerate(request.messages):
        if message.role == message_pb2.MESSAGE_ROLE_USER:
            content = (lead if index == last_user else []) + _user(message, index)
            written.append({"role": "user", "content": content})
        elif message.role == message_pb2.MESSAGE_ROLE_ASSISTANT:
            content = _assistant(message, index, integration)
            if content:
                written.append({"role": "assistant", "content": content})
        else:
            written.append({"role": "user", "content": _tool_results(message, index)})
    if lead and last_user < 0:
        written.append({"role": "user", "content": lead})
    return written


def _user(message: message_pb2.Message, index: int) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for position, part in enumerate(message.parts):
        kind = part.WhichOneof("kind")
        field = f"messages[{index}].parts[{position}]"
        if kind == "text":
            content.append({"type": "text", "text": part.text})
        elif kind == "image":
            content.append({"type": "image", "source": _source(part.image, f"{field}.image")})
        elif kind == "file":
            document: dict[str, Any] = {"type": "document", "source": _document(part.file, f"{field}.file")}
            if part.file.HasField("name"):
                document["title"] = part.file.name
            content.append(document)
        else:
            raise misplaced(index, position, kind, message.role)
    return content


def _source(part: message_pb2.Image | message_pb2.File, field: str) -> dict[str, Any]:
    if part.WhichOneof("source") == "uri":
        return {"type": "url", "url": part.uri}
    return {"type": "base64", "media_type": media_type(part, field), "data": encoded(part.data)}


def _document(file: message_pb2.File, field: str) -> dict[str, Any]:
    if file.WhichOneof("source") == "data" and media_type(file, field).startswith("text/"):
        try:
            return {"type": "text", "media_type": "text/plain", "data": file.data.decode()}
        except UnicodeDecodeError:
            raise invalid_field(f"{field}.data", "must be UTF-8 for a text document") from None
    return _source(file, field)


def _assistant(message: message_pb2.Message, index: int, integration: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for position, part in enumerate(message.parts):
        kind = part.WhichOneof("kind")
        if kind == "text":
            content.append({"type": "text", "text": part.text})
        elif kind == "tool_call":
            call = part.tool_call
            field = f"messages[{index}].parts[{position}].tool_call.arguments_json"
            arguments = parse_json(call.arguments_json or "{}", field)
            content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments})
        elif kind == "reasoning":
            # Sealed reasoning goes back to its maker alone, and only what is sealed is accepted.
            reasoning = part.reasoning
            if reasoning.provider == integration and reasoning.state:
                content.append(_reasoning(reasoning, f"messages[{index}].parts[{position}].reasoning.state"))
        else:
            raise misplaced(index, position, kind, message.role)
    return content


def _reasoning(reasoning: message_pb2.Reasoning, field: str) -> dict[str, Any]:
    try:
        if reasoning.state.startswith(REDACTED):
            return {"type": "redacted_thinking", "data": reasoning.state.removeprefix(REDACTED).decode("ascii")}
        return {"type": "thinking", "thinking": reasoning.text, "signature": reasoning.state.decode("ascii")}
    except UnicodeDecodeError:
        raise invalid_field(field, "is not what this provider sent") from None


def _tool_results(message: message_pb2.Message, index: int) -> list[dict[str, Any]]:
    content = []
    for position, part in enumerate(message.parts):
        if part.WhichOneof("kind") != "tool_result":
            raise misplaced(index, position, part.WhichOneof("kind"), message.role)
        result = part.tool_result
        block: dict[str, Any] = {"type": "tool_result", "tool_use_id": result.call_id, "content": result.text}
        if result.is_error:
            block["is_error"] = True
        content.append(block)
    return content


def _tool(tool: tool_pb2.Tool, index: int) -> dict[str, Any]:
    function = tool.function
    written: dict[str, Any] = {"name": function.name}
    if function.HasField("description"):
        written["description"] = function.description
    written["input_schema"] = tool_schema(function, index)
    if function.HasField("strict"):
        written["strict"] = function.strict
    return written


def _tool_choice(request: pb.GenerateRequest) -> dict[str, Any]:
    choice: dict[str, Any] = {}
    if request.HasField("tool_choice"):
        if request.tool_choice.mode == tool_pb2.TOOL_CHOICE_MODE_NAMED:
            if request.tool_choice.name not in {tool.function.name for tool in request.tools}:
                raise invalid_field("tool_choice.name", "names no tool of the request")
            choice = {"type": "tool", "name": request.tool_choice.name}
        else:
            choice = {"type": _CHOICE[request.tool_choice.mode]}
    if request.parameters.HasField("parallel_tool_calls") and choice.get("type") != "none":
        choice = choice or {"type": "auto"}
        choice["disable_parallel_tool_use"] = not request.parameters.parallel_tool_calls
    return choice
