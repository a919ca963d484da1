"""What GitHub Copilot's interface has beside the chat completions format: facts told in headers, replies in parts, and
a list of models that tells much of each."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sluice.chat.v1 import message_pb2
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.rpc import invalid_field
from sluice_providers.failures import protocol_error
from sluice_providers.wire.chat_stream import ChatStream

CHAT_ENDPOINT: Final = "/chat/completions"
RESPONSES_ENDPOINT: Final = "/responses"
_THEIRS: Final = b'"reasoning_text":'
_OURS: Final = b'"reasoning_content":'
_MAX_TOKENS: Final = 2**40
_SUPPORTS: Final = {
    "streaming": model_pb2.CAPABILITY_STREAMING,
    "tool_calls": model_pb2.CAPABILITY_TOOLS,
    "structured_outputs": model_pb2.CAPABILITY_STRUCTURED_OUTPUT,
    "vision": model_pb2.CAPABILITY_IMAGES,
}
_SEALED: Final = b'"reasoning_opaque":'
_SEAL: Final = "reasoning.opaque"
_IMAGES: Final = frozenset({"image_url", "input_image"})


class _Part(msgspec.Struct, gc=False):
    type: str = ""


class _Turn(msgspec.Struct, gc=False):
    role: str = ""
    content: list[_Part] | str | None = None


class _Detail(msgspec.Struct, gc=False):
    data: str = ""


class _Asked(msgspec.Struct, gc=False):
    messages: list[_Turn] = []


class _AskedResponses(msgspec.Struct, gc=False):
    input: list[_Turn] | str = ""


def facts(path: str, body: bytes) -> tuple[str, bool]:
    """Returns who speaks in a request that we wrote, `user` or `agent`, and whether it holds images.

    The vendor counts what a person asked as a request, and what a program sends on its own (results of tools, lists,
    embeddings) as part of one.
    """
    turns: list[_Turn] = []
    if path.endswith(CHAT_ENDPOINT):
        turns = msgspec.json.decode(body, type=_Asked).messages
    elif path.endswith(RESPONSES_ENDPOINT):
        given = msgspec.json.decode(body, type=_AskedResponses).input
        turns = given if isinstance(given, list) else [_Turn(role="user")]
    by_person = bool(turns) and turns[-1].role == "user"
    images = any(part.type in _IMAGES for turn in turns if isinstance(turn.content, list) for part in turn.content)
    return "user" if by_person else "agent", images


class CopilotStream:
    """Reads a reply as `ChatStream` does, after putting the vendor's own ways into the format's."""

    __slots__ = ("_chat",)

    def __init__(self, chat: ChatStream) -> None:
        self._chat = chat

    @property
    def done(self) -> bool:
        """Whether the terminal marker was read."""
        return self._chat.done

    @property
    def alive(self) -> bool:
        """Whether there was a sign of life that is no event."""
        return self._chat.alive

    def translate(self, payloads: list[bytes]) -> pb.GenerateResponse:
        """Returns the events of some payloads of the stream. Raises like ChatStream."""
        return self._chat.translate([_plain(payload) for payload in payloads])

    def translate_whole(self, payload: bytes) -> pb.GenerateResponse:
        """Returns the events of a reply that came whole. Raises like ChatStream."""
        return self._chat.translate_whole(_plain(_joined(payload)))

    def ended(self) -> pb.GenerateResponse | None:
        """Returns the last events at a proper end of the body; None where the marker is missing."""
        return self._chat.ended()


def _plain(payload: bytes) -> bytes:
    """Returns a payload with its reasoning where the format has it."""
    # Quotation marks in a text are escaped, so only the name of a field reads like this.
    if _SEALED in payload:
        payload = _with_details(payload)
    return payload.replace(_THEIRS, _OURS) if _THEIRS in payload else payload


def _with_details(payload: bytes) -> bytes:
    try:
        reply = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return payload
    choices = reply.get("choices") if isinstance(reply, dict) else None
    for choice in choices if isinstance(choices, list) else ():
        for name in ("delta", "message"):
            part: Any = choice.get(name) if isinstance(choice, dict) else None
            sealed = part.pop("reasoning_opaque", None) if isinstance(part, dict) else None
            if isinstance(sealed, str) and sealed:
                part["reasoning_details"] = [{"type": _SEAL, "data": sealed}]
    return msgspec.json.encode(reply)


def give_back(request: pb.GenerateRequest, body: Mapping[str, Any]) -> None:
    """Adds earlier reasoning of this integration to the messages of a body: the sealed part, and the text with it."""
    written = (message for message in body["messages"] if message["role"] == "assistant")
    for index, message in enumerate(request.messages):
        if message.role != message_pb2.MESSAGE_ROLE_ASSISTANT:
            continue
        target = next(written)
        thoughts = [
            part.reasoning
            for part in message.parts
            if part.HasField("reasoning") and part.reasoning.provider == request.target.provider
        ]
        sealed = "".join(_opened(thought.state, index) for thought in thoughts if thought.state)
        if sealed:
            target["reasoning_text"] = "".join(thought.text for thought in thoughts)
            target["reasoning_opaque"] = sealed


def _opened(state: bytes, index: int) -> str:
    """Returns what `ChatStream` sealed."""
    try:
        details = msgspec.json.decode(state, type=list[_Detail])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid_field(f"messages[{index}].parts", "the state of a reasoning is not what was returned") from None
    return "".join(detail.data for detail in details)


def _joined(payload: bytes) -> bytes:
    """Returns a whole reply with one choice: of some models the text and each tool call come as choices of their own."""
    try:
        reply = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return payload
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or len(choices) < 2:
        return payload
    joined: dict[str, Any] = {"role": "assistant"}
    finish = ""
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            return payload
        finish = finish or choice.get("finish_reason") or ""
        for name, value in message.items():
            before: Any = joined.get(name)
            if before is None:
                joined[name] = value
            elif name != "role" and type(value) in (str, list) and type(value) is type(before):
                joined[name] = before + value
    return msgspec.json.encode({**reply, "choices": [{"index": 0, "message": joined, "finish_reason": finish}]})


def read_models(integration: str, body: Any, *, hidden: bool, responses: bool) -> list[model_pb2.Model]:
    """Returns the models of the vendor's list that can be used here.

    `hidden` lists those that the vendor keeps out of its own pickers, too; `responses` those that only the Responses
    interface serves. Raises SluiceError if the reply is no such list.
    """
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        raise protocol_error(integration, "the list of models is none")
    models = []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
            raise protocol_error(integration, "a model without an id")
        if _is_usable(row, hidden=hidden, responses=responses):
            models.append(_model(row))
    return models


def _is_usable(row: dict[str, Any], *, hidden: bool, responses: bool) -> bool:
    kind = _inner(row, "capabilities").get("type", "chat")
    if kind == "embeddings":
        return True
    if kind != "chat" or _inner(row, "policy").get("state") == "disabled":
        return False
    if row.get("model_picker_enabled") is False and not hidden:
        return False
    endpoints = row.get("supported_endpoints")
    wanted = {CHAT_ENDPOINT, RESPONSES_ENDPOINT} if responses else {CHAT_ENDPOINT}
    # Where the list does not tell, it is older than the other endpoints.
    return not isinstance(endpoints, list) or any(endpoint in wanted for endpoint in endpoints)


def _model(row: dict[str, Any]) -> model_pb2.Model:
    able = _inner(row, "capabilities")
    limits, supports = _inner(able, "limits"), _inner(able, "supports")
    model = model_pb2.Model(
        id=row["id"],
        owned_by=_text(row, "vendor"),
        family=_text(able, "family"),
        source=model_pb2.MODEL_SOURCE_DISCOVERED,
    )
    name = _text(row, "name")
    if name != model.id:
        model.display_name = name
    window, output = _tokens(limits, "max_context_window_tokens"), _tokens(limits, "max_output_tokens")
    if window is not None:
        model.context_window = window
    if output is not None:
        model.max_output_tokens = output
    found = {value for name, value in _SUPPORTS.items() if supports.get(name) is True}
    if supports.get("reasoning_effort") or supports.get("adaptive_thinking") is True:
        found.add(model_pb2.CAPABILITY_REASONING)
    if able.get("type") == "embeddings":
        found = {model_pb2.CAPABILITY_EMBEDDINGS}
    model.capabilities.extend(sorted(found))
    return model


def _inner(row: dict[str, Any], name: str) -> dict[str, Any]:
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else ""


def _tokens(row: dict[str, Any], name: str) -> int | None:
    value = row.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MAX_TOKENS else None
