"""One response: its state, its log, those who watch it, and the task that generates it.

A generation belongs to its response, not to a call. Calls watch: the first one is the caller that asked, others come
by ResumeChat or by repeating the request id. When the last watcher leaves, the response is cancelled at once, or after
its grace, or never (`background`).
"""

import asyncio
import enum
import time
from collections.abc import Callable, Iterable
from typing import Any

from sluice.auth.v1.identity_pb2 import Identity
from sluice.chat.v1.event_pb2 import Event
from sluice.gateway.v1.chat_service_pb2 import Answer
from sluice_gateway.responses.log import Batch, ResponseLog, pack, unpack
from sluice_gateway.responses.store import Ended, Writer, lost
from sluice_kit.errors import CancelledByOwnerError, SluiceError, forget_frames
from sluice_kit.fold import Fold
from sluice_kit.telemetry import current
from sluice_kit.telemetry.spans import NO_SPAN, Span


class State(enum.Enum):
    """Where a response stands; the names are those of ResponseState in the contract."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Watcher:
    """One call that reads a response."""

    __slots__ = ("cursor", "idle_since", "position", "scope", "unnumbered", "wake", "writing_since")

    def __init__(self, cursor: int, position: int, now: float) -> None:
        self.cursor = cursor
        """Number of the last event it was sent."""
        self.position = position
        """Bytes of the log it was sent, counted like ResponseLog.written."""
        self.wake: asyncio.Future[None] | None = None
        self.writing_since: float | None = None
        self.idle_since = now
        self.scope: asyncio.Timeout | None = None
        self.unnumbered: bytes | None = None
        """A message to send when there is no event to send, instead of a heartbeat."""


class Response:
    """One response. All methods are for the event loop's thread."""

    __slots__ = (
        "_condensed",
        "_fold",
        "_grace_timer",
        "_loop",
        "_on_end",
        "_on_growth",
        "_queue_bytes",
        "_room",
        "accept_time_ns",
        "background",
        "cancelling",
        "conversation",
        "done",
        "end_time",
        "ended",
        "error",
        "fingerprint",
        "grace",
        "id",
        "identity",
        "key",
        "labels",
        "log",
        "overruled",
        "remote",
        "row_key",
        "span",
        "spoke",
        "state",
        "task",
        "watchers",
        "writer",
    )

    def __init__(
        self,
        response_id: str,
        identity: Identity,
        *,
        row_key: int,
        log_bytes: int,
        queue_bytes: int,
        grace: float = 0.0,
        background: bool = False,
        on_growth: Callable[[int], None],
        on_end: Callable[["Response"], None],
    ) -> None:
        self.id = response_id
        self.identity = identity
        self.key: tuple[str, str, str] | None = None
        self.fingerprint = b""
        self.row_key = row_key
        """Key of its row in the ledger."""
        self.conversation = ""
        """Resource name of the conversation it belongs to. Empty: none."""
        self.labels = "{}"
        """Those of the request, as rows of the ledger hold them."""
        self.log = ResponseLog(log_bytes, self.name)
        self.writer: Writer | None = None
        """Brings events into a store before watchers get them. None: there is no store, or it is no more."""
        self.remote = False
        """Another gateway makes it; this is what is read of it."""
        self.state = State.RUNNING
        """Where it stands. With a writer it is decided a moment before anybody is told."""
        self.ended = False
        """Whether it has ended for whoever watches."""
        self.overruled = False
        """It ended otherwise than it was decided, because its log was lost."""
        self.error: SluiceError | None = None
        self.watchers: set[Watcher] = set()
        self.grace = grace
        self.background = background
        self.accept_time_ns = time.time_ns()
        self.span: Span = NO_SPAN
        """What traces show of it."""
        self.spoke = False
        """Whether it has shown content."""
        self.end_time = 0.0
        self.task: asyncio.Task[Any] | None = None
        self.cancelling: SluiceError | None = None
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._queue_bytes = queue_bytes
        self._on_growth = on_growth
        self._on_end = on_end
        self._fold: Fold | None = None
        self._condensed: bytes | None = None
        self._grace_timer: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"responses/{self.id}"

    @property
    def operation(self) -> str:
        """What it is called in the ledger."""
        return "chat"

    @property
    def tenant(self) -> str:
        """The tenant that owns it."""
        return self.identity.tenant

    def age(self) -> float:
        """Returns the seconds since it was accepted."""
        return max(0.0, (time.time_ns() - self.accept_time_ns) * 1e-9)

    def speaks(self) -> None:
        """Is told with the first content of each attempt that shows some."""
        if not self.spoke:
            self.spoke = True
            current().first_content(self.age())

    def emit(self, *events: Event) -> bool:
        """Numbers events and hands them to every watcher; see `append`."""
        return self.append(len(events), pack(list(events)))

    def append(self, count: int, body: bytes) -> bool:
        """Numbers `count` serialised events and hands them to every watcher.

        Returns whether a watcher, or the store, is too far behind; whoever can wait then awaits `room`.
        """
        if self.writer is not None:
            self.writer.put(count, body)
            return self._is_behind()
        if self.overruled:
            return False  # nothing follows an end, also while what makes it is still being cancelled
        return self.take(count, body)

    def take(self, count: int, body: bytes) -> bool:
        """Numbers events that are in the log for good, and hands them to every watcher; see `append`."""
        log = self.log
        log.append(count, body)
        # What the log forgets is folded, not given back, so it counts on.
        self._on_growth(len(body))
        if log.size > log.limit:
            self._trim()
        lagging = False
        for watcher in self.watchers:
            wake = watcher.wake
            if wake is not None:
                watcher.wake = None
                if not wake.done():
                    wake.set_result(None)
            if log.written - watcher.position > self._queue_bytes:
                lagging = True
        return lagging

    async def room(self) -> None:
        """Waits until nobody is too far behind any more."""
        while self.state is State.RUNNING and self._is_behind():
            self._room = self._loop.create_future()
            await self._room

    def _is_behind(self) -> bool:
        if self.writer is not None and self.writer.backlog > self._queue_bytes:
            return True
        return any(self.log.written - watcher.position > self._queue_bytes for watcher in self.watchers)

    @property
    def sequence(self) -> int:
        """Number of the last event that was appended, whether the store has taken it yet or not."""
        return self.log.last_sequence + (0 if self.writer is None else self.writer.events)

    async def settled(self) -> None:
        """Waits until the log holds all that was appended, for whoever is about to read it."""
        if self.writer is not None:
            await self.writer.drained()

    def progressed(self) -> None:
        """Is told by a watcher that it was sent more, or left."""
        room = self._room
        if room is not None:
            self._room = None
            if not room.done():
                room.set_result(None)

    def finish(self, state: State, error: SluiceError | None = None) -> None:
        """Ends the response. Only the first end counts."""
        if self.state is not State.RUNNING:
            return
        self.state = state
        if error is not None:
            forget_frames(error)  # it is kept, and raised for every watcher
        self.error = error
        self.end_time = self._loop.time()
        if self._grace_timer is not None:
            self._grace_timer.cancel()
            self._grace_timer = None
        if self.writer is not None:
            self.writer.finish(Ended(state, error))
        else:
            self.tell_end()

    def overrule(self, error: SluiceError) -> None:
        """Ends the response as failed although it was, or would have been, decided otherwise: its log is lost."""
        if self.ended:
            return
        self.state, self.error, self.overruled = State.FAILED, error, True
        self.end_time = self._loop.time()
        if self.task is not None and not self.task.done():
            self.cancelling = error
            self.task.cancel()
        self.tell_end()

    def tell_end(self) -> None:
        """Ends it for whoever watches, after all its events."""
        self.log.close()
        self.ended = True
        self.done.set_result(None)
        for watcher in self.watchers:
            if watcher.wake is not None and not watcher.wake.done():
                watcher.wake.set_result(None)
        self.progressed()
        self._on_end(self)

    def cancel(self, error: SluiceError | None = None) -> None:
        """Ends the generation; `error` (unset: CANCELLED) is what watchers will be told."""
        if self.state is not State.RUNNING or self.cancelling is not None:
            return
        self.cancelling = error or CancelledByOwnerError("the response was cancelled")
        if self.task is not None:
            self.task.cancel()

    def abandoned(self) -> None:
        """Ends it where what makes it has ended and did not."""
        if self.state is State.RUNNING:
            self.finish(*self.cancelled_as())

    def cancelled_as(self) -> tuple[State, SluiceError]:
        """Returns how it ends if its task was cancelled: by its owner, or because its gateway stops."""
        error = self.cancelling or lost(self.name)
        return State.CANCELLED if isinstance(error, CancelledByOwnerError) else State.FAILED, error

    def attach(self, after: int) -> Watcher:
        """Adds a watcher that has the events up to `after`."""
        log = self.log
        ahead = (
            sum(len(batch.body) for batch in log.batches() if batch.first > after) if after < log.last_sequence else 0
        )
        watcher = Watcher(after, log.written - ahead, self._loop.time())
        self.watchers.add(watcher)
        if self._grace_timer is not None:
            self._grace_timer.cancel()
            self._grace_timer = None
        return watcher

    def detach(self, watcher: Watcher) -> None:
        """Removes a watcher; the last one's leaving starts the grace."""
        self.watchers.discard(watcher)
        self.progressed()
        if self.watchers or self.state is not State.RUNNING or self.background:
            return
        if self.grace > 0:
            self._grace_timer = self._loop.call_later(self.grace, self._grace_passed)
        else:
            self.cancel(CancelledByOwnerError("the client left"))

    def _grace_passed(self) -> None:
        self._grace_timer = None
        if not self.watchers:
            self.cancel(CancelledByOwnerError("no watcher came back within the grace"))

    def _trim(self) -> None:
        needed = 1 + min((watcher.cursor for watcher in self.watchers), default=self.log.last_sequence)
        forgotten = self.log.trim(needed)
        if forgotten:
            if self._fold is None:
                self._fold = Fold()
            _add(self._fold, forgotten)

    @property
    def size(self) -> int:
        """Bytes that it holds, about: of its events, or of the answer they were condensed to."""
        return self.log.written if self._condensed is None else len(self._condensed)

    def condense(self) -> None:
        """Forgets the events of an ended response and keeps the answer that they add up to."""
        self._condensed = self.answer().SerializeToString()
        self._fold = None
        self.log.clear()

    def keep_answer(self, answer: bytes) -> None:
        """Is given the serialised answer of a response that has ended, where that is known better than by its events."""
        self._condensed = answer

    def answer_with(self, first: int, count: int, body: bytes) -> bytes:
        """Returns the answer, serialised, as it is with these further events."""
        fold = Fold() if self._fold is None else self._fold.copy()
        _add(fold, self.log.batches())
        if count:
            _add(fold, [Batch(first, count, body)])
        return fold.answer().SerializeToString()

    def answer(self, *more: Event) -> Answer:
        """Returns the answer so far, whole even where the log has forgotten its beginning, or all of it.

        `more` are events that are about to come.
        """
        if self._condensed is not None:
            return Answer.FromString(self._condensed)
        fold = Fold() if self._fold is None else self._fold.copy()
        _add(fold, self.log.batches())
        for number, event in enumerate(more, self.log.last_sequence + 1):
            fold.add(number, event)
        return fold.answer()


def _add(fold: Fold, batches: Iterable[Batch]) -> None:
    for batch in batches:
        for number, event in enumerate(unpack(batch), batch.first):
            fold.add(number, event)
