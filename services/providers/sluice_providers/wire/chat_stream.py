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
    "eos": usage_pb2.FINISH_REASON_STOP,  # Together
    "model_length": usage_pb2.FINISH_REASON_LENGTH,  # Mistral
    "model_context_window_exceeded": usage_pb2.FINISH_REASON_LENGTH,  # Zhipu
    "sensitive": usage_pb2.FINISH_REASON_CONTENT_FILTER,
}
_FAILED: Final = frozenset({"error", "network_error", "insufficient_system_resource"})
"""What stands in the place of a finish reason where an answer broke off: OpenRouter and Mistral, Zhipu, DeepSeek."""


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Custom(msgspec.Struct, gc=False):
    name: str | None = None
    input: str | None = None


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None


class _Part(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    thinking: tuple["_Part", ...] | str | None = None


class _Detail(msgspec.Struct, gc=False, omit_defaults=True):
    """A piece of reasoning that goes back as it came; unknown fields cannot, so all that are documented are here."""

    type: str = ""
    text: str | None = None
    summary: str | None = None
    data: str | None = None
    signature: str | None = None
    id: str | None = None
    format: str | None = None
    index: int | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | tuple[_Part, ...] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: tuple[_Detail, ...] | None = None
    refusal: str | None = None
    tool_calls: tuple[_Call, ...] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None
    error: Any = None


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None
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
        "_by_finish",
        "_details",
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

    def __init__(self, integration: str, request_id: str, *, by_finish: bool = False) -> None:
        self._integration = integration
        self._by_finish = by_finish  # a finish reason and the end of the body stand for the marker
        self._request_id = request_id
        self._started = False
        self._blocks: dict[str | int, int] = {}  # "text", "reasoning" or the number of a tool call → block
        self._next = 0
        self._finish = ""
        self._usage: _Usage | None = None
        self._kind = ""  # of the text that is being joined
        self._pieces: list[str] = []
        self._details: list[_Detail] = []
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
            if not self._started and (chunk.choices or chunk.model):
                # Azure's first chunk tells of its filters only, and not which model answers.
                self._start(batch, chunk)
            if chunk.usage is not None:
                self._usage = chunk.usage
            if not chunk.choices:
                continue
            choice = chunk.choices[0]
            delta = choice.delta
            if delta is not None:
                content = delta.content
                if (
                    delta.tool_calls
                    or delta.reasoning_content
                    or delta.reasoning
                    or delta.reasoning_details
                    or delta.refusal
                    or isinstance(content, tuple)
                ):
                    self._every_kind(batch, delta)
                elif content:
                    if self._kind != "text":
                        self._join(batch)
                        self._kind = "text"
                    self._pieces.append(content)
            if choice.finish_reason is not None:
                self._finished(choice)
        self._join(batch)
        return batch

    def ended(self) -> pb.GenerateResponse | None:
        """The format has a terminal marker of its own; only for servers known to lack it the end may stand for it."""
        if not self._by_finish or not self._finish:
            return None
        batch = pb.GenerateResponse()
        self._complete(batch)
        return batch

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
        self._finished(choice)
        self._every_kind(batch, choice.message)
        self._join(batch)
        self._complete(batch)
        return batch

    def _every_kind(self, batch: pb.GenerateResponse, delta: _Delta) -> None:
        """Adds all that a delta may hold, in the order in which models produce it."""
        self._add(batch, "reasoning", delta.reasoning_content or delta.reasoning)
        if delta.reasoning_details:
            self._seal(delta.reasoning_details)
        if isinstance(delta.content, tuple):
            for part in delta.content:
                self._add(batch, "reasoning", _thought(part))
                self._add(batch, "text", part.text)
        else:
            self._add(batch, "text", delta.content)
        # A refusal is the model's own words why it does not answer: text to the reader.
        self._add(batch, "text", delta.refusal)
        if delta.tool_calls:
            self._join(batch)
            for position, call in enumerate(delta.tool_calls):
                self._tool_call(batch, call, position if call.index is None else call.index)

    def _add(self, batch: pb.GenerateResponse, kind: str, piece: str | None) -> None:
        """Adds a piece of text to what is being joined, if it is of that kind."""
        if piece:
            if self._kind != kind:
                self._join(batch)
                self._kind = kind
            self._pieces.append(piece)

    def _seal(self, details: tuple[_Detail, ...]) -> None:
        """Keeps what must go back to the vendor; pieces of one text become one again."""
        for detail in details:
            found = next((old for old in reversed(self._details) if old.index == detail.index), None)
            if found is None or detail.data or found.type != detail.type:
                self._details.append(detail)
                continue
            found.text = _joined(found.text, detail.text)
            found.summary = _joined(found.summary, detail.summary)
            found.signature = detail.signature or found.signature
            found.id = detail.id or found.id
            found.format = detail.format or found.format

    def _finished(self, choice: _Choice) -> None:
        """Takes the finish reason. Raises VendorError where it says that the answer failed."""
        self._finish = choice.finish_reason or ""
        if self._finish in _FAILED:
            raise VendorError({"error": choice.error or {"code": self._finish}})

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
            arguments = call.function.arguments
            if isinstance(arguments, dict):  # as Mistral and Z.ai may write them
                arguments = msgspec.json.encode(arguments).decode()
            event.arguments_json = arguments or ""

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
        if self._details:
            sealed = batch.events.add().reasoning_delta
            sealed.block_index = self._block("reasoning")
            sealed.state = msgspec.json.encode(self._details)
        completed = batch.events.add().completed
        completed.finish_reason = _FINISH.get(self._finish, usage_pb2.FINISH_REASON_UNSPECIFIED)
        completed.raw_finish_reason = self._finish
        if self._usage is not None:
            _fill(completed, self._usage)
        self.done = True


def _thought(part: _Part) -> str:
    """Returns the reasoning in a part of the content."""
    if isinstance(part.thinking, tuple):
        return "".join(piece.text or "" for piece in part.thinking)
    return part.thinking or ""


def _joined(first: str | None, second: str | None) -> str | None:
    return second if first is None else first + (second or "")


def _fill(completed: event_pb2.Completed, usage: _Usage) -> None:
    target = completed.usage
    target.source = usage_pb2.USAGE_SOURCE_PROVIDER
    target.input_tokens = prompt = usage.prompt_tokens or 0
    target.output_tokens = answer = usage.completion_tokens or 0
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details is not None else None
    # DeepSeek and Moonshot tell it elsewhere.
    target.cached_input_tokens = cached or usage.prompt_cache_hit_tokens or usage.cached_tokens or 0
    if usage.completion_tokens_details is not None:
        target.reasoning_tokens = thought = usage.completion_tokens_details.reasoning_tokens or 0
        if usage.total_tokens == prompt + answer + thought:
            # xAI does not count reasoning as output; the total shows it.
            target.output_tokens = answer + thought
