"""Reads replies of the chat completions interface: the stream of chunks, and the one whole reply.

This is the token path: each chunk is decoded once, into structs that name only the fields needed, and text that one
read brought in several chunks leaves as one delta.
"""

from typing import Any, Final

import msgspec

from sluice.chat.v1 import event_pb2, usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_providers.failures import VendorError, protocol_error

DONE: Final = b"[DONE]"
_FINISH: Final = {
    "stop": usage_pb2.FINISH_REASON_STOP,
    "length": usage_pb2.FINISH_REASON_LENGTH,
    "tool_calls": usage_pb2.FINISH_REASON_TOOL_CALLS,
    "function_call": usage_pb2.FINISH_REASON_TOOL_CALLS,
    "content_filter": usage_pb2.FINISH_REASON_CONTENT_FILTER,
}


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Custom(msgspec.Struct, gc=False):
    name: str | None = None
    input: str | None = None


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: tuple[_Call, ...] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Chunk(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    choices: tuple[_Choice, ...] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Chunk).decode


class ChatStream:
    """Translates the chunks of one answer. `done` is set by the terminal marker, and by nothing else."""

    __slots__ = (
        "_blocks",
        "_finish",
        "_integration",
        "_kind",
        "_next",
        "_pieces",
        "_request_id",
        "_started",
        "_usage",
        "alive",
        "done",
    )

    def __init__(self, integration: str, request_id: str) -> None:
        self._integration = integration
        self._request_id = request_id
        self._started = False
        self._blocks: dict[str | int, int] = {}  # "text", "reasoning" or the number of a tool call → block
        self._next = 0
        self._finish = ""
        self._usage: _Usage | None = None
        self._kind = ""  # of the text that is being joined
        self._pieces: list[str] = []
        self.done = False
        self.alive = False

    def translate(self, payloads: list[bytes]) -> pb.GenerateResponse:
        """Returns the events of the chunks. Raises VendorError, msgspec.DecodeError, SluiceError."""
        batch = pb.GenerateResponse()
        for payload in payloads:
            if payload == DONE:
                self._join(batch)
                self._complete(batch)
                return batch
            chunk = _decode(payload)
            if chunk.error:
                raise VendorError({"error": chunk.error})
            if not self._started:
                self._start(batch, chunk)
            if chunk.usage is not None:
                self._usage = chunk.usage
            if not chunk.choices:
                continue
            choice = chunk.choices[0]
            delta = choice.delta
            if delta is not None:
                if delta.tool_calls or delta.reasoning_content or delta.reasoning or delta.refusal:
                    self._every_kind(batch, delta)
                elif delta.content:
                    if self._kind != "text":
                        self._join(batch)
                        self._kind = "text"
                    self._pieces.append(delta.content)
            if choice.finish_reason is not None:
                self._finish = choice.finish_reason
        self._join(batch)
        return batch

    def ended(self) -> None:
        """The format has a terminal marker of its own: an end without it is a failure."""

    def translate_whole(self, payload: bytes) -> pb.GenerateResponse:
        """Returns the events of a reply that came whole. Raises like `translate`."""
        reply = _decode(payload)
        if reply.error:
            raise VendorError({"error": reply.error})
        choice = reply.choices[0] if reply.choices else _Choice()
        if choice.message is None:
            raise protocol_error(self._integration, "a reply without a message")
        batch = pb.GenerateResponse()
        self._start(batch, reply)
        self._usage = reply.usage
        self._finish = choice.finish_reason or ""
        self._every_kind(batch, choice.message)
        self._join(batch)
        self._complete(batch)
        return batch

    def _every_kind(self, batch: pb.GenerateResponse, delta: _Delta) -> None:
        """Adds all that a delta may hold, in the order in which models produce it."""
        # A refusal is the model's own words why it does not answer: text to the reader.
        for kind, piece in (
            ("reasoning", delta.reasoning_content or delta.reasoning),
            ("text", delta.content),
            ("text", delta.refusal),
        ):
            if piece:
                if self._kind != kind:
                    self._join(batch)
                    self._kind = kind
                self._pieces.append(piece)
        if delta.tool_calls:
            self._join(batch)
            for position, call in enumerate(delta.tool_calls):
                self._tool_call(batch, call, position if call.index is None else call.index)

    def _tool_call(self, batch: pb.GenerateResponse, call: _Call, number: int) -> None:
        event = batch.events.add().tool_call_delta
        known = number in self._blocks
        event.block_index = self._block(number)
        body = call.custom or call.function
        if not known:
            if not call.id or body is None or not body.name:
                raise protocol_error(self._integration, "a tool call begins without its id or name")
            event.id = call.id
            event.name = body.name
        if call.custom is not None:
            event.input_text = call.custom.input or ""
        elif call.function is not None:
            event.arguments_json = call.function.arguments or ""

    def _block(self, key: str | int) -> int:
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = self._next
            self._next += 1
        return block

    def _join(self, batch: pb.GenerateResponse) -> None:
        """Ends the text that is being joined and adds its event."""
        pieces = self._pieces
        if not pieces:
            return
        text = pieces[0] if len(pieces) == 1 else "".join(pieces)
        pieces.clear()
        event = batch.events.add()
        if self._kind == "text":
            text_delta = event.text_delta
            text_delta.block_index = self._block("text")
            text_delta.text = text
        else:
            reasoning_delta = event.reasoning_delta
            reasoning_delta.block_index = self._block("reasoning")
            reasoning_delta.text = text

    def _start(self, batch: pb.GenerateResponse, chunk: _Chunk) -> None:
        self._started = True
        started = batch.events.add().started
        started.vendor_request_id = self._request_id or (chunk.id or "")
        started.model = chunk.model or ""

    def _complete(self, batch: pb.GenerateResponse) -> None:
        if not self._started:
            self._start(batch, _Chunk())
        completed = batch.events.add().completed
        completed.finish_reason = _FINISH.get(self._finish, usage_pb2.FINISH_REASON_UNSPECIFIED)
        completed.raw_finish_reason = self._finish
        if self._usage is not None:
            _fill(completed, self._usage)
        self.done = True


def _fill(completed: event_pb2.Completed, usage: _Usage) -> None:
    target = completed.usage
    target.source = usage_pb2.USAGE_SOURCE_PROVIDER
    target.input_tokens = usage.prompt_tokens or 0
    target.output_tokens = usage.completion_tokens or 0
    if usage.prompt_tokens_details is not None:
        target.cached_input_tokens = usage.prompt_tokens_details.cached_tokens or 0
    if usage.completion_tokens_details is not None:
        target.reasoning_tokens = usage.completion_tokens_details.reasoning_tokens or 0
