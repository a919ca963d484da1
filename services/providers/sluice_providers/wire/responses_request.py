"""Writes requests for the Responses interface of OpenAI.

Nothing is kept at the vendor between turns: the dialogue goes with every request, and reasoning comes and goes sealed.
A background answer is the exception, because the vendor keeps what can be asked for later.
"""

from collections.abc import Collection
from typing import Any, Final

import msgspec

from sluice.chat.v1 import message_pb2, parameters_pb2, tool_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.rpc import invalid_field
from sluice_providers import options
from sluice_providers.options import VENDOR_PREFIX
from sluice_providers.wire.prompt import (
    data_url,
    media_type,
    misplaced,
    parse_json,
    render_passages,
    tool_schema,
    vendor_options,
)

OPTIONS: Final = (options.PARAMETERS - {"stop", "seed", "presence_penalty", "frequency_penalty"}) | {
    "tools", "tools.custom", "tools.strict", "tool_choice", "images", "images.uri", "files", "files.uri",
    "response_format.json", "response_format.json_schema",
}  # fmt: skip  # names read better side by side
"""What the interface has. It knows no stop texts, seed or penalties."""

VENDOR_OPTIONS: Final = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "truncation",
        "user",
    }
)
"""Names that `vendor_options` may hold; the configuration can allow more."""

FORBIDDEN_VENDOR_OPTIONS: Final = frozenset(
    {
        "model", "input", "instructions", "stream", "stream_options", "background", "store", "include", "tools",
        "tool_choice", "text", "conversation", "previous_response_id", "prompt", "extra_headers",
    }
)  # fmt: skip  # names read better side by side
"""Names that no configuration can allow: they belong to the contract, or change what a reply means."""

ENCRYPTED: Final = "reasoning.encrypted_content"
SEAL: Final = b"openai-responses-1:"
"""How the sealed state of a reasoning item begins; JSON of `Sealed` follows."""

_EFFORT: Final = {
    parameters_pb2.REASONING_EFFORT_NONE: "none",
    parameters_pb2.REASONING_EFFORT_MINIMAL: "minimal",
    parameters_pb2.REASONING_EFFORT_LOW: "low",
    parameters_pb2.REASONING_EFFORT_MEDIUM: "medium",
    parameters_pb2.REASONING_EFFORT_HIGH: "high",
}
_VERBOSITY: Final = {
    parameters_pb2.VERBOSITY_LOW: "low",
    parameters_pb2.VERBOSITY_MEDIUM: "medium",
    parameters_pb2.VERBOSITY_HIGH: "high",
}
_CHOICE: Final = {
    tool_pb2.TOOL_CHOICE_MODE_AUTO: "auto",
    tool_pb2.TOOL_CHOICE_MODE_NONE: "none",
    tool_pb2.TOOL_CHOICE_MODE_REQUIRED: "required",
}


class Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What of a reasoning item must go back beside its text."""

    id: str
    encrypted_content: str | None = None
    """Unset where the vendor keeps the item itself."""
    open: bool = False
    """Whether the text is the reasoning itself, as open models show it, and not a summary."""


_unseal: Final = msgspec.json.Decoder(Sealed).decode


def seal(sealed: Sealed) -> bytes:
    """Returns the state of a reasoning item as callers keep it."""
    return SEAL + msgspec.json.encode(sealed)


def reasons(request: pb.GenerateRequest, integration: str) -> bool:
    """Tells whether a request asks for reasoning, or returns some of this integration."""
    return request.parameters.reasoning_effort > parameters_pb2.REASONING_EFFORT_NONE or any(
        _is_ours(part, integration) for message in request.messages for part in message.parts
    )


def _is_ours(part: message_pb2.Part, integration: str) -> bool:
    return part.HasField("reasoning") and part.reasoning.provider == integration and bool(part.reasoning.state)


def unsupported(names: Collection[str], allowed: Collection[str]) -> list[str]:
    """Returns the options that the format cannot carry. `allowed` are further names of vendor options."""
    refused = []
    for name in names:
        if name.startswith(VENDOR_PREFIX):
            option = name.removeprefix(VENDOR_PREFIX)
            known = (option in VENDOR_OPTIONS or option in allowed) and option not in FORBIDDEN_VENDOR_OPTIONS
        else:
            known = name in OPTIONS
        if not known:
            refused.append(name)
    return refused


def responses_body(request: pb.GenerateRequest, *, integration: str, summary: str) -> dict[str, Any]:
    """Returns the body of a request, without the stream switch. Raises InvalidRequestError.

    `summary` is how reasoning is summed up for the reader; empty: not at all.
    """
    body: dict[str, Any] = {"model": request.target.model, "input": _input(request, integration)}
    if request.system_instruction:
        body["instructions"] = request.system_instruction
    if request.background:
        # The vendor refuses sealed reasoning of what it stores; the item's id is enough then.
        body |= {"background": True, "store": True}
    else:
        body["store"] = False
        if reasons(request, integration):
            # Asked for by need: models that do not reason refuse the word.
            body["include"] = [ENCRYPTED]
    if request.HasField("parameters"):
        _parameters(request.parameters, body, summary)
    text = _text(request)
    if text:
        body["text"] = text
    if request.tools:
        body["tools"] = [_tool(tool, index) for index, tool in enumerate(request.tools)]
    if request.HasField("tool_choice"):
        body["tool_choice"] = _tool_choice(request)
    return body | vendor_options(request)


def _parameters(given: parameters_pb2.GenerationParameters, body: dict[str, Any], summary: str) -> None:
    if given.HasField("temperature"):
        body["temperature"] = given.temperature
    if given.HasField("top_p"):
        body["top_p"] = given.top_p
    if given.HasField("parallel_tool_calls"):
        body["parallel_tool_calls"] = given.parallel_tool_calls
    if given.HasField("max_output_tokens"):
        body["max_output_tokens"] = given.max_output_tokens
    if given.reasoning_effort in _EFFORT:
        body["reasoning"] = {"effort": _EFFORT[given.reasoning_effort]}
        if summary and given.reasoning_effort != parameters_pb2.REASONING_EFFORT_NONE:
            body["reasoning"]["summary"] = summary


def _text(request: pb.GenerateRequest) -> dict[str, Any]:
    text: dict[str, Any] = {}
    form = request.response_format.WhichOneof("kind")
    if form == "json":
        text["format"] = {"type": "json_object"}
    elif form == "json_schema":
        wanted = request.response_format.json_schema
        text["format"] = {
            "type": "json_schema",
            "name": wanted.name,
            "schema": parse_json(wanted.schema_json, "response_format.json_schema.schema_json"),
            "strict": wanted.strict if wanted.HasField("strict") else True,
        }
    if request.parameters.verbosity in _VERBOSITY:
        text["verbosity"] = _VERBOSITY[request.parameters.verbosity]
    return text


def _input(request: pb.GenerateRequest, integration: str) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    grounding = render_passages(request)
    lead = [{"type": "input_text", "text": grounding}] if grounding else []
    last_user = max(
        (index for index, message in enumerate(request.messages) if message.role == message_pb2.MESSAGE_ROLE_USER),
        default=-1,
    )
    free: set[str] = set()  # ids of the calls of custom tools, whose results have a form of their own
    for index, message in enumerate(request.messages):
        if message.role == message_pb2.MESSAGE_ROLE_USER:
            content = (lead if index == last_user else []) + _user(message, index)
            written.append({"role": "user", "content": content})
        elif message.role == message_pb2.MESSAGE_ROLE_ASSISTANT:
            _assistant(message, index, integration, written, free)
        else:
            written.extend(_tool_results(message, index, free))
    if lead and last_user < 0:
        written.append({"role": "user", "content": lead})
    return written


def _user(message: message_pb2.Message, index: int) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for position, part in enumerate(message.parts):
        kind = part.WhichOneof("kind")
        field = f"messages[{index}].parts[{position}]"
        if kind == "text":
            content.append({"type": "input_text", "text": part.text})
        elif kind == "image":
            image = part.image
            by_value = image.WhichOneof("source") == "data"
            url = data_url(image.data, media_type(image, f"{field}.image")) if by_value else image.uri
            content.append({"type": "input_image", "image_url": url, "detail": "auto"})
        elif kind == "file":
            content.append(_file(part.file, f"{field}.file"))
        else:
            raise misplaced(index, position, kind, message.role)
    return content


def _file(file: message_pb2.File, field: str) -> dict[str, Any]:
    if file.WhichOneof("source") == "uri":
        return {"type": "input_file", "file_url": file.uri}
    data = data_url(file.data, media_type(file, field))
    return {"type": "input_file", "filename": file.name or "document", "file_data": data}


def _assistant(
    message: message_pb2.Message, index: int, integration: str, written: list[dict[str, Any]], free: set[str]
) -> None:
    """Adds an earlier answer as its items, in the order in which they came: the vendor pairs them by it."""
    texts: list[str] = []

    def end_text() -> None:
        if texts:
            written.append({"role": "assistant", "content": "".join(texts)})
            texts.clear()

    for position, part in enumerate(message.parts):
        kind = part.WhichOneof("kind")
        if kind == "text":
            texts.append(part.text)
            continue
        if kind == "tool_call":
            end_text()
            call = part.tool_call
            item = {"type": "function_call", "call_id": call.id, "name": call.name}
            if call.WhichOneof("input") == "input_text":
                free.add(call.id)
                written.append(item | {"type": "custom_tool_call", "input": call.input_text})
            else:
                written.append(item | {"arguments": call.arguments_json or "{}"})
        elif kind == "reasoning":
            if _is_ours(part, integration):
                end_text()
                written.append(_reasoning(part.reasoning, f"messages[{index}].parts[{position}].reasoning.state"))
        else:
            raise misplaced(index, position, kind, message.role)
    end_text()


def _reasoning(reasoning: message_pb2.Reasoning, field: str) -> dict[str, Any]:
    """Returns the item that a sealed state stands for."""
    sealed = None
    if reasoning.state.startswith(SEAL):
        try:
            sealed = _unseal(reasoning.state.removeprefix(SEAL))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # refused below, like the state of another format
    if sealed is None or not sealed.id:
        raise invalid_field(field, "is not what this provider sent")
    item: dict[str, Any] = {"type": "reasoning", "id": sealed.id, "summary": []}
    if reasoning.text and sealed.open:
        item["content"] = [{"type": "reasoning_text", "text": reasoning.text}]
    elif reasoning.text:
        item["summary"] = [{"type": "summary_text", "text": reasoning.text}]
    if sealed.encrypted_content is not None:
        item["encrypted_content"] = sealed.encrypted_content
    return item


def _tool_results(message: message_pb2.Message, index: int, free: set[str]) -> list[dict[str, Any]]:
    written = []
    for position, part in enumerate(message.parts):
        if part.WhichOneof("kind") != "tool_result":
            raise misplaced(index, position, part.WhichOneof("kind"), message.role)
        result = part.tool_result
        # The format has no flag for failures, so the model is told in words.
        text = f"The tool failed: {result.text}" if result.is_error else result.text
        kind = "custom_tool_call_output" if result.call_id in free else "function_call_output"
        written.append({"type": kind, "call_id": result.call_id, "output": text})
    return written


def _tool(tool: tool_pb2.Tool, index: int) -> dict[str, Any]:
    if tool.WhichOneof("kind") == "custom":
        custom: dict[str, Any] = {"type": "custom", "name": tool.custom.name}
        if tool.custom.HasField("description"):
            custom["description"] = tool.custom.description
        return custom
    function: dict[str, Any] = {"type": "function", "name": tool.function.name}
    if tool.function.HasField("description"):
        function["description"] = tool.function.description
    function["parameters"] = tool_schema(tool.function, index)
    # The field must be there; null leaves it to the vendor.
    function["strict"] = tool.function.strict if tool.function.HasField("strict") else None
    return function


def _tool_choice(request: pb.GenerateRequest) -> str | dict[str, Any]:
    choice = request.tool_choice
    if choice.mode != tool_pb2.TOOL_CHOICE_MODE_NAMED:
        return _CHOICE[choice.mode]
    for tool in request.tools:
        if tool.WhichOneof("kind") == "function" and tool.function.name == choice.name:
            return {"type": "function", "name": choice.name}
        if tool.WhichOneof("kind") == "custom" and tool.custom.name == choice.name:
            return {"type": "custom", "name": choice.name}
    raise invalid_field("tool_choice.name", "names no tool of the request")
