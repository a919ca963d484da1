"""Reads replies of the Responses interface: the stream of events, and the one whole response.

This is the token path: each event is decoded once, into a struct that names only the fields needed, and text that one
read brought in several events leaves as one delta. What comes whole, as an item that ends or a response that was
polled for, adds only what was not read before; so an answer can be picked up again wherever it broke off.
"""

from typing import Final

import msgspec

from sluice.chat.v1 import event_pb2, usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_providers.failures import VendorError, protocol_error
from sluice_providers.wire.responses_request import Sealed, seal
from sluice_providers.wire.responses_types import (
    Event,
    Item,
    Response,
    Usage,
    decode_event,
    decode_item,
    decode_kind,
    decode_output,
    decode_response,
)

_FINISH: Final = {
    "max_output_tokens": usage_pb2.FINISH_REASON_LENGTH,
    "content_filter": usage_pb2.FINISH_REASON_CONTENT_FILTER,
}
_TERMINAL: Final = frozenset({"completed", "incomplete", "failed", "cancelled"})
_RUNNING: Final = frozenset({"queued", "in_progress"})
_DELTAS: Final = {
    "response.output_text.delta": "message",
    # A refusal is the model's own words why it does not answer: text to the reader.
    "response.refusal.delta": "message",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.reasoning_text.delta": "reasoning",
    "response.function_call_arguments.delta": "function_call",
    "response.custom_tool_call_input.delta": "custom_tool_call",
}
"""What piece of which kind of item an event brings."""
_CALLS: Final = frozenset({"function_call", "custom_tool_call"})
_PARAGRAPH: Final = "\n\n"
"""Between the parts of a summary, which the vendor numbers and does not part."""


class _Open:
    """An item of the answer, and how much of it was passed on."""

    __slots__ = ("block", "kind", "open_part", "open_sent", "part", "sealed", "sent")

    def __init__(self, kind: str, block: int) -> None:
        self.kind = kind
        self.block = block
        self.sent = 0  # characters of its text, summary, arguments or input
        self.open_sent = 0  # characters of reasoning that is no summary
        self.part = 0  # of the summary
        self.open_part = 0
        self.sealed = False


class ResponsesStream:
    """Translates the events of one response.

    `done` is set by the event of a response that is completed or incomplete, and by nothing else; `over` by every end
    of the response at the vendor, failures included.
    """

    __slots__ = (
        "_calls", "_integration", "_items", "_joined", "_joined_open", "_pieces", "_read_before", "_request_id",
        "_started", "_stored", "alive", "done", "over", "response_id", "sequence",
    )  # fmt: skip  # names read better side by side

    def __init__(self, integration: str, request_id: str, *, stored: bool = False) -> None:
        self._integration = integration
        self._request_id = request_id
        self._stored = stored
        self._started = False
        self._items: dict[int, _Open] = {}  # by their number in the response's output
        self._calls = False
        self._joined: _Open | None = None
        self._joined_open = False
        self._pieces: list[str] = []
        self._read_before = -1
        self.response_id = ""
        """The vendor's id of the response; empty until it is known."""
        self.sequence = -1
        """Number of the last event that was read; -1 where the vendor numbers none."""
        self.done = False
        self.over = False
        self.alive = False

    def resume(self) -> None:
        """Gets ready for another stream of the same response: events that were read before are read over."""
        self._read_before = self.sequence

    def translate(self, payloads: list[bytes]) -> pb.GenerateResponse:
        """Returns the events of some payloads. Raises VendorError, msgspec.DecodeError, SluiceError."""
        batch = pb.GenerateResponse()
        self.alive = False
        for payload in payloads:
            event = decode_event(payload)
            number = event.sequence_number
            if number is not None:
                if number <= self._read_before:
                    continue
                self.sequence = number
            kind = _DELTAS.get(event.type)
            if kind is None:
                self._join(batch)
                self._other(batch, event)
                if self.done:
                    return batch
            elif type(event.delta) is not str:
                raise protocol_error(self._integration, "a delta without text")
            elif kind == "reasoning":
                self._reasoning(batch, event)
            else:
                found = self._items.get(event.output_index)
                if found is None or found.kind != kind:
                    found = self._item(event.output_index, kind)
                if self._joined is not found:
                    self._join(batch)
                    self._joined = found
                self._pieces.append(event.delta)
        self._join(batch)
        return batch

    def ended(self) -> None:
        """The format has terminal events of its own: an end without one is a failure."""

    def translate_whole(self, payload: bytes) -> pb.GenerateResponse:
        """Returns the events of a response that came whole. Raises like `translate`."""
        batch = self.polled(payload)
        if not self.done:
            raise protocol_error(self._integration, "a reply that is not finished")
        return batch

    def polled(self, payload: bytes) -> pb.GenerateResponse:
        """Returns what a response adds to what was read before: nothing until it has ended. Raises like `translate`."""
        response = decode_response(payload)
        status = response.status or ""
        batch = pb.GenerateResponse()
        if status not in _TERMINAL and status not in _RUNNING:
            if response.error:
                raise VendorError({"error": response.error})
            raise protocol_error(self._integration, "a response without its status")
        self._start(batch, response)
        if status in _TERMINAL:
            self._fail(response, status)
            for index, raw in enumerate(decode_output(response.output)):
                self._ended_item(batch, index, raw)
            self._complete(batch, response, status)
        return batch

    def _other(self, batch: pb.GenerateResponse, event: Event) -> None:
        """Every event but deltas."""
        kind = event.type
        if kind == "response.output_item.added":
            self._added_item(batch, event.output_index, event.item)
        elif kind == "response.output_item.done":
            self._ended_item(batch, event.output_index, event.item)
        elif kind in ("response.created", "response.queued", "response.in_progress"):
            if event.response is None:
                raise protocol_error(self._integration, "the response does not start as it should")
            self._start(batch, event.response)
            self.alive = True
        elif kind == "error" or (not kind and event.error):
            # Documented flat, and seen with the error in a field of its own.
            raise VendorError({"error": event.error or {"code": event.code}})
        elif kind.startswith("response.") and kind.removeprefix("response.") in _TERMINAL:
            if event.response is None:
                raise protocol_error(self._integration, "the response does not end as it should")
            self._start(batch, event.response)
            status = kind.removeprefix("response.")
            self._fail(event.response, status)
            self._complete(batch, event.response, status)

    def _start(self, batch: pb.GenerateResponse, response: Response) -> None:
        if self._started:
            return
        self._started = True
        self.response_id = response.id or ""
        started = batch.events.add().started
        started.vendor_request_id = self._request_id or self.response_id
        started.model = response.model or ""

    def _item(self, index: int, kind: str) -> _Open:
        """Returns the item of a number, which is a new block where it is not known."""
        found = self._items.get(index)
        if found is None:
            if kind in _CALLS:
                raise protocol_error(self._integration, "a piece of a tool call that did not begin")
            found = self._items[index] = _Open(kind, len(self._items))
        elif found.kind != kind:
            raise protocol_error(self._integration, "a delta of another kind than its item")
        return found

    def _reasoning(self, batch: pb.GenerateResponse, event: Event) -> None:
        found = self._item(event.output_index, "reasoning")
        is_open = event.type == "response.reasoning_text.delta"
        if self._joined is not found or self._joined_open != is_open:
            self._join(batch)
            self._joined, self._joined_open = found, is_open
        part = event.content_index if is_open else event.summary_index
        if part > (found.open_part if is_open else found.part):
            self._pieces.append(_PARAGRAPH)
        if is_open:
            found.open_part = part
        else:
            found.part = part
        self._pieces.append(event.delta)

    def _added_item(self, batch: pb.GenerateResponse, index: int, raw: msgspec.Raw) -> None:
        kind = decode_kind(raw).type
        if kind in _CALLS:
            self._begin_call(batch, index, kind, decode_item(raw))

    def _begin_call(self, batch: pb.GenerateResponse, index: int, kind: str, item: Item) -> _Open:
        if not item.call_id or not item.name:
            raise protocol_error(self._integration, "a tool call begins without its id or name")
        if index in self._items:
            raise protocol_error(self._integration, "a tool call begins twice")
        self._calls = True
        found = self._items[index] = _Open(kind, len(self._items))
        call = batch.events.add().tool_call_delta
        call.block_index = found.block
        call.id = item.call_id
        call.name = item.name
        if kind == "custom_tool_call":
            call.input_text = ""
        else:
            call.arguments_json = ""
        return found

    def _ended_item(self, batch: pb.GenerateResponse, index: int, raw: msgspec.Raw) -> None:
        """Adds what of an item was not passed on yet, and the seal of reasoning."""
        kind = decode_kind(raw).type
        if kind not in ("message", "reasoning", *_CALLS):
            return
        item = decode_item(raw)
        if kind in _CALLS:
            found = self._items.get(index) or self._begin_call(batch, index, kind, item)
            whole = item.input if kind == "custom_tool_call" else item.arguments or "{}"
        else:
            found = self._item(index, kind)
            if kind == "message":
                whole = "".join(part.text or part.refusal for part in item.content or ())
            else:
                whole = _PARAGRAPH.join(part.text for part in item.summary or ())
                self._rest(batch, found, _PARAGRAPH.join(part.text for part in item.content or ()), is_open=True)
        self._rest(batch, found, whole)
        if kind == "reasoning" and not found.sealed:
            self._seal(batch, found, item)

    def _rest(self, batch: pb.GenerateResponse, found: _Open, whole: str, *, is_open: bool = False) -> None:
        rest = whole[found.open_sent if is_open else found.sent :]
        if rest:
            self._joined, self._joined_open = found, is_open
            self._pieces.append(rest)
            self._join(batch)

    def _seal(self, batch: pb.GenerateResponse, found: _Open, item: Item) -> None:
        """Adds the state that brings a reasoning item back, where anything can."""
        found.sealed = True
        is_open = found.open_sent > 0 and not found.sent
        if item.id and (item.encrypted_content is not None or self._stored or is_open):
            sealed = batch.events.add().reasoning_delta
            sealed.block_index = found.block
            sealed.state = seal(Sealed(item.id, item.encrypted_content, is_open))

    def _join(self, batch: pb.GenerateResponse) -> None:
        """Adds the event of the text that was joined."""
        pieces = self._pieces
        found = self._joined
        if not pieces or found is None:
            return
        text = pieces[0] if len(pieces) == 1 else "".join(pieces)
        pieces.clear()
        is_open, self._joined, self._joined_open = self._joined_open, None, False
        if not text:
            return
        if is_open:
            found.open_sent += len(text)
        else:
            found.sent += len(text)
        event = batch.events.add()
        if found.kind == "message":
            event.text_delta.block_index = found.block
            event.text_delta.text = text
        elif found.kind == "reasoning":
            event.reasoning_delta.block_index = found.block
            event.reasoning_delta.text = text
        elif found.kind == "function_call":
            event.tool_call_delta.block_index = found.block
            event.tool_call_delta.arguments_json = text
        else:
            event.tool_call_delta.block_index = found.block
            event.tool_call_delta.input_text = text

    def _fail(self, response: Response, status: str) -> None:
        """Notes that the response has ended. Raises VendorError if it failed."""
        self.over = True
        if status in ("failed", "cancelled"):
            raise VendorError({"error": response.error or {}})

    def _complete(self, batch: pb.GenerateResponse, response: Response, status: str) -> None:
        completed = batch.events.add().completed
        if status == "incomplete":
            reason = (response.incomplete_details.reason if response.incomplete_details else None) or status
            completed.finish_reason = _FINISH.get(reason, usage_pb2.FINISH_REASON_UNSPECIFIED)
            completed.raw_finish_reason = reason
        else:
            # The status is the same; but calls wait for their results.
            calls = usage_pb2.FINISH_REASON_TOOL_CALLS
            completed.finish_reason = calls if self._calls else usage_pb2.FINISH_REASON_STOP
            completed.raw_finish_reason = status
        if response.usage is not None:
            _fill(completed, response.usage)
        self.done = True


def _fill(completed: event_pb2.Completed, usage: Usage) -> None:
    target = completed.usage
    target.source = usage_pb2.USAGE_SOURCE_PROVIDER
    target.input_tokens = usage.input_tokens or 0
    target.output_tokens = usage.output_tokens or 0
    if usage.input_tokens_details is not None:
        target.cached_input_tokens = usage.input_tokens_details.cached_tokens or 0
    if usage.output_tokens_details is not None:
        target.reasoning_tokens = usage.output_tokens_details.reasoning_tokens or 0
