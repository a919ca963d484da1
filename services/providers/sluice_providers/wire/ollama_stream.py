"""Reads replies of Ollama's own chat interface: one JSON object to a line, the last with `"done": true`; or one whole.

A whole reply is one such object that holds all of the answer, so both are read by the same steps.
"""

import uuid
from typing import Any, Final

import msgspec

from sluice.chat.v1 import usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_providers.failures import VendorError, protocol_error

_FINISH: Final = {
    "stop": usage_pb2.FINISH_REASON_STOP,
    "length": usage_pb2.FINISH_REASON_LENGTH,
}


class _Function(msgspec.Struct, gc=False):
    name: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _Call(msgspec.Struct, gc=False):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: tuple[_Call, ...] | None = None


class _Line(msgspec.Struct, gc=False):
    model: str = ""
    message: _Message | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Line).decode


class OllamaStream:
    """Translates the lines of one answer. `done` is set by the terminal marker, and by nothing else."""

    __slots__ = ("_blocks", "_integration", "_kind", "_next", "_pieces", "_started", "_tools", "alive", "done")

    def __init__(self, integration: str) -> None:
        self._integration = integration
        self._started = False
        self._tools = False
        self._blocks: dict[str, int] = {}  # "text" or "reasoning" → block
        self._next = 0
        self._kind = ""  # of the text that is being joined
        self._pieces: list[str] = []
        self.done = False
        self.alive = False

    def translate(self, payloads: list[bytes]) -> pb.GenerateResponse:
        """Returns the events of the lines. Raises VendorError, msgspec.DecodeError, SluiceError."""
        batch = pb.GenerateResponse()
        for payload in payloads:
            self._line(batch, _decode(payload))
            if self.done:
                return batch
        self._join(batch)
        return batch

    def translate_whole(self, payload: bytes) -> pb.GenerateResponse:
        """Returns the events of a reply that came whole. Raises like `translate`."""
        batch = self.translate([payload])
        if not self.done:
            raise protocol_error(self._integration, "a whole reply that says it is not done")
        return batch

    def ended(self) -> None:
        """The format has a terminal marker of its own: an end without it is a failure."""

    def _line(self, batch: pb.GenerateResponse, line: _Line) -> None:
        if line.error:
            raise VendorError({"error": line.error})
        if not self._started:
            self._started = True
            batch.events.add().started.model = line.model
        message = line.message
        if message is not None:
            if message.thinking:
                self._piece(batch, "reasoning", message.thinking)
            if message.content:
                self._piece(batch, "text", message.content)
            if message.tool_calls:
                self._join(batch)
                for call in message.tool_calls:
                    self._tool_call(batch, call)
        if line.done:
            self._join(batch)
            self._complete(batch, line)

    def _piece(self, batch: pb.GenerateResponse, kind: str, piece: str) -> None:
        if self._kind != kind:
            self._join(batch)
            self._kind = kind
        self._pieces.append(piece)

    def _join(self, batch: pb.GenerateResponse) -> None:
        """Ends the text that is being joined and adds its event."""
        pieces = self._pieces
        if not pieces:
            return
        text = pieces[0] if len(pieces) == 1 else "".join(pieces)
        pieces.clear()
        block = self._blocks.get(self._kind)
        if block is None:
            block = self._blocks[self._kind] = self._next
            self._next += 1
        event = batch.events.add()
        delta = event.text_delta if self._kind == "text" else event.reasoning_delta
        delta.block_index = block
        delta.text = text

    def _tool_call(self, batch: pb.GenerateResponse, call: _Call) -> None:
        """Adds a call, which comes in one piece and from older servers without an id."""
        function = call.function
        if function is None or not function.name:
            raise protocol_error(self._integration, "a tool call without its name")
        arguments = bytes(function.arguments).strip()
        if arguments == b"null":
            arguments = b"{}"
        if not arguments.startswith(b"{"):
            raise protocol_error(self._integration, "a tool call whose arguments are no object")
        event = batch.events.add().tool_call_delta
        event.block_index = self._next
        event.id = call.id or f"call_{uuid.uuid4().hex}"
        event.name = function.name
        event.arguments_json = arguments.decode()
        self._next += 1
        self._tools = True

    def _complete(self, batch: pb.GenerateResponse, line: _Line) -> None:
        completed = batch.events.add().completed
        reason = line.done_reason or ""
        # The vendor says "stop" where the model waits for its tools, too.
        by_tools = self._tools and reason in ("", "stop")
        completed.finish_reason = (
            usage_pb2.FINISH_REASON_TOOL_CALLS if by_tools else _FINISH.get(reason, usage_pb2.FINISH_REASON_UNSPECIFIED)
        )
        completed.raw_finish_reason = reason
        # A count of 0 is left out, and one of the prompt is never 0: without it nothing was counted.
        if line.prompt_eval_count:
            usage = completed.usage
            usage.source = usage_pb2.USAGE_SOURCE_PROVIDER
            usage.input_tokens = line.prompt_eval_count
            usage.output_tokens = line.eval_count or 0
        self.done = True
