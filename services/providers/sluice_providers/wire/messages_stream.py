"""Reads replies of the messages interface: the stream of events, and the one whole reply.

The vendor starts a new text block wherever a citation begins or ends. Text blocks that follow each other are one text
to the reader, so they are one block here, and citations name their part of it in bytes.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from sluice.chat.v1 import usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_providers.failures import VendorError, protocol_error
from sluice_providers.wire.messages_request import REDACTED, Source

_FINISH: Final = {
    "end_turn": usage_pb2.FINISH_REASON_STOP,
    "stop_sequence": usage_pb2.FINISH_REASON_STOP,
    "max_tokens": usage_pb2.FINISH_REASON_LENGTH,
    "model_context_window_exceeded": usage_pb2.FINISH_REASON_LENGTH,
    "tool_use": usage_pb2.FINISH_REASON_TOOL_CALLS,
    "refusal": usage_pb2.FINISH_REASON_CONTENT_FILTER,
}


# The vendor may add kinds, which are to be passed over (https://platform.claude.com/docs/en/api/versioning).
_DELTAS: Final = frozenset({"text_delta", "thinking_delta", "signature_delta", "input_json_delta", "citations_delta"})


class _Citation(msgspec.Struct, gc=False):
    type: str = ""
    search_result_index: int = -1
    start_block_index: int = 0
    end_block_index: int = 0


class _Delta(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    citation: _Citation | None = None
    stop_reason: str | None = None


class _Block(msgspec.Struct, gc=False):
    type: str = ""
    id: str = ""
    name: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    input: Any = None
    citations: tuple[_Citation, ...] | None = None


class _Details(msgspec.Struct, gc=False):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: _Details | None = None


class _Message(msgspec.Struct, gc=False):
    id: str = ""
    type: str = ""
    model: str = ""
    content: tuple[_Block, ...] = ()
    stop_reason: str | None = None
    usage: _Usage | None = None
    error: Any = None


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    usage: _Usage | None = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Event).decode
_decode_message: Final = msgspec.json.Decoder(_Message).decode


class _Open:
    """A block of the vendor that is not ended yet."""

    __slots__ = ("block", "citations", "kind", "pieces", "start")

    def __init__(self, kind: str, block: int, start: int) -> None:
        self.kind = kind
        self.block = block
        self.start = start  # where its text begins, in bytes of our block
        self.citations: list[_Citation] = []
        self.pieces = 0


class MessagesStream:
    """Translates the events of one answer. `done` is set by the terminal marker, and by nothing else."""

    def __init__(self, integration: str, request_id: str, sources: Sequence[Source]) -> None:
        self._integration = integration
        self._request_id = request_id
        self._sources = sources
        self._open: dict[int, _Open] = {}
        self._unknown: set[int] = set()  # blocks of kinds that nobody asked for, or of tomorrow
        self._next = 0
        self._last_kind = ""
        self._text_bytes = 0  # of the block of text that grows; counted only where spans are needed
        self._stop_reason = ""
        self._usage = usage_pb2.Usage()
        self._joined: _Open | None = None
        self._pieces: list[str] = []
        self._started = False
        self.done = False
        self.alive = False

    def translate(self, payloads: list[bytes]) -> pb.GenerateResponse:
        """Returns the events of some payloads. Raises VendorError, msgspec.DecodeError, SluiceError."""
        batch = pb.GenerateResponse()
        self.alive = False
        for payload in payloads:
            event = _decode(payload)
            kind = event.type
            if kind == "content_block_delta":
                delta = event.delta
                found = self._open.get(event.index)
                if delta is None or found is None:
                    if event.index in self._unknown:
                        continue
                    raise protocol_error(self._integration, "a delta of no block")
                if delta.type == "text_delta" and found.kind == "text":
                    if self._joined is not found:
                        self._join(batch)
                        self._joined = found
                    self._pieces.append(delta.text or "")
                else:
                    self._delta(batch, found, delta)
            else:
                self._join(batch)
                self._other(batch, kind, event)
                if self.done:
                    return batch
        self._join(batch)
        return batch

    def ended(self) -> None:
        """The format has a terminal marker of its own: an end without it is a failure."""

    def translate_whole(self, payload: bytes) -> pb.GenerateResponse:
        """Returns the events of a reply that came whole. Raises like `translate`."""
        message = _decode_message(payload)
        if message.type == "error" or message.error:
            raise VendorError({"error": message.error})
        batch = pb.GenerateResponse()
        self._start(batch, message)
        for index, block in enumerate(message.content):
            found = self._begin(batch, index, block)
            if found is None:
                continue
            if block.text:
                self._joined = found
                self._pieces.append(block.text)
                self._join(batch)
            found.citations.extend(block.citations or ())
            self._end(batch, index)
        self._stop_reason = message.stop_reason or ""
        self._complete(batch)
        return batch

    def _other(self, batch: pb.GenerateResponse, kind: str, event: _Event) -> None:
        if kind == "content_block_start":
            if event.content_block is None:
                raise protocol_error(self._integration, "a block begins without its contents")
            self._begin(batch, event.index, event.content_block)
        elif kind == "content_block_stop":
            self._end(batch, event.index)
        elif kind == "message_start":
            if event.message is None or self._started:
                raise protocol_error(self._integration, "the message does not start as it should")
            self._start(batch, event.message)
            if self._usage.source:
                batch.events.add().usage_update.usage.CopyFrom(self._usage)
        elif kind == "message_delta":
            if event.delta is not None and event.delta.stop_reason is not None:
                self._stop_reason = event.delta.stop_reason
            self._take_usage(event.usage)
        elif kind == "message_stop":
            self._complete(batch)
        elif kind == "error":
            raise VendorError({"error": event.error})
        elif kind == "ping":
            self.alive = True

    def _start(self, batch: pb.GenerateResponse, message: _Message) -> None:
        self._started = True
        started = batch.events.add().started
        started.vendor_request_id = self._request_id or message.id
        started.model = message.model
        self._take_usage(message.usage)

    def _begin(self, batch: pb.GenerateResponse, index: int, block: _Block) -> _Open | None:
        kind = block.type
        if kind not in ("text", "thinking", "redacted_thinking", "tool_use"):
            self._unknown.add(index)
            return None
        if not (kind == "text" and self._last_kind == "text"):
            self._next += 1
            self._text_bytes = 0
        self._last_kind = kind
        found = self._open[index] = _Open(kind, self._next - 1, self._text_bytes)
        if kind == "tool_use":
            if not block.id or not block.name:
                raise protocol_error(self._integration, "a tool call begins without its id or name")
            call = batch.events.add().tool_call_delta
            call.block_index = found.block
            call.id = block.id
            call.name = block.name
            if block.input:
                call.arguments_json = msgspec.json.encode(block.input).decode()
                found.pieces = 1
        elif kind == "redacted_thinking":
            sealed = batch.events.add().reasoning_delta
            sealed.block_index = found.block
            sealed.state = REDACTED + block.data.encode()
        elif kind == "thinking" and (block.thinking or block.signature):
            thought = batch.events.add().reasoning_delta
            thought.block_index = found.block
            thought.text = block.thinking
            thought.state = block.signature.encode()
        return found

    def _delta(self, batch: pb.GenerateResponse, found: _Open, delta: _Delta) -> None:
        """Every delta but text."""
        if delta.type == "citations_delta" and delta.citation is not None:
            found.citations.append(delta.citation)
            return
        self._join(batch)
        if delta.type == "input_json_delta" and found.kind == "tool_use":
            if delta.partial_json:
                found.pieces += 1
                call = batch.events.add().tool_call_delta
                call.block_index = found.block
                call.arguments_json = delta.partial_json
        elif delta.type == "thinking_delta" and found.kind == "thinking":
            thought = batch.events.add().reasoning_delta
            thought.block_index = found.block
            thought.text = delta.thinking or ""
        elif delta.type == "signature_delta" and found.kind == "thinking":
            thought = batch.events.add().reasoning_delta
            thought.block_index = found.block
            thought.state = (delta.signature or "").encode()
        elif delta.type in _DELTAS:
            raise protocol_error(self._integration, "a delta of another kind than its block")

    def _end(self, batch: pb.GenerateResponse, index: int) -> None:
        found = self._open.pop(index, None)
        if found is None:
            return
        if found.kind == "tool_use" and not found.pieces:
            call = batch.events.add().tool_call_delta
            call.block_index = found.block
            call.arguments_json = "{}"
        for citation in found.citations:
            self._cite(batch, found, citation)

    def _cite(self, batch: pb.GenerateResponse, found: _Open, citation: _Citation) -> None:
        """Adds a citation of the whole of the vendor's block, which is what it stands for."""
        if citation.type != "search_result_location" or not 0 <= citation.search_result_index < len(self._sources):
            return
        source = self._sources[citation.search_result_index]
        blocks = source.blocks[citation.start_block_index : citation.end_block_index]
        if not blocks or found.start == self._text_bytes:
            return
        claim = batch.events.add().citation_delta
        claim.block_index = found.block
        claim.passage_id = source.passage_id
        claim.answer_span.start, claim.answer_span.end = found.start, self._text_bytes
        claim.start_line, claim.end_line = blocks[0][0], blocks[-1][1]

    def _join(self, batch: pb.GenerateResponse) -> None:
        """Adds the event of the text that was joined."""
        if not self._pieces or self._joined is None:
            return
        text = self._pieces[0] if len(self._pieces) == 1 else "".join(self._pieces)
        self._pieces.clear()
        if not text:
            return
        if self._sources:
            self._text_bytes += len(text.encode())
        delta = batch.events.add().text_delta
        delta.block_index = self._joined.block
        delta.text = text

    def _take_usage(self, usage: _Usage | None) -> None:
        """Takes what the vendor counted so far. Its counts of input leave cached tokens out; ours include them."""
        if usage is None:
            return
        mine = self._usage
        mine.source = usage_pb2.USAGE_SOURCE_PARTIAL
        if usage.input_tokens is not None:
            cached = usage.cache_read_input_tokens or 0
            mine.input_tokens = usage.input_tokens + cached + (usage.cache_creation_input_tokens or 0)
            mine.cached_input_tokens = cached
        if usage.output_tokens is not None:
            mine.output_tokens = usage.output_tokens
        if usage.output_tokens_details is not None:
            mine.reasoning_tokens = usage.output_tokens_details.thinking_tokens or 0

    def _complete(self, batch: pb.GenerateResponse) -> None:
        if not self._started or self._open:
            raise protocol_error(self._integration, "the message ends before its blocks do")
        completed = batch.events.add().completed
        completed.finish_reason = _FINISH.get(self._stop_reason, usage_pb2.FINISH_REASON_UNSPECIFIED)
        completed.raw_finish_reason = self._stop_reason
        if self._usage.source:
            completed.usage.CopyFrom(self._usage)
            completed.usage.source = usage_pb2.USAGE_SOURCE_PROVIDER
        self.done = True
