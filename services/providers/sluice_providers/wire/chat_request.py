"""Writes requests for the chat completions interface of OpenAI and of everyone who speaks its format."""

from collections.abc import Collection
from typing import Any, Final

import msgspec

from sluice.chat.v1 import message_pb2, parameters_pb2, tool_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.rpc import invalid_field
from sluice_providers import options
from sluice_providers.options import VENDOR_PREFIX
from sluice_providers.wire.chat_dialect import ChatDialect
from sluice_providers.wire.prompt import (
    data_url,
    media_type,
    misplaced,
    parse_json,
    render_passages,
    tool_schema,
    vendor_options,
)

VENDOR_OPTIONS: Final = frozenset(
    {
        "logit_bias",
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Names that `vendor_options` may hold; the configuration can allow more."""

FORBIDDEN_VENDOR_OPTIONS: Final = frozenset(
    {"model", "messages", "stream", "stream_options", "n", "tools", "tool_choice", "response_format", "extra_headers"}
)
"""Names that no configuration can allow: they belong to the contract, or change what a reply means."""

OPTIONS: Final = options.PARAMETERS | {
    "tools", "tools.custom", "tools.strict", "tool_choice", "images", "images.uri", "files",
    "response_format.json", "response_format.json_schema",
}  # fmt: skip  # names read better side by side
MAX_STOPS: Final = 4

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


def unsupported(request: pb.GenerateRequest, names: Collection[str], dialect: ChatDialect) -> list[str]:
    """Returns the options that the format cannot carry, or that the server does not honour."""
    refused = []
    allowed = VENDOR_OPTIONS | {*dialect.vendor_options}
    for name in names:
        if name.startswith(VENDOR_PREFIX):
            option = name.removeprefix(VENDOR_PREFIX)
            if option not in allowed or option in FORBIDDEN_VENDOR_OPTIONS or name in dialect.unsupported:
                refused.append(name)
        elif (
            name not in OPTIONS
            or name in dialect.unsupported
            or (name == "stop" and len(request.parameters.stop) > MAX_STOPS)
        ):
            refused.append(name)
    return refused


def chat_body(request: pb.GenerateRequest, dialect: ChatDialect) -> dict[str, Any]:
    """Returns the body of a request, without the stream switch. Raises InvalidRequestError."""
    body: dict[str, Any] = {"model": request.target.model, "messages": _messages(request, dialect)}
    if request.HasField("parameters"):
        _parameters(request.parameters, body, dialect)
        body |= vendor_options(request)
    if request.tools:
        body["tools"] = [_tool(tool, index) for index, tool in enumerate(request.tools)]
    if request.HasField("tool_choice"):
        body["tool_choice"] = _tool_choice(request)
    form = request.response_format.WhichOneof("kind")
    if form == "json":
        body["response_format"] = {"type": "json_object"}
    elif form == "json_schema":
        wanted = request.response_format.json_schema
        schema = {
            "name": wanted.name,
            "schema": parse_json(wanted.schema_json, "response_format.json_schema.schema_json"),
            "strict": wanted.strict if wanted.HasField("strict") else True,
        }
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _parameters(given: parameters_pb2.GenerationParameters, body: dict[str, Any], dialect: ChatDialect) -> None:
    if given.HasField("temperature"):
        body["temperature"] = given.temperature
    if given.HasField("top_p"):
        body["top_p"] = given.top_p
    if given.HasField("presence_penalty"):
        body["presence_penalty"] = given.presence_penalty
    if given.HasField("frequency_penalty"):
        body["frequency_penalty"] = given.frequency_penalty
    if given.HasField("seed"):
        body[dialect.seed_field] = given.seed
    if given.HasField("parallel_tool_calls"):
        body["parallel_tool_calls"] = given.parallel_tool_calls
    if given.HasField("max_output_tokens"):
        body[dialect.max_tokens_field] = given.max_output_tokens
    if given.stop:
        body["stop"] = list(given.stop)
    if given.reasoning_effort in _EFFORT:
        _effort(_EFFORT[given.reasoning_effort], body, dialect)
    if given.verbosity in _VERBOSITY:
        body["verbosity"] = _VERBOSITY[given.verbosity]


def _effort(effort: str, body: dict[str, Any], dialect: ChatDialect) -> None:
    """Says how much to reason, in the server's way."""
    reasons = effort != "none"
    match dialect.effort:
        case "reasoning_effort":
            body["reasoning_effort"] = effort
        case "reasoning":
            body["reasoning"] = {"effort": effort}
        case "enable_thinking":
            body["enable_thinking"] = reasons
        case "thinking" | "thinking_effort":
            body["thinking"] = {"type": "enabled" if reasons else "disabled"}
            if reasons and dialect.effort == "thinking_effort":
                body["reasoning_effort"] = effort


def _messages(request: pb.GenerateRequest, dialect: ChatDialect) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    if request.system_instruction:
        written.append({"role": dialect.system_role, "content": request.system_instruction})
    grounding = render_passages(request)
    last_user = max(
        (index for index, message in enumerate(request.messages) if message.role == message_pb2.MESSAGE_ROLE_USER),
        default=-1,
    )
    for index, message in enumerate(request.messages):
        if message.role == message_pb2.MESSAGE_ROLE_USER:
            written.append({"role": "user", "content": _user(message, index, grounding if index == last_user else "")})
        elif message.role == message_pb2.MESSAGE_ROLE_ASSISTANT:
            written.append(_assistant(message, index, request.target.provider, dialect))
        else:
            written.extend(_tool_results(message, index))
    if grounding and last_user < 0:
        written.append({"role": "user", "content": grounding})
    return written


def _user(message: message_pb2.Message, index: int, grounding: str) -> str | list[dict[str, Any]]:
    content: list[dict[str, Any]] = [{"type": "text", "text": grounding}] if grounding else []
    for position, part in enumerate(message.parts):
        kind = part.WhichOneof("kind")
        field = f"messages[{index}].parts[{position}]"
        if kind == "text":
            content.append({"type": "text", "text": part.text})
        elif kind == "image":
            image = part.image
            by_value = image.WhichOneof("source") == "data"
            url = data_url(image.data, media_type(image, f"{field}.image")) if by_value else image.uri
            content.append({"type": "image_url", "image_url": {"url": url}})
        elif kind == "file":
            file = {
                "filename": part.file.name or "document",
                "file_data": data_url(part.file.data, media_type(part.file, f"{field}.file")),
            }
            content.append({"type": "file", "file": file})
        else:
            raise misplaced(index, position, kind, message.role)
    if all(item["type"] == "text" for item in content):
        # Plain text is what every server of this format understands.
        return "\n\n".join(item["text"] for item in content)
    return content


def _assistant(message: message_pb2.Message, index: int, provider: str, dialect: ChatDialect) -> dict[str, Any]:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[message_pb2.Reasoning] = []
    for position, part in enumerate(message.parts):
        kind = part.WhichOneof("kind")
        if kind == "text":
            texts.append(part.text)
        elif kind == "tool_call":
            call = part.tool_call
            if call.WhichOneof("input") == "input_text":
                calls.append({"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.input_text}})
            else:
                function = {"name": call.name, "arguments": call.arguments_json or "{}"}
                calls.append({"id": call.id, "type": "function", "function": function})
        elif kind == "reasoning":
            if part.reasoning.provider == provider:
                thoughts.append(part.reasoning)
        else:
            raise misplaced(index, position, kind, message.role)
    written: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts else None}
    if calls:
        written["tool_calls"] = calls
    elif not texts:
        written["content"] = ""
    if thoughts:
        _give_back(thoughts, written, index, dialect)
    if calls and dialect.reasoning_required and dialect.reasoning_back not in written:
        written[dialect.reasoning_back] = " "
    return written


def _give_back(
    thoughts: list[message_pb2.Reasoning], written: dict[str, Any], index: int, dialect: ChatDialect
) -> None:
    """Adds earlier reasoning to its message, where the server wants it back."""
    text = "".join(thought.text for thought in thoughts)
    details: list[Any] = []
    for thought in thoughts:
        if thought.state and dialect.reasoning_back == "reasoning_details":
            details += _details(thought.state, index)
    if details:
        written["reasoning_details"] = details
    elif not text or dialect.reasoning_back == "none":
        return
    elif dialect.reasoning_back == "content":
        content = [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]
        if written["content"]:
            content.append({"type": "text", "text": written["content"]})
        written["content"] = content
    else:
        field = dialect.reasoning_back if dialect.reasoning_back != "reasoning_details" else "reasoning"
        written[field] = text


def _details(state: bytes, index: int) -> list[Any]:
    """Returns what `ChatStream` sealed."""
    try:
        return msgspec.json.decode(state, type=list[Any])
    except (msgspec.DecodeError, RecursionError):
        raise invalid_field(f"messages[{index}].parts", "the state of a reasoning is not what was returned") from None


def _tool_results(message: message_pb2.Message, index: int) -> list[dict[str, Any]]:
    written = []
    for position, part in enumerate(message.parts):
        if part.WhichOneof("kind") != "tool_result":
            raise misplaced(index, position, part.WhichOneof("kind"), message.role)
        result = part.tool_result
        # The format has no flag for failures, so the model is told in words.
        text = f"The tool failed: {result.text}" if result.is_error else result.text
        written.append({"role": "tool", "tool_call_id": result.call_id, "content": text})
    return written


def _tool(tool: tool_pb2.Tool, index: int) -> dict[str, Any]:
    if tool.WhichOneof("kind") == "custom":
        custom: dict[str, Any] = {"name": tool.custom.name}
        if tool.custom.HasField("description"):
            custom["description"] = tool.custom.description
        return {"type": "custom", "custom": custom}
    function: dict[str, Any] = {"name": tool.function.name}
    if tool.function.HasField("description"):
        function["description"] = tool.function.description
    function["parameters"] = tool_schema(tool.function, index)
    if tool.function.HasField("strict"):
        function["strict"] = tool.function.strict
    return {"type": "function", "function": function}


def _tool_choice(request: pb.GenerateRequest) -> str | dict[str, Any]:
    choice = request.tool_choice
    if choice.mode != tool_pb2.TOOL_CHOICE_MODE_NAMED:
        return _CHOICE[choice.mode]
    for tool in request.tools:
        if tool.WhichOneof("kind") == "function" and tool.function.name == choice.name:
            return {"type": "function", "function": {"name": choice.name}}
        if tool.WhichOneof("kind") == "custom" and tool.custom.name == choice.name:
            return {"type": "custom", "custom": {"name": choice.name}}
    raise invalid_field("tool_choice.name", "names no tool of the request")
