"""Writes requests for the generateContent interface of Gemini."""

import re
from collections.abc import Collection, Sequence
from typing import Any, Final

from sluice.chat.v1 import message_pb2, parameters_pb2, tool_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.rpc import invalid_field
from sluice_providers.options import VENDOR_PREFIX
from sluice_providers.wire.gemini_state import MADE_UP_ID, SignedParts
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
        "reasoning_effort", "tools", "tools.strict", "tool_choice", "images", "images.uri", "files", "files.uri",
        "response_format.json", "response_format.json_schema",
    }
)  # fmt: skip  # names read better side by side
"""What the interface has. It knows no verbosity, no free-text tools, and no switch for parallel calls."""

MAX_STOPS: Final = 5

_TOP: Final = frozenset({"cachedContent", "labels", "safetySettings", "serviceTier", "store"})
_CONFIG: Final = frozenset({"mediaResolution", "thinkingConfig", "topK"})
_PLAIN: Final = {
    "temperature": "temperature",
    "top_p": "topP",
    "max_output_tokens": "maxOutputTokens",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_SEED: Final = range(-(2**31), 2**31)
_BUDGETED: Final = re.compile(r"(?:.*/)?gemini-2\.")
"""Models whose thinking is measured in tokens. Younger ones know levels, and refuse both at a time."""
_ALWAYS_THINKS: Final = re.compile(r"(?:.*/)?gemini-2\.5-pro")
_BUDGET: Final = {
    parameters_pb2.REASONING_EFFORT_NONE: 0,
    parameters_pb2.REASONING_EFFORT_MINIMAL: 1024,
    parameters_pb2.REASONING_EFFORT_LOW: 1024,
    parameters_pb2.REASONING_EFFORT_MEDIUM: 8192,
    parameters_pb2.REASONING_EFFORT_HIGH: 24576,
}
"""As the vendor itself reads the efforts of the OpenAI format."""
_LEVEL: Final = {
    parameters_pb2.REASONING_EFFORT_MINIMAL: "MINIMAL",
    parameters_pb2.REASONING_EFFORT_LOW: "LOW",
    parameters_pb2.REASONING_EFFORT_MEDIUM: "MEDIUM",
    parameters_pb2.REASONING_EFFORT_HIGH: "HIGH",
}
_MODE: Final = {
    tool_pb2.TOOL_CHOICE_MODE_AUTO: "AUTO",
    tool_pb2.TOOL_CHOICE_MODE_NONE: "NONE",
    tool_pb2.TOOL_CHOICE_MODE_REQUIRED: "ANY",
}
_MODEL: Final = re.compile(r"[\w.@-]+(?:/[\w.@-]+)*")


def unsupported(request: pb.GenerateRequest, names: Collection[str]) -> list[str]:
    """Returns the options that the format or the model cannot carry."""
    given = request.parameters
    refused = []
    for name in names:
        if name.startswith(VENDOR_PREFIX):
            known = _camel(name.removeprefix(VENDOR_PREFIX)) in _TOP | _CONFIG
        elif name == "stop":
            known = len(given.stop) <= MAX_STOPS
        elif name == "seed":
            known = given.seed in _SEED
        elif name == "reasoning_effort" and given.reasoning_effort == parameters_pb2.REASONING_EFFORT_NONE:
            model = request.target.model
            known = bool(_BUDGETED.match(model)) and not _ALWAYS_THINKS.match(model)
        else:
            known = name in OPTIONS
        if not known:
            refused.append(name)
    return refused


def checked_model(model: str) -> str:
    """Returns the name of a model, fit for an address. Raises InvalidRequestError."""
    if not _MODEL.fullmatch(model) or any(not word.strip(".") for word in model.split("/")):
        raise invalid_field("target.model", "is no name of a model")
    return model


def gemini_body(request: pb.GenerateRequest, *, integration: str) -> dict[str, Any]:
    """Returns the body of a request; the model stands in its address. Raises InvalidRequestError."""
    body = prompt_body(request, integration=integration)
    choice = _tool_config(request)
    if choice:
        body["toolConfig"] = {"functionCallingConfig": choice}
    config = _generation_config(request)
    if request.HasField("parameters"):
        for name, value in vendor_options(request).items():
            place = body if _camel(name) in _TOP else config
            place[_camel(name)] = value
    if config:
        body["generationConfig"] = config
    return body


def prompt_body(request: pb.GenerateRequest, *, integration: str) -> dict[str, Any]:
    """Returns the parts of a body that count as prompt. Raises InvalidRequestError."""
    body: dict[str, Any] = {"contents": _contents(request, integration)}
    if request.system_instruction:
        body["systemInstruction"] = {"role": "user", "parts": [{"text": request.system_instruction}]}
    if request.tools:
        body["tools"] = [{"functionDeclarations": [_tool(tool, index) for index, tool in enumerate(request.tools)]}]
    return body


def _camel(name: str) -> str:
    """Returns a name as the vendor writes it in JSON; its SDK says `safety_settings` for `safetySettings`."""
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)


def _generation_config(request: pb.GenerateRequest) -> dict[str, Any]:
    given = request.parameters
    config: dict[str, Any] = {}
    for field, value in given.ListFields():
        if field.name in _PLAIN:
            config[_PLAIN[field.name]] = value
    if given.stop:
        config["stopSequences"] = list(given.stop)
    thinking = _thinking(given.reasoning_effort, request.target.model)
    if thinking:
        config["thinkingConfig"] = thinking
    form = request.response_format.WhichOneof("kind")
    if form in ("json", "json_schema"):
        config["responseMimeType"] = "application/json"
    if form == "json_schema":
        text = request.response_format.json_schema.schema_json
        config["responseJsonSchema"] = parse_json(text, "response_format.json_schema.schema_json")
    return config


def _thinking(effort: "parameters_pb2.ReasoningEffort.ValueType", model: str) -> dict[str, Any]:
    if effort == parameters_pb2.REASONING_EFFORT_NONE:
        return {"thinkingBudget": 0}
    if effort not in _LEVEL:
        return {}
    if _BUDGETED.match(model):
        return {"includeThoughts": True, "thinkingBudget": _BUDGET[effort]}
    return {"includeThoughts": True, "thinkingLevel": _LEVEL[effort]}


def _contents(request: pb.GenerateRequest, integration: str) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    grounding = render_passages(request)
    last_user = max(
        (index for index, message in enumerate(request.messages) if message.role == message_pb2.MESSAGE_ROLE_USER),
        default=-1,
    )
    names: dict[str, str] = {}  # of the calls so far, by their ids
    for index, message in enumerate(request.messages):
        if message.role == message_pb2.MESSAGE_ROLE_USER:
            lead = [{"text": grounding}] if grounding and index == last_user else []
            written.append({"role": "user", "parts": lead + _user(message, index)})
        elif message.role == message_pb2.MESSAGE_ROLE_ASSISTANT:
            # Only in the current turn, and only by its younger models, does the vendor insist on signatures.
            strict = index > last_user and not _BUDGETED.match(request.target.model)
            parts = _assistant(message, index, integration, names, strict)
            if parts:
                written.append({"role": "model", "parts": parts})
        else:
            written.append({"role": "user", "parts": _tool_results(message, index, names)})
    if grounding and last_user < 0:
        written.append({"role": "user", "parts": [{"text": grounding}]})
    return written


def _user(message: message_pb2.Message, index: int) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for position, part in enumerate(message.parts):
        kind = part.WhichOneof("kind")
        field = f"messages[{index}].parts[{position}]"
        if kind == "text":
            parts.append({"text": part.text})
        elif kind == "image":
            parts.append(_media(part.image, f"{field}.image"))
        elif kind == "file":
            parts.append(_media(part.file, f"{field}.file"))
        else:
            raise misplaced(index, position, kind, message.role)
    return parts


def _media(part: message_pb2.Image | message_pb2.File, field: str) -> dict[str, Any]:
    if part.WhichOneof("source") == "data":
        return {"inlineData": {"mimeType": media_type(part, field), "data": encoded(part.data)}}
    address = {"fileUri": part.uri}
    if part.media_type:
        address["mimeType"] = part.media_type
    return {"fileData": address}


def _assistant(
    message: message_pb2.Message, index: int, integration: str, names: dict[str, str], strict: bool
) -> list[dict[str, Any]]:
    signed = SignedParts(strict)
    for position, part in enumerate(message.parts):
        kind = part.WhichOneof("kind")
        field = f"messages[{index}].parts[{position}]"
        if kind == "text":
            signed.add({"text": part.text})
        elif kind == "tool_call":
            call = part.tool_call
            arguments = parse_json(call.arguments_json or "{}", f"{field}.tool_call.arguments_json")
            names[call.id] = call.name
            signed.add({"functionCall": _with_id(call.id, {"name": call.name, "args": arguments})})
        elif kind == "reasoning":
            # Sealed reasoning goes back to its maker alone; without a seal the vendor reads nothing from it.
            if part.reasoning.provider == integration and part.reasoning.state:
                signed.seal(part.reasoning, f"{field}.reasoning.state")
        else:
            raise misplaced(index, position, kind, message.role)
    return signed.finish()


def _tool_results(message: message_pb2.Message, index: int, names: dict[str, str]) -> list[dict[str, Any]]:
    parts = []
    for position, part in enumerate(message.parts):
        if part.WhichOneof("kind") != "tool_result":
            raise misplaced(index, position, part.WhichOneof("kind"), message.role)
        result = part.tool_result
        if result.call_id not in names:
            field = f"messages[{index}].parts[{position}].tool_result.call_id"
            raise invalid_field(field, "answers no call of the dialogue")
        response = {"error" if result.is_error else "output": result.text}
        answer = {"name": names[result.call_id], "response": response}
        parts.append({"functionResponse": _with_id(result.call_id, answer)})
    return parts


def _with_id(call_id: str, part: dict[str, Any]) -> dict[str, Any]:
    """Adds the id that the vendor gave; one that was made up for it says nothing there."""
    return part if call_id.startswith(MADE_UP_ID) else {"id": call_id} | part


def _tool(tool: tool_pb2.Tool, index: int) -> dict[str, Any]:
    function = tool.function
    written: dict[str, Any] = {"name": function.name}
    if function.HasField("description"):
        written["description"] = function.description
    if function.HasField("parameters_json_schema"):
        written["parametersJsonSchema"] = tool_schema(function, index)
    return written


def _tool_config(request: pb.GenerateRequest) -> dict[str, Any]:
    choice = request.tool_choice
    if request.HasField("tool_choice") and choice.mode == tool_pb2.TOOL_CHOICE_MODE_NAMED:
        if choice.name not in {tool.function.name for tool in request.tools}:
            raise invalid_field("tool_choice.name", "names no tool of the request")
        return {"mode": "ANY", "allowedFunctionNames": [choice.name]}
    mode = _MODE[choice.mode] if request.HasField("tool_choice") else ""
    if mode in ("", "AUTO") and _strict(request.tools):
        # Arguments follow the schema where a call is forced, and else in this mode.
        mode = "VALIDATED"
    return {"mode": mode} if mode else {}


def _strict(tools: Sequence[tool_pb2.Tool]) -> bool:
    return any(tool.function.strict for tool in tools)
