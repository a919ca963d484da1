"""The options of a request by name: which ones it sets, and how to leave one out.

Names are those of the contract's fields (`temperature`, `stop`, …), `vendor_options.NAME` for the vendor's own, and
for what is no tuning: `tools`, `tools.custom`, `tools.strict`, `tool_choice`, `response_format.json`,
`response_format.json_schema`, `images`, `images.uri`, `files`, `files.uri`. Tuning may be dropped where the request is
`lenient`; the rest changes what the answer is, so it is refused in any case.
"""

from collections.abc import Iterable
from typing import Final

from sluice.chat.v1 import message_pb2, parameters_pb2
from sluice.provider.v1 import provider_service_pb2 as pb

VENDOR_PREFIX: Final = "vendor_options."
PARAMETERS: Final = frozenset(
    {
        "temperature",
        "top_p",
        "max_output_tokens",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "reasoning_effort",
        "verbosity",
        "parallel_tool_calls",
    }
)
"""Every tuning field of GenerationParameters, vendor options aside."""

NO_TUNING: Final = (
    "tools",
    "tools.strict",
    "tools.custom",
    "tool_choice",
    "response_format.json",
    "response_format.json_schema",
    "images",
    "images.uri",
    "files",
    "files.uri",
)
"""Every other option."""


def is_tuning(name: str) -> bool:
    """Tells whether an option may be dropped from a lenient request."""
    return name in PARAMETERS or name.startswith(VENDOR_PREFIX) or name == "tools.strict"


def requested(request: pb.GenerateRequest) -> list[str]:
    """Returns the names of the options that a request sets."""
    names: list[str] = []
    if request.HasField("parameters"):
        for field, value in request.parameters.ListFields():
            if field.name == "vendor_options":
                names.extend(VENDOR_PREFIX + key for key in value.fields)
            elif field.name not in ("reasoning_effort", "verbosity") or value:
                names.append(field.name)
    if request.tools:
        names.append("tools")
        kinds = {tool.WhichOneof("kind") for tool in request.tools}
        if "custom" in kinds:
            names.append("tools.custom")
        if any(tool.function.HasField("strict") for tool in request.tools):
            names.append("tools.strict")
    if request.HasField("tool_choice"):
        names.append("tool_choice")
    form = request.response_format.WhichOneof("kind")
    if form in ("json", "json_schema"):
        names.append(f"response_format.{form}")
    names.extend(sorted(_media(request.messages)))
    return names


def _media(messages: Iterable[message_pb2.Message]) -> set[str]:
    found: set[str] = set()
    for message in messages:
        for part in message.parts:
            kind = part.WhichOneof("kind")
            if kind == "image":
                found.add("images")
                if part.image.WhichOneof("source") == "uri":
                    found.add("images.uri")
            elif kind == "file":
                found.add("files")
                if part.file.WhichOneof("source") == "uri":
                    found.add("files.uri")
    return found


def without(request: pb.GenerateRequest, names: Iterable[str]) -> pb.GenerateRequest:
    """Returns a copy of the request that leaves out the tuning of the given names."""
    copy = pb.GenerateRequest()
    copy.CopyFrom(request)
    for name in names:
        if name.startswith(VENDOR_PREFIX):
            copy.parameters.vendor_options.fields.pop(name.removeprefix(VENDOR_PREFIX), None)
        elif name == "tools.strict":
            for tool in copy.tools:
                if tool.WhichOneof("kind") == "function":
                    tool.function.ClearField("strict")
        else:
            _clear(copy.parameters, name)
    return copy


def _clear(parameters: parameters_pb2.GenerationParameters, name: str) -> None:
    if name not in PARAMETERS:
        raise ValueError(f"{name} is no tuning")
    parameters.DESCRIPTOR.fields_by_name[name]  # a name that the contract lost would fail here, not pass silently
    getattr(parameters, "ClearField")(name)  # noqa: B009 - the stub types it by literal names only
