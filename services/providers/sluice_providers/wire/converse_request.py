"""Writes requests for the Converse interface of Amazon Bedrock, which is one form for the models of many makers.

Bytes stay bytes here: the JSON encoder writes them as base64, and the SDK wants them as they are. What the form cannot
carry is refused by name. Three things need a word:

- There is no tool choice "none". It is honoured by leaving the tools out, which is the same to the model; but a
  dialogue with tool calls in it may not come without tools, so there the option is refused.
- Pictures and documents may lie in S3 (`s3://bucket/key`); no other address is fetched.
- A dialogue must alternate, so messages of the same side that follow each other become one.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sluice.chat.v1 import message_pb2, parameters_pb2, passage_pb2, tool_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.rpc import invalid_field
from sluice_providers.options import VENDOR_PREFIX
from sluice_providers.wire.messages_request import Source, _search_results
from sluice_providers.wire.prompt import media_type, misplaced, parse_json, render_passages, tool_schema, vendor_options

OPTIONS: Final = frozenset(
    {
        "temperature", "top_p", "max_output_tokens", "stop", "reasoning_effort",
        "tools", "tools.strict", "tool_choice", "images", "files", "response_format.json_schema",
    }
)  # fmt: skip  # names read better side by side
"""What the interface has, whatever the model makes of it. `images.uri` and `files.uri` only for s3:// addresses."""

VENDOR_OPTIONS: Final = frozenset(
    {"additionalModelRequestFields", "guardrailConfig", "performanceConfig", "requestMetadata", "serviceTier"}
)
"""Names that `vendor_options` may hold."""

REDACTED: Final = b"redacted:"
"""Marks sealed reasoning without readable text. A signature never holds a colon."""

_S3: Final = "s3://"
_EFFORT: Final = {
    parameters_pb2.REASONING_EFFORT_LOW: "low",
    parameters_pb2.REASONING_EFFORT_MEDIUM: "medium",
    parameters_pb2.REASONING_EFFORT_HIGH: "high",
}
_IMAGES: Final = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
_DOCUMENTS: Final = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9\-()\[\]]+")
_EMPTY: Final = "(empty)"
"""Stands for the result of a call that gave no text: the vendor refuses texts that are blank."""
_MAX_NAME: Final = 180
"""The vendor's limit is 200; a number that makes a name the only one of its kind must fit, too."""
_CITING: Final = re.compile(r"anthropic\.claude-(?!v\d|instant|3-haiku|3-sonnet|3-opus|3-5-sonnet)")
"""Models that take search results and cite them: those of Anthropic but for early ones, as the vendor lists them."""


def unsupported(request: pb.GenerateRequest, names: Collection[str]) -> list[str]:
    """Returns the options that the form cannot carry."""
    return [name for name in names if not _carried(request, name)]


def _carried(request: pb.GenerateRequest, name: str) -> bool:
    if name.startswith(VENDOR_PREFIX):
        return name.removeprefix(VENDOR_PREFIX) in VENDOR_OPTIONS
    if name == "reasoning_effort":
        return request.parameters.reasoning_effort in _EFFORT
    if name == "tool_choice":
        return not (_forbids_tools(request) and _has_tool_parts(request))
    if name in ("images.uri", "files.uri"):
        kind = "image" if name == "images.uri" else "file"
        parts = (part for message in request.messages for part in message.parts if part.WhichOneof("kind") == kind)
        addresses = (part.image.uri or part.file.uri for part in parts)
        return all(not address or address.startswith(_S3) for address in addresses)
    return name in OPTIONS


def converse_body(
    request: pb.GenerateRequest, *, integration: str, native_citations: bool
) -> tuple[dict[str, Any], list[Source]]:
    """Returns the body of a request, and the passages it hands over to be cited. Raises InvalidRequestError."""
    given = request.parameters
    form = request.response_format.WhichOneof("kind")
    # Citations together with an output format are refused by the models that have both.
    native = bool(
        native_citations and request.passages and form != "json_schema" and _CITING.search(request.target.model)
    )
    lead, sources = _citable(request.passages) if native else (_rendered(request), [])
    body: dict[str, Any] = {"messages": _messages(request, lead, integration)}
    if request.system_instruction:
        body["system"] = [{"text": request.system_instruction}]
    inference: dict[str, Any] = {}
    if given.HasField("max_output_tokens"):
        inference["maxTokens"] = given.max_output_tokens
    if given.HasField("temperature"):
        inference["temperature"] = given.temperature
    if given.HasField("top_p"):
        inference["topP"] = given.top_p
    if given.stop:
        inference["stopSequences"] = list(given.stop)
    if inference:
        body["inferenceConfig"] = inference
    tools = _tool_config(request)
    if tools:
        body["toolConfig"] = tools
    output: dict[str, Any] = {}
    if form == "json_schema":
        output["textFormat"] = {
            "type": "json_schema",
            "structure": {"jsonSchema": _json_schema(request.response_format.json_schema)},
        }
    if given.reasoning_effort in _EFFORT:
        output["effort"] = _EFFORT[given.reasoning_effort]
    if output:
        body["outputConfig"] = output
    if request.HasField("parameters"):
        body |= vendor_options(request)
    return body, sources


def _json_schema(form: parameters_pb2.JsonSchemaFormat) -> dict[str, Any]:
    """The vendor wants the schema as text; it is read here so that its faults are named by field."""
    parse_json(form.schema_json, "response_format.json_schema.schema_json")
    return {"schema": form.schema_json, "name": form.name}


def _rendered(request: pb.GenerateRequest) -> list[dict[str, Any]]:
    text = render_passages(request)
    return [{"text": text}] if text else []


def _citable(passages: Sequence[passage_pb2.Passage]) -> tuple[list[dict[str, Any]], list[Source]]:
    # The models are Anthropic's, and so is the form, but for the names.
    found, sources = _search_results(passages)
    results = [
        {
            "searchResult": {
                "source": result["source"],
                "title": result["title"],
                "content": [{"text": block["text"]} for block in result["content"]],
                "citations": {"enabled": True},
            }
        }
        for result in found
    ]
    return results, sources


class _Names:
    """Names of documents as the vendor allows them, each once in a request."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def of(self, name: str) -> str:
        base = _NOT_IN_NAMES.sub(" ", name).strip()[:_MAX_NAME].strip() or "document"
        found, number = base, 1
        while found in self._given:
            number += 1
            found = f"{base} {number}"
        self._given.add(found)
        return found


def _messages(request: pb.GenerateRequest, lead: list[dict[str, Any]], integration: str) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    names = _Names()
    last_user = max(
        (index for index, message in enumerate(request.messages) if message.role == message_pb2.MESSAGE_ROLE_USER),
        default=-1,
    )
    for index, message in enumerate(request.messages):
        if message.role == message_pb2.MESSAGE_ROLE_USER:
            _add(written, "user", (lead if index == last_user else []) + _user(message, index, names))
        elif message.role == message_pb2.MESSAGE_ROLE_ASSISTANT:
            _add(written, "assistant", _assistant(message, index, integration))
        else:
            _add(written, "user", _tool_results(message, index))
    if last_user < 0:
        _add(written, "user", lead)
    return written


def _add(written: list[dict[str, Any]], role: str, content: list[dict[str, Any]]) -> None:
    if content and written and written[-1]["role"] == role:
        written[-1]["content"] += content
    elif content:
        written.append({"role": role, "content": content})


def _user(message: message_pb2.Message, index: int, names: _Names) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for position, part in enumerate(message.parts):
        kind = part.WhichOneof("kind")
        field = f"messages[{index}].parts[{position}]"
        if kind == "text":
            content.append({"text": part.text})
        elif kind == "image":
            form = _format(part.image, _IMAGES, f"{field}.image")
            content.append({"image": {"format": form, "source": _source(part.image)}})
        elif kind == "file":
            form = _format(part.file, _DOCUMENTS, f"{field}.file")
            name = names.of(part.file.name)
            content.append({"document": {"format": form, "name": name, "source": _source(part.file)}})
        else:
            raise misplaced(index, position, kind, message.role)
    return content


def _format(part: message_pb2.Image | message_pb2.File, known: Mapping[str, str], field: str) -> str:
    kind = media_type(part, field).partition(";")[0].strip().lower()
    if kind not in known:
        raise invalid_field(f"{field}.media_type", f"must be one of {', '.join(sorted(known))}")
    return known[kind]


def _source(part: message_pb2.Image | message_pb2.File) -> dict[str, Any]:
    return {"s3Location": {"uri": part.uri}} if part.WhichOneof("source") == "uri" else {"bytes": part.data}


def _assistant(message: message_pb2.Message, index: int, integration: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for position, part in enumerate(message.parts):
        kind = part.WhichOneof("kind")
        if kind == "text":
            if part.text.strip():  # a model may have written a lone line end, and what is blank is refused
                content.append({"text": part.text})
        elif kind == "tool_call":
            call = part.tool_call
            field = f"messages[{index}].parts[{position}].tool_call.arguments_json"
            arguments = parse_json(call.arguments_json or "{}", field)
            if not isinstance(arguments, dict):
                raise invalid_field(field, "must be a JSON object")
            content.append({"toolUse": {"toolUseId": call.id, "name": call.name, "input": arguments}})
        elif kind == "reasoning":
            # Sealed reasoning goes back to its maker alone, and only what is sealed is accepted.
            reasoning = part.reasoning
            if reasoning.provider == integration and reasoning.state:
                written = _reasoning(reasoning, f"messages[{index}].parts[{position}].reasoning.state")
                content.append({"reasoningContent": written})
        else:
            raise misplaced(index, position, kind, message.role)
    return content


def _reasoning(reasoning: message_pb2.Reasoning, field: str) -> dict[str, Any]:
    if reasoning.state.startswith(REDACTED):
        return {"redactedContent": reasoning.state.removeprefix(REDACTED)}
    try:
        return {"reasoningText": {"text": reasoning.text, "signature": reasoning.state.decode("ascii")}}
    except UnicodeDecodeError:
        raise invalid_field(field, "is not what this provider sent") from None


def _tool_results(message: message_pb2.Message, index: int) -> list[dict[str, Any]]:
    content = []
    for position, part in enumerate(message.parts):
        if part.WhichOneof("kind") != "tool_result":
            raise misplaced(index, position, part.WhichOneof("kind"), message.role)
        result = part.tool_result
        text = result.text if result.text.strip() else _EMPTY
        block: dict[str, Any] = {"toolUseId": result.call_id, "content": [{"text": text}]}
        if result.is_error:
            block["status"] = "error"
        content.append({"toolResult": block})
    return content


def _forbids_tools(request: pb.GenerateRequest) -> bool:
    return request.tool_choice.mode == tool_pb2.TOOL_CHOICE_MODE_NONE


def _has_tool_parts(request: pb.GenerateRequest) -> bool:
    return any(
        part.WhichOneof("kind") in ("tool_call", "tool_result")
        for message in request.messages
        for part in message.parts
    )


def _tool_config(request: pb.GenerateRequest) -> dict[str, Any]:
    if not request.tools or _forbids_tools(request):
        return {}
    config: dict[str, Any] = {"tools": [{"toolSpec": _tool(tool, index)} for index, tool in enumerate(request.tools)]}
    if request.HasField("tool_choice"):
        mode = request.tool_choice.mode
        if mode == tool_pb2.TOOL_CHOICE_MODE_NAMED:
            if request.tool_choice.name not in {tool.function.name for tool in request.tools}:
                raise invalid_field("tool_choice.name", "names no tool of the request")
            config["toolChoice"] = {"tool": {"name": request.tool_choice.name}}
        else:
            config["toolChoice"] = {"any" if mode == tool_pb2.TOOL_CHOICE_MODE_REQUIRED else "auto": {}}
    return config


def _tool(tool: tool_pb2.Tool, index: int) -> dict[str, Any]:
    function = tool.function
    written: dict[str, Any] = {"name": function.name}
    if function.description:
        written["description"] = function.description
    written["inputSchema"] = {"json": tool_schema(function, index)}
    if function.HasField("strict"):
        written["strict"] = function.strict
    return written
