"""Writes requests for Ollama's own chat interface."""

from collections.abc import Collection
from typing import Any, Final

from sluice.chat.v1 import message_pb2, parameters_pb2, tool_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.rpc import invalid_field
from sluice_providers.options import VENDOR_PREFIX
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
        "temperature", "top_p", "max_output_tokens", "stop", "seed", "presence_penalty", "frequency_penalty",
        "reasoning_effort", "tools", "tool_choice", "images", "response_format.json", "response_format.json_schema",
    }
)  # fmt: skip  # names read better side by side
"""What the interface has. It cannot force or forbid a tool, and takes pictures by value only."""

SAMPLING: Final = frozenset(
    {
        "min_p", "mirostat", "mirostat_eta", "mirostat_tau", "num_ctx", "num_keep", "penalize_newline", "repeat_last_n",
        "repeat_penalty", "top_k", "typical_p",
    }
)  # fmt: skip  # names read better side by side
"""Names of `vendor_options` that stand in the request's `options`. How a model is spread over the machine's
processors is the operator's to say, so none of those."""

VENDOR_OPTIONS: Final = SAMPLING | {"keep_alive", "shift", "think", "truncate"}
"""Names that `vendor_options` may hold."""

_THINK: Final[dict[int, bool | str]] = {
    parameters_pb2.REASONING_EFFORT_NONE: False,
    parameters_pb2.REASONING_EFFORT_LOW: "low",
    parameters_pb2.REASONING_EFFORT_MEDIUM: "medium",
    parameters_pb2.REASONING_EFFORT_HIGH: "high",
}


def unsupported(request: pb.GenerateRequest, names: Collection[str]) -> list[str]:
    """Returns the options that the format cannot carry."""
    refused = []
    for name in names:
        if name.startswith(VENDOR_PREFIX):
            known = name.removeprefix(VENDOR_PREFIX) in VENDOR_OPTIONS
        elif name == "reasoning_effort":
            known = request.parameters.reasoning_effort in _THINK
        elif name == "tool_choice":
            # That the model decides is what it does in any case.
            known = request.tool_choice.mode == tool_pb2.TOOL_CHOICE_MODE_AUTO
        else:
            known = name in OPTIONS
        if not known:
            refused.append(name)
    return refused


def chat_body(
    request: pb.GenerateRequest, *, integration: str, truncate: bool, num_ctx: int | None, keep_alive: str
) -> dict[str, Any]:
    """Returns the body of a request, stream switch included. Raises InvalidRequestError."""
    body: dict[str, Any] = {
        "model": request.target.model,
        "messages": _messages(request, integration),
        # Unset means true to this vendor: streams are what it does by default, and so is leaving out, without a word,
        # the beginning of a prompt that does not fit.
        "stream": not request.whole,
        "truncate": truncate,
    }
    options: dict[str, Any] = {}
    if num_ctx is not None:
        options["num_ctx"] = num_ctx
    if keep_alive:
        body["keep_alive"] = keep_alive
    if request.HasField("parameters"):
        _parameters(request.parameters, body, options)
        for name, value in vendor_options(request).items():
            (options if name in SAMPLING else body)[name] = value
    if options:
        body["options"] = options
    if request.tools:
        body["tools"] = [_tool(tool, index) for index, tool in enumerate(request.tools)]
    form = request.response_format.WhichOneof("kind")
    if form == "json":
        body["format"] = "json"
    elif form == "json_schema":
        field = "response_format.json_schema.schema_json"
        body["format"] = parse_json(request.response_format.json_schema.schema_json, field)
    return body


def _parameters(given: parameters_pb2.GenerationParameters, body: dict[str, Any], options: dict[str, Any]) -> None:
    if given.HasField("temperature"):
        options["temperature"] = given.temperature
    if given.HasField("top_p"):
        options["top_p"] = given.top_p
    if given.HasField("max_output_tokens"):
        options["num_predict"] = given.max_output_tokens
    if given.stop:
        options["stop"] = list(given.stop)
    if given.HasField("seed"):
        options["seed"] = given.seed
    if given.HasField("presence_penalty"):
        options["presence_penalty"] = given.presence_penalty
    if given.HasField("frequency_penalty"):
        options["frequency_penalty"] = given.frequency_penalty
    if given.reasoning_effort in _THINK:
        body["think"] = _THINK[given.reasoning_effort]


def _messages(request: pb.GenerateRequest, integration: str) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    if request.system_instruction:
        written.append({"role": "system", "content": request.system_instruction})
    grounding = render_passages(request)
    last_user = max(
        (index for index, message in enumerate(request.messages) if message.role == message_pb2.MESSAGE_ROLE_USER),
        default=-1,
    )
    names: dict[str, str] = {}  # id of a call → its tool
    for index, message in enumerate(request.messages):
        if message.role == message_pb2.MESSAGE_ROLE_USER:
            written.append(_user(message, index, grounding if index == last_user else ""))
        elif message.role == message_pb2.MESSAGE_ROLE_ASSISTANT:
            written.append(_assistant(message, index, integration, names))
        else:
            written.extend(_tool_results(message, index, names))
    if grounding and last_user < 0:
        written.append({"role": "user", "content": grounding})
    return written


def _user(message: message_pb2.Message, index: int, grounding: str) -> dict[str, Any]:
    texts = [grounding] if grounding else []
    images: list[str] = []
    for position, part in enumerate(message.parts):
        kind = part.WhichOneof("kind")
        if kind == "text":
            texts.append(part.text)
        elif kind == "image":
            media_type(part.image, f"messages[{index}].parts[{position}].image")  # asked of every picture by value
            images.append(encoded(part.image.data))
        else:
            raise misplaced(index, position, kind, message.role)
    written: dict[str, Any] = {"role": "user", "content": "\n\n".join(texts)}
    if images:
        written["images"] = images
    return written


def _assistant(message: message_pb2.Message, index: int, integration: str, names: dict[str, str]) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for position, part in enumerate(message.parts):
        kind = part.WhichOneof("kind")
        if kind == "text":
            texts.append(part.text)
        elif kind == "tool_call":
            call = part.tool_call
            names[call.id] = call.name
            function = {"name": call.name, "arguments": _arguments(call, f"messages[{index}].parts[{position}]")}
            calls.append({"id": call.id, "function": function})
        elif kind == "reasoning":
            # Templates that know thoughts want them back in loops of tool calls; those of another model mislead.
            if part.reasoning.provider == integration:
                thoughts.append(part.reasoning.text)
        else:
            raise misplaced(index, position, kind, message.role)
    written: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if any(thoughts):
        written["thinking"] = "".join(thoughts)
    if calls:
        written["tool_calls"] = calls
    return written


def _arguments(call: message_pb2.ToolCall, field: str) -> dict[str, Any]:
    if call.WhichOneof("input") == "input_text":
        # A custom tool's, from another provider's turn: this format knows arguments by name only.
        return {"input": call.input_text}
    name = f"{field}.tool_call.arguments_json"
    arguments = parse_json(call.arguments_json or "{}", name)
    if not isinstance(arguments, dict):
        raise invalid_field(name, "must be a JSON object")
    return arguments


def _tool_results(message: message_pb2.Message, index: int, names: dict[str, str]) -> list[dict[str, Any]]:
    written = []
    for position, part in enumerate(message.parts):
        if part.WhichOneof("kind") != "tool_result":
            raise misplaced(index, position, part.WhichOneof("kind"), message.role)
        result = part.tool_result
        # The format has no flag for failures, so the model is told in words.
        text = f"The tool failed: {result.text}" if result.is_error else result.text
        row = {"role": "tool", "content": text, "tool_call_id": result.call_id}
        if result.call_id in names:
            row["tool_name"] = names[result.call_id]
        written.append(row)
    return written


def _tool(tool: tool_pb2.Tool, index: int) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.function.name}
    if tool.function.HasField("description"):
        function["description"] = tool.function.description
    function["parameters"] = tool_schema(tool.function, index)
    return {"type": "function", "function": function}
