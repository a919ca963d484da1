"""One attempt as the servicer guards it: the order of events, and limits of time.

A stream holds exactly one `Started`, first, and exactly one `Completed`, last. Whatever an adapter does, the receiver
never sees another order: what breaks it is not passed on, and the attempt fails.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from sluice.chat.v1 import event_pb2, usage_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import SluiceError, make_error
from sluice_kit.ports import Send
from sluice_kit.telemetry.spans import NO_SPAN, Span
from sluice_providers import tokens
from sluice_providers.tracing import tell_usage

_CONTENT: Final = frozenset({"text_delta", "reasoning_delta", "tool_call_delta", "citation_delta"})
_ALLOWED: Final = _CONTENT | {"started", "usage_update", "completed", "notice"}


class Attempt:
    """The emitter of one attempt. `run` with the adapter's coroutine; then the attempt is whole, or it raised."""

    def __init__(
        self,
        integration: str,
        request: pb.GenerateRequest,
        send: Send,
        *,
        notices: Sequence[event_pb2.Event] = (),
        ttft: float,
        idle: float,
        deadline: float | None,
        queued: bool = False,
    ) -> None:
        """`queued` says that the vendor may hold the request back in a queue: then silence alone is limited."""
        self._integration = integration
        self._request = request
        self._send = send
        self._notices = notices  # sent right behind `Started`
        self._ttft = ttft
        self._idle = idle
        self._deadline = deadline
        self._queued = queued
        self.span: Span = NO_SPAN
        """What traces show of it."""
        self._model = ""
        self._loop = asyncio.get_running_loop()
        self._begun = self._last = self._loop.time()
        self._sending = False  # the receiver holds us up: not the vendor's silence
        self._started = self._content = self._completed = False
        self._bytes = 0
        self._usage: usage_pb2.Usage | None = None
        self._limit = ""
        self._scope = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    def touch(self) -> None:
        """Says that the vendor is alive though it sent no event."""
        self._last = self._loop.time()

    async def emit(self, batch: pb.GenerateResponse) -> None:
        """Passes events on; see Emitter."""
        fresh = not self._started
        empty = False
        for event in batch.events:
            empty = self._check(event) or empty
        if fresh and self._started and self._notices:
            batch = pb.GenerateResponse(events=[batch.events[0], *self._notices, *batch.events[1:]])
        if empty:
            await self._finish_empty(batch)
        waiting = self._send(batch)
        if waiting is not None:
            self._sending = True
            try:
                await waiting
            finally:
                self._sending = False
        self._last = self._loop.time()

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Awaits the adapter's work under the limits, and checks that it is whole at its end. Raises SluiceError."""
        try:
            async with self._scope:
                self._watch()
                await work
        except TimeoutError:
            if not self._scope.expired():
                raise
            if not self._completed:
                raise self._overdue() from None
            # Whatever it still did: the answer is whole, and its end was passed on.
        finally:
            if self._timer is not None:
                self._timer.cancel()
        if not self._completed:
            raise self._broken("the stream ended without its terminal marker")

    def _check(self, event: event_pb2.Event) -> bool:
        """Checks one event against the order. Returns True for a `Completed` after no content."""
        kind = event.WhichOneof("kind")
        if self._completed:
            raise self._broken("events after the terminal one")
        if kind not in _ALLOWED:
            raise self._broken(f"an event that adapters may not send: {kind}")
        if kind == "started":
            if self._started:
                raise self._broken("the stream started twice")
            self._started = True
            self._model = event.started.model
            return False
        if not self._started:
            raise self._broken("an event before the start of the stream")
        if kind == "text_delta":
            self._content = True
            self._bytes += len(event.text_delta.text)
        elif kind in _CONTENT:
            self._content = True
            self._bytes += event.ByteSize()
        elif kind == "usage_update" and event.usage_update.usage.source:
            self._usage = event.usage_update.usage
        elif kind == "completed":
            self._completed = True
            if not event.completed.usage.source:
                usage = self._usage or tokens.estimate_usage(self._request, self._bytes)
                event.completed.usage.CopyFrom(usage)
            tell_usage(self.span, event.completed.usage, self._model)
            return not self._content
        return False

    async def _finish_empty(self, batch: pb.GenerateResponse) -> None:
        """Ends an attempt without content: what it used still reaches the ledger."""
        completed = batch.events[len(batch.events) - 1].completed
        rest = pb.GenerateResponse(events=batch.events[:-1])
        rest.events.add().usage_update.usage.CopyFrom(completed.usage)
        waiting = self._send(rest)
        if waiting is not None:
            await waiting
        if completed.finish_reason == usage_pb2.FINISH_REASON_CONTENT_FILTER:
            raise self._error(ErrorReason.ERROR_REASON_CONTENT_FILTERED, "the vendor withheld the answer by its policy")
        raise self._error(ErrorReason.ERROR_REASON_EMPTY_RESPONSE, "the vendor ended the answer without any content")

    def _watch(self) -> None:
        """Looks whether a limit is passed, and comes back when the next one may be.

        One timer for each attempt, moved rarely: a timer for each read would cost more than the read.
        """
        now = self._loop.time()
        waited_since = now if self._sending else self._last
        running = self._content or self._queued
        due = waited_since + self._idle if running else self._begun + self._ttft
        if self._deadline is not None and self._deadline <= now:
            self._limit = "deadline"
        elif due <= now:
            self._limit = "idle" if running else "ttft"
        if self._limit:
            self._scope.reschedule(now)
            return
        if self._deadline is not None:
            due = min(due, self._deadline)
        # Before the first content, look again after the idle limit at the latest: it may count by then.
        self._timer = self._loop.call_at(min(due, now + self._idle), self._watch)

    def _overdue(self) -> SluiceError:
        if self._limit == "deadline":
            return make_error(ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED, "the call's deadline passed")
        what = "its first content" if self._limit == "ttft" else "more of the answer"
        seconds = self._ttft if self._limit == "ttft" else self._idle
        return self._error(
            ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT,
            f"{self._integration} was waited for {seconds:g} s for {what}",
            limit=self._limit,
        )

    def _broken(self, what: str) -> SluiceError:
        return self._error(ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR, f"{self._integration}: {what}")

    def _error(self, reason: "ErrorReason.ValueType", message: str, **metadata: str) -> SluiceError:
        return make_error(reason, message, metadata={"provider": self._integration} | metadata)
