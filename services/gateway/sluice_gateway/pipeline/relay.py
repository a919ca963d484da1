"""Relay: checks each batch of an attempt once, and hands its events to the response."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sluice.chat.v1.event_pb2 import Completed, Event
from sluice.chat.v1.usage_pb2 import Usage
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1.provider_service_pb2 import GenerateResponse
from sluice_gateway.pipeline.citations import CitationCollector
from sluice_gateway.responses.response import Response
from sluice_kit.errors import SluiceError, make_error
from sluice_kit.telemetry import current

if TYPE_CHECKING:
    from sluice_gateway.pipeline.attempt import AttemptRecord


class Relay:
    """Between one attempt and its response.

    Until the first content the events are held, so that an attempt that fails before it leaves no trace in the stream;
    the first content commits. `Completed` is kept back for the settlement, and the model's citation claims for their
    check. Everything else is passed on as it is, in order; what came in one batch with `Completed` leaves in one message
    with the response's own, unless citations have to be checked between the two.
    """

    __slots__ = (
        "_held",
        "_loop",
        "_meter",
        "_response",
        "_started",
        "collector",
        "committed",
        "completed",
        "first_sequence",
        "gate",
        "last_batch",
        "lost",
        "preamble",
        "prove_chars",
        "record",
        "tail",
    )

    def __init__(self, response: Response, record: "AttemptRecord", collector: CitationCollector | None) -> None:
        self._response = response
        self._held: list[Event] = []
        self._started = False
        self._loop = asyncio.get_running_loop()
        self._meter = current().stream()
        self.record = record
        self.collector = collector
        """What the answer cites; None where it was given nothing to cite."""
        self.committed = False
        self.gate: Callable[[], bool] | None = None
        """Is asked with the first content whether it may be shown; no means that another attempt was faster."""
        self.lost = False
        """Whether it was."""
        self.prove_chars = 0
        """Content is held until there is so much of it, or the attempt is complete; 0: it is not held."""
        self.preamble: tuple[Event, ...] = ()
        """Events of the gateway's own that come with the first content, before it."""
        self.first_sequence = 0
        """Number of the first event that was shown; 0 before the first content."""
        self.completed: Completed | None = None
        self.last_batch = 0.0
        self.tail: list[Event] = []
        """What is left to be shown before the response's `Completed`."""

    def deliver(self, batch: GenerateResponse) -> Awaitable[None] | None:
        """Takes a batch. What it returns, if anything, is done when there is room for more.

        Raises UPSTREAM_PROTOCOL_ERROR if the adapter breaks the order of events or sends one that is not its to send.
        """
        self.last_batch = self._loop.time()
        events = batch.events
        if not events:
            return None
        if self.completed is not None:
            raise self._violation("sent more after its end")
        record = self.record
        content = drop = False
        for event in events:
            kind = event.WhichOneof("kind")
            if kind == "text_delta":
                delta = event.text_delta
                record.output_bytes += len(delta.text)
                content = True
                if self.collector is not None:
                    self.collector.text(delta)
            elif kind == "reasoning_delta":
                record.output_bytes += len(event.reasoning_delta.text)
                content = True
            elif kind == "tool_call_delta":
                record.output_bytes += len(event.tool_call_delta.arguments_json) + len(event.tool_call_delta.input_text)
                content = True
            elif kind == "citation_delta":
                content = drop = True
                if self.collector is not None:
                    self.collector.claim(event.citation_delta)
            elif kind == "usage_update":
                record.usage = Usage.FromString(event.usage_update.usage.SerializeToString())
            elif kind == "completed":
                if event is not events[-1]:
                    raise self._violation("sent more after its end")
                self.completed = event.completed
                drop = True
            elif kind == "started":
                if self._started:
                    raise self._violation("started twice")
                self._started = True
            elif kind != "notice":
                raise self._violation(f"sent an event that is not an adapter's ({kind or 'unknown'})")
            if not self._started and kind != "notice":
                raise self._violation("sent events before it started")
        if content and record.ttft is None:
            record.ttft = self.last_batch - record.started
        if content and self._meter is not None:
            self._meter.batch(self.last_batch, len(events))
        if self.committed:
            if not drop:
                # The usual case: the whole batch goes on, written once for the log and every watcher.
                behind = self._response.append(len(events), batch.SerializeToString())
                return self._response.room() if behind else None
            return self._pass_on([event for event in events if not _is_kept_back(event)])
        self._held.extend(event for event in events if not _is_kept_back(event))
        if self.prove_chars:
            if record.ttft is None or (record.output_bytes < self.prove_chars and self.completed is None):
                return None
        elif not content:
            return None
        if self.gate is not None and not self.gate():
            self.lost = True
            self._held.clear()
            return None
        self.committed = True
        self._response.speaks()
        record.span.event("first content")
        self.first_sequence = self._response.sequence + 1
        held, self._held = [*self.preamble, *self._held], []
        return self._pass_on(held)

    def _pass_on(self, events: list[Event]) -> Awaitable[None] | None:
        if self.completed is not None and self.collector is None:
            self.tail = events
            return None
        return self._response.room() if events and self._response.emit(*events) else None

    def show_tail(self) -> None:
        """Shows what was kept for the end, where there is no proper end to show it with."""
        tail, self.tail = self.tail, []
        if tail:
            self._response.emit(*tail)

    def check_completed(self) -> None:
        """Is called when the attempt has ended without an error: raises unless it ended with its `Completed`."""
        if self.lost:
            raise asyncio.CancelledError  # it was cancelled, and ended before it could be told
        if self.completed is None:
            raise self._violation("ended without saying so")
        if not self.committed:
            raise make_error(
                ErrorReason.ERROR_REASON_EMPTY_RESPONSE,
                f"{self.record.target.provider} sent no content",
                metadata={"provider": self.record.target.provider},
            )

    async def verify(self) -> None:
        """Is called after that, for who has something to check of an answer as a whole. Raises what is wrong with it."""

    def _violation(self, what: str) -> SluiceError:
        provider = self.record.target.provider
        return make_error(
            ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR, f"{provider} {what}", metadata={"provider": provider}
        )


def _is_kept_back(event: Event) -> bool:
    return event.WhichOneof("kind") in ("completed", "citation_delta")
