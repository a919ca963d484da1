"""Reads replies of the Converse interface: the stream of messages, and the one whole reply.

`messageStop` says why the answer ended and is its terminal marker; `metadata` follows with the count of tokens. A text
block begins without an event of its own, and a new one begins wherever a citation does; text blocks that follow each
other are one text to the reader, so they are one block here, and citations name their part of it in bytes.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from sluice.chat.v1 import usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_providers.eventstream import EventStreamDecoder, Frame
from sluice_providers.failures import VendorError, protocol_error
from sluice_providers.wire.converse_request import REDACTED
from sluice_providers.wire.converse_types import (
    Call,
    Citation,
    Content,
    Delta,
    Event,
    ReasoningDelta,
    ReasoningText,
    Reply,
    Usage,
)
from sluice_providers.wire.messages_request import Source

_FINISH: Final = {
    "end_turn": usage_pb2.FINISH_REASON_STOP,
    "stop_sequence": usage_pb2.FINISH_REASON_STOP,
    "max_tokens": usage_pb2.FINISH_REASON_LENGTH,
    "model_context_window_exceeded": usage_pb2.FINISH_REASON_LENGTH,
    "tool_use": usage_pb2.FINISH_REASON_TOOL_CALLS,
    "guardrail_intervened": usage_pb2.FINISH_REASON_CONTENT_FILTER,
    "content_filtered": usage_pb2.FINISH_REASON_CONTENT_FILTER,
}
"""The rest (`malformed_model_output`, `malformed_tool_use`, and what is new) is nothing that our words cover."""


_decode: Final = msgspec.json.Decoder(Event).decode
_decode_reply: Final = msgspec.json.Decoder(Reply).decode
_SERVER_SIDE: Final = "server_tool_use"
"""The type of calls that the vendor runs by itself; nobody here answers them."""


class _Open:
    """A block of the vendor that is not ended yet."""

    __slots__ = ("block", "citations", "kind", "pieces", "start")

    def __init__(self, kind: str, block: int, start: int) -> None:
        self.kind = kind
        self.block = block
        self.start = start  # where its text begins, in bytes of our block
        self.citations: list[Citation] = []
        self.pieces = 0


class ConverseStream:
    """Translates the messages of one answer. `done` is set behind the terminal marker, and by nothing else."""

    def __init__(
        self, integration: str, request_id: str, model: str, sources: Sequence[Source], decoder: EventStreamDecoder
    ) -> None:
        self._integration = integration
        self._request_id = request_id
        self._model = model  # the interface does not name it in its replies
        self._sources = sources
        self._decoder = decoder  # it knows whether the body ended inside a message
        self._open: dict[int, _Open] = {}
        self._skipped: set[int] = set()  # blocks that mean nothing to the caller
        self._next = 0
        self._last_kind = ""
        self._text_bytes = 0  # of the block of text that grows; counted only where spans are needed
        self._stop_reason: str | None = None
        self._usage: usage_pb2.Usage | None = None
        self._joined: _Open | None = None
        self._pieces: list[str] = []
        self._started = False
        self.done = False
        self.alive = False

    def translate(self, payloads: list[Frame]) -> pb.GenerateResponse:
        """Returns the events of some messages. Raises VendorError, msgspec.DecodeError, SluiceError."""
        batch = pb.GenerateResponse()
        for frame in payloads:
            if frame.failed:
                raise VendorError(_failure(frame))
            if frame.kind == "contentBlockDelta":
                event = _decode(frame.payload)
                if event.delta is None or self._stop_reason is not None or not self._started:
                    raise protocol_error(self._integration, "a delta where none may stand")
                self._delta(batch, event.content_block_index, event.delta)
            else:
                self._join(batch)
                self._other(batch, frame)
                if self.done:
                    return batch
        self._join(batch)
        return batch

    def ended(self) -> pb.GenerateResponse | None:
        """Behind the marker only the count of tokens may be missing, which is estimated then."""
        if self._stop_reason is None or self._decoder.unfinished:
            return None
        batch = pb.GenerateResponse()
        self._complete(batch)
        return batch

    def translate_whole(self, payload: bytes) -> pb.GenerateResponse:
        """Returns the events of a reply that came whole. Raises like `translate`."""
        reply = _decode_reply(payload)
        if reply.output is None or reply.output.message is None or not reply.stop_reason:
            raise protocol_error(self._integration, "the reply holds no message")
        batch = pb.GenerateResponse()
        self._start(batch)
        for index, content in enumerate(reply.output.message.content):
            self._whole_block(batch, index, content)
        self._stop_reason = reply.stop_reason
        self._take_usage(reply.usage)
        self._complete(batch)
        return batch

    def _whole_block(self, batch: pb.GenerateResponse, index: int, content: Content) -> None:
        """Takes one block of a whole reply as the deltas that it would have come in."""
        if content.text is not None:
            self._delta(batch, index, Delta(text=content.text))
        elif content.citations_content is not None:
            cited = content.citations_content
            for piece in cited.content:
                self._delta(batch, index, Delta(text=piece.text))
            for citation in cited.citations:
                self._delta(batch, index, Delta(citation=citation))
        elif content.reasoning_content is not None:
            thought = content.reasoning_content
            written = thought.reasoning_text or ReasoningText()
            delta = ReasoningDelta(written.text, written.signature, thought.redacted_content)
            self._delta(batch, index, Delta(reasoning_content=delta))
        elif content.tool_use is not None:
            self._call(batch, index, content.tool_use)
        self._join(batch)
        self._end(batch, index)

    def _other(self, batch: pb.GenerateResponse, frame: Frame) -> None:
        """Every message but deltas."""
        kind = frame.kind
        if kind not in ("messageStart", "contentBlockStart", "contentBlockStop", "messageStop", "metadata"):
            return
        event = _decode(frame.payload)
        if kind == "messageStart":
            if self._started:
                raise protocol_error(self._integration, "the message starts twice")
            self._start(batch)
        elif not self._started:
            raise protocol_error(self._integration, "the message does not start as it should")
        elif kind == "contentBlockStart":
            if event.start is not None and event.start.tool_use is not None:
                self._call(batch, event.content_block_index, event.start.tool_use)
        elif kind == "contentBlockStop":
            self._end(batch, event.content_block_index)
        elif kind == "messageStop":
            if not event.stop_reason:
                raise protocol_error(self._integration, "the message ends for no reason")
            self._stop_reason = event.stop_reason
        elif self._stop_reason is None:
            raise protocol_error(self._integration, "the count of tokens before the end of the message")
        else:
            self._take_usage(event.usage)
            self._complete(batch)

    def _start(self, batch: pb.GenerateResponse) -> None:
        self._started = True
        started = batch.events.add().started
        started.vendor_request_id = self._request_id
        started.model = self._model

    def _begin(self, index: int, kind: str) -> _Open:
        """Opens a block. Text that follows text is the same block of ours."""
        if not (kind == "text" and self._last_kind == "text"):
            self._next += 1
            self._text_bytes = 0
        self._last_kind = kind
        found = self._open[index] = _Open(kind, self._next - 1, self._text_bytes)
        return found

    def _call(self, batch: pb.GenerateResponse, index: int, call: Call) -> None:
        if call.type == _SERVER_SIDE:
            self._skipped.add(index)
            return
        if index in self._open or not call.tool_use_id or not call.name:
            raise protocol_error(self._integration, "a tool call begins without its id or name, or twice")
        found = self._begin(index, "tool_use")
        delta = batch.events.add().tool_call_delta
        delta.block_index = found.block
        delta.id = call.tool_use_id
        delta.name = call.name
        if call.input is not None:
            found.pieces = 1
            delta.arguments_json = msgspec.json.encode(call.input).decode()

    def _delta(self, batch: pb.GenerateResponse, index: int, delta: Delta) -> None:
        found = self._open.get(index)
        if delta.text is not None:
            if self._joined is not found or found is None:
                self._join(batch)
                found = self._joined = self._of_kind(index, "text")
            self._pieces.append(delta.text)
        elif delta.citation is not None:
            if found is None:
                self._join(batch)
            self._of_kind(index, "text").citations.append(delta.citation)
        elif delta.reasoning_content is not None:
            self._join(batch)
            self._reasoning(batch, self._of_kind(index, "reasoning"), delta.reasoning_content)
        elif delta.tool_use is not None and index not in self._skipped:
            self._join(batch)
            if found is None or found.kind != "tool_use":
                raise protocol_error(self._integration, "a delta of no tool call")
            if delta.tool_use.input:
                found.pieces += 1
                call = batch.events.add().tool_call_delta
                call.block_index = found.block
                call.arguments_json = delta.tool_use.input

    def _of_kind(self, index: int, kind: str) -> _Open:
        """Returns the block, which begins with its first delta."""
        found = self._open.get(index) or self._begin(index, kind)
        if found.kind != kind:
            raise protocol_error(self._integration, "a delta of another kind than its block")
        return found

    def _reasoning(self, batch: pb.GenerateResponse, found: _Open, delta: ReasoningDelta) -> None:
        state = (delta.signature or "").encode()
        if delta.redacted_content is not None:
            state += delta.redacted_content if found.pieces else REDACTED + delta.redacted_content
            found.pieces += 1
        if delta.text or state:
            thought = batch.events.add().reasoning_delta
            thought.block_index = found.block
            thought.text = delta.text or ""
            thought.state = state

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

    def _cite(self, batch: pb.GenerateResponse, found: _Open, citation: Citation) -> None:
        """Adds a citation of the whole of the vendor's block, which is what it stands for."""
        place = citation.location.search_result_location if citation.location is not None else None
        if place is None or not 0 <= place.search_result_index < len(self._sources):
            return
        source = self._sources[place.search_result_index]
        # The vendor does not say whether `end` is part of the range; Anthropic, whose form it is, leaves it out.
        blocks = source.blocks[max(place.start, 0) : max(place.end, place.start + 1)]
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

    def _take_usage(self, usage: Usage | None) -> None:
        """Takes the count. The vendor's count of input leaves cached tokens out; ours includes them."""
        if usage is None:
            return
        cached = usage.cache_read_input_tokens or 0
        self._usage = usage_pb2.Usage(
            input_tokens=usage.input_tokens + cached + (usage.cache_write_input_tokens or 0),
            cached_input_tokens=cached,
            output_tokens=usage.output_tokens,
            source=usage_pb2.USAGE_SOURCE_PROVIDER,
        )

    def _complete(self, batch: pb.GenerateResponse) -> None:
        if any(found.kind == "tool_use" for found in self._open.values()):
            raise protocol_error(self._integration, "the message ends before its tool calls do")
        for index in list(self._open):
            self._end(batch, index)
        completed = batch.events.add().completed
        completed.finish_reason = _FINISH.get(self._stop_reason or "", usage_pb2.FINISH_REASON_UNSPECIFIED)
        completed.raw_finish_reason = self._stop_reason or ""
        if self._usage is not None:
            completed.usage.CopyFrom(self._usage)
        self.done = True


def _failure(frame: Frame) -> dict[str, Any]:
    """Returns what a failure inside the stream says, with its type where a refused request has it."""
    try:
        body = msgspec.json.decode(frame.payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = None  # an error without exception has no body; its code is in the headers
    return {**(body if isinstance(body, dict) else {}), "__type": frame.kind}
