"""What every wire format needs of a prompt: passages as text, JSON in texts, and parts that stand where they may not."""

import base64
import re
from typing import Any, Final

import msgspec
from google.protobuf import struct_pb2

from sluice.chat.v1 import message_pb2, passage_pb2, tool_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import SluiceError
from sluice_kit.rpc import invalid_field

_TAG: Final = re.compile(r"<(?=[\s/\\]*passage)", re.IGNORECASE)
"""Where what a model may take for the beginning or the end of a passage begins, however it is written."""


def render_passages(request: pb.GenerateRequest) -> str:
    """Returns the passages as text for inside the prompt; nothing without passages or without their instruction."""
    if not request.passages or not request.HasField("grounding_instruction"):
        return ""
    return "\n\n".join((request.grounding_instruction.strip(), *map(_render, request.passages)))


def _render(passage: passage_pb2.Passage) -> str:
    symbol = f" ({_one_line(passage.symbol)})" if passage.symbol else ""
    head = f"[{passage.id}] {_one_line(passage.path)}, lines {passage.start_line}-{passage.end_line}{symbol}"
    # Neither a file nor its name must be able to end its own passage and go on in the gateway's voice.
    body = passage.text.rstrip("\n")
    return f"{_within(head)}\n<passage>\n{_within(body)}\n</passage>"


def _within(text: str) -> str:
    """Returns a text in which no tag of a passage begins; all else stays as it is, to be cited."""
    return _TAG.sub("<\\\\", text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def parse_json(text: str, field: str) -> Any:
    """Returns the value of a JSON text in the request. Raises InvalidRequestError naming the field."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise invalid_field(field, "must be JSON") from None
    except RecursionError:
        raise invalid_field(field, "is nested too deeply") from None


def tool_schema(tool: tool_pb2.FunctionTool, index: int) -> dict[str, Any]:
    """Returns the JSON Schema of a tool's arguments: an object; one without properties where there is none."""
    field = f"tools[{index}].function.parameters_json_schema"
    if not tool.HasField("parameters_json_schema"):
        return {"type": "object", "properties": {}}
    schema = parse_json(tool.parameters_json_schema, field)
    if not isinstance(schema, dict):
        raise invalid_field(field, "must be a JSON object")
    return schema


def data_url(data: bytes, media_type: str) -> str:
    """Returns bytes as a data: address."""
    return f"data:{media_type};base64,{encoded(data)}"


def encoded(data: bytes) -> str:
    """Returns bytes as base64 text."""
    return base64.b64encode(data).decode("ascii")


def media_type(part: message_pb2.Image | message_pb2.File, field: str) -> str:
    """Returns the media type of a picture or file given by value. Raises InvalidRequestError if it is missing."""
    if not part.media_type:
        raise invalid_field(f"{field}.media_type", "is required with data")
    return part.media_type


def misplaced(index: int, position: int, kind: str | None, role: int) -> SluiceError:
    """Returns the error for a part that its message's role may not hold."""
    name = message_pb2.MessageRole.Name(message_pb2.MessageRole.ValueType(role)).removeprefix("MESSAGE_ROLE_").lower()
    return invalid_field(f"messages[{index}].parts[{position}]", f"{kind} may not stand in a message of role {name}")


def vendor_options(request: pb.GenerateRequest) -> dict[str, Any]:
    """Returns the vendor's own options as plain values."""
    return {key: _plain(value) for key, value in request.parameters.vendor_options.fields.items()}


def _plain(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {key: _plain(item) for key, item in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    if kind == "number_value":
        # Struct knows doubles only; vendors want whole numbers written as such.
        return int(value.number_value) if value.number_value.is_integer() else value.number_value
    if kind == "null_value" or kind is None:
        return None
    return getattr(value, kind)
