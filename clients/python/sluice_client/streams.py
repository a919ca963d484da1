"""Streams of single, numbered events that outlive their connection."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import grpc

from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice.task.v1 import task_service_pb2 as task_pb
from sluice_client.events import NumberedEvent, NumberedTaskEvent
from sluice_client.failures import ClientClosedError, StreamProtocolError, read_failure
from sluice_client.reader import Reader, StreamingCall
from sluice_client.retry import Backoff, Deadline, RetryPolicy
from sluice_kit.errors import DeadlineError, SluiceError
from sluice_kit.fold import Fold

log = logging.getLogger(__name__)

ChatBatch = chat_pb.StreamChatResponse | chat_pb.ResumeChatResponse
M = TypeVar("M")
E = TypeVar("E", NumberedEvent, NumberedTaskEvent)

_CANCEL_SECONDS: Final = 3.0
"""How long leaving a stream waits for the gateway to confirm that the response was cancelled."""
_ENDED_TASKS: Final = frozenset({task_pb.TASK_STATE_SUCCEEDED, task_pb.TASK_STATE_FAILED, task_pb.TASK_STATE_CANCELLED})


class NumberedStream(ABC, Generic[M, E]):
    """What streams of events have in common: reading, opening again, and an orderly end.

    Iterate over it inside `async with`, so that leaving early ends what is still running.
    """

    def __init__(self, policy: RetryPolicy, timeout: float | None) -> None:
        self.last_sequence = 0
        """Number of the last event that this stream handed out; 0 before the first."""
        self.reconnects = 0
        """How often it went on over a new call."""
        self._policy = policy
        self._deadline = Deadline(timeout)
        self._backoff = Backoff(policy, self._deadline)
        self._ready: deque[E] = deque()
        self._received = 0
        self._reader: Reader[M] | None = None
        self._complete = False
        self._ended = False
        self._entered = False

    @abstractmethod
    def _open(self, timeout: float | None) -> StreamingCall[M]:
        """Opens the call that delivers what comes after `_received`."""

    @abstractmethod
    def _take(self, message: M) -> None:
        """Checks a message and queues its events."""

    @abstractmethod
    def _may_reopen(self) -> bool:
        """Whether a broken connection is followed by another one."""

    async def aclose(self) -> None:
        """Ends the connection. Called when the block of an `async with` is left."""
        self._ended = True
        self._ready.clear()
        await self._close_reader()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        try:
            while not self._ready:
                if self._ended:
                    raise StopAsyncIteration
                await self._fill()
        except (asyncio.CancelledError, DeadlineError):
            # Inside `async with` the block's end does this, after whatever else the caller does on the way out.
            if not self._entered:
                await self.aclose()
            raise
        item = self._ready.popleft()
        self.last_sequence = item.sequence
        return item

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _fill(self) -> None:
        """Waits for one message, or handles one end of a call."""
        if self._reader is None:
            self._deadline.check()
            self._reader = Reader(self._open(self._deadline.left()))
        try:
            message = await self._reader.next()
        except grpc.aio.AioRpcError as error:
            await self._close_reader()
            await self._recover(error)
            return
        except ClientClosedError:
            await self._close_reader()
            self._ended = True
            raise
        if message is not None:
            self._take(message)
            return
        await self._close_reader()
        self._ended = True
        if not self._complete:
            raise StreamProtocolError("the stream ended with status OK, but not with its last event")

    async def _recover(self, error: grpc.aio.AioRpcError) -> None:
        failure, broken = read_failure(error)
        try:
            if not broken or not self._may_reopen():
                self._ended = True
                self._note_end(failure, decided=not broken)
                raise failure from None
            try:
                await self._backoff.wait(failure)
            except SluiceError:
                self._ended = True
                # Out of reach for so long: what still runs there ends by its own grace.
                self._note_end(failure, decided=True)
                raise
            self.reconnects += 1
            log.debug("opening again", extra={"after_sequence": self._received, "reason": failure.reason_name})
        finally:
            # It holds this frame, and the ended call with its connection: none of it is to wait for garbage collection.
            del failure

    def _note_end(self, failure: SluiceError, *, decided: bool) -> None:
        """Is told of the failure that ends the stream; `decided` if it did not come from the connection."""

    def _expect(self, sequence: int) -> None:
        if sequence != self._received + 1:
            raise StreamProtocolError(f"expected event {self._received + 1}, but {sequence} came")
        if self._complete:
            raise StreamProtocolError(f"event {sequence} came after the last one")

    def _advance(self, sequence: int) -> None:
        self._received = sequence
        self._backoff.reset()

    async def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()


class ChatStream(NumberedStream[ChatBatch, NumberedEvent]):
    """The events of one answer.

    Yields every event that this client knows, numbered; heartbeats do not show, and kinds that it does not know are
    skipped but counted. It ends normally if and only if the last event was the only `Completed`; every other end is an
    exception. Leaving the block early, by `break`, an exception or the cancellation of the task, cancels the response;
    `detach()` prevents that.
    """

    def __init__(
        self,
        start: Callable[[float | None], StreamingCall[ChatBatch]] | None,
        resume: Callable[[str, int, float | None], StreamingCall[ChatBatch]],
        cancel: Callable[[str, float], Awaitable[None]],
        *,
        policy: RetryPolicy,
        grace: float | None,
        timeout: float | None,
        response: str | None = None,
        after_sequence: int = 0,
    ) -> None:
        """`grace` is how long the response waits for its watcher, in seconds; None: broken streams are not resumed."""
        super().__init__(policy, timeout)
        self.response = response
        """Resource name of the response; None before it was accepted."""
        self._start = start
        self._resume = resume
        self._cancel = cancel
        self._grace = grace
        self._received = self.last_sequence = after_sequence
        self._detached = False
        self._settled = False
        if response is not None:
            self._patient()

    async def text(self) -> str:
        """Reads to the end and returns the answer's text."""
        return (await self._folded()).text()

    async def fold(self) -> chat_pb.Answer:
        """Reads to the end and returns the whole answer."""
        return (await self._folded()).answer()

    def detach(self) -> None:
        """Lets the response go on when this stream is left, as long as its grace or `background` allows."""
        self._detached = True

    async def cancel(self) -> None:
        """Cancels the response. Whoever reads its stream gets CancelledByOwnerError. Failures are raised."""
        response = self.response or await self._await_accepted()
        if response is not None:
            await self._cancel(response, _CANCEL_SECONDS)

    async def aclose(self) -> None:
        """Ends the connection, and cancels the response unless it has ended or was detached."""
        try:
            if not (self._complete or self._settled or self._detached):
                await self._abandon()
        finally:
            await super().aclose()

    async def _abandon(self) -> None:
        self._settled = True
        try:
            await asyncio.wait_for(self.cancel(), _CANCEL_SECONDS)
        except (SluiceError, grpc.aio.AioRpcError, TimeoutError) as error:
            # The caller is on its way out, with its own reason. The gateway ends the response after its grace anyway.
            log.info("could not cancel", extra={"response": self.response, "error": type(error).__name__})

    async def _await_accepted(self) -> str | None:
        """A response that was asked for but not named yet is known to the gateway alone, so wait for its name."""
        while self.response is None and self._reader is not None:
            message = await self._reader.next()
            if message is None:
                return None
            self._take(message)
        return self.response

    async def _folded(self) -> Fold:
        fold = Fold()
        async with self:
            async for item in self:
                fold.add(item.sequence, item.event)
        return fold

    def _open(self, timeout: float | None) -> StreamingCall[ChatBatch]:
        if self.response is None:
            assert self._start is not None
            return self._start(timeout)
        return self._resume(self.response, self._received, timeout)

    def _may_reopen(self) -> bool:
        # Before Accepted the request id makes a second try safe; after it only a response with a grace still runs.
        return self.response is None or self._grace is not None

    def _note_end(self, failure: SluiceError, *, decided: bool) -> None:
        # A deadline of the call only detaches this watcher, so the response may still run.
        self._settled = decided and not isinstance(failure, DeadlineError)

    def _take(self, message: ChatBatch) -> None:
        for sequence, event in enumerate(message.events, message.first_sequence):
            self._expect(sequence)
            kind = event.WhichOneof("kind")
            if sequence == 1 and kind != "accepted":
                raise StreamProtocolError("the first event is not `Accepted`")
            self._advance(sequence)
            if kind is None:
                continue
            if kind == "accepted" and self.response is None:
                self.response = event.accepted.response
                self._patient()
            self._complete = kind == "completed"
            self._ready.append(NumberedEvent(sequence, event))

    def _patient(self) -> None:
        """Once accepted, trying as long as the gateway keeps the response is worth it."""
        if self._grace is not None:
            patience = max(self._policy.patience, self._grace)
            self._backoff = Backoff(replace(self._policy, patience=patience), self._deadline)


class TaskStream(NumberedStream[task_pb.WatchTaskResponse, NumberedTaskEvent]):
    """The events of one task, ending with the one that ended it.

    A broken connection is followed by another from the next event on. Leaving it early does not touch the task.
    """

    def __init__(
        self,
        watch: Callable[[int, float | None], StreamingCall[task_pb.WatchTaskResponse]],
        *,
        policy: RetryPolicy,
        timeout: float | None,
        after_sequence: int = 0,
    ) -> None:
        super().__init__(policy, timeout)
        self._watch = watch
        self._received = self.last_sequence = after_sequence

    async def result(self) -> task_pb.Task:
        """Reads to the end and returns the task as it ended, well or not."""
        task: task_pb.Task | None = None
        async with self:
            async for item in self:
                task = item.task
        if task is None:
            raise StreamProtocolError("the task ended before the event asked for")
        return task

    def _open(self, timeout: float | None) -> StreamingCall[task_pb.WatchTaskResponse]:
        return self._watch(self._received, timeout)

    def _may_reopen(self) -> bool:
        return True

    def _take(self, message: task_pb.WatchTaskResponse) -> None:
        for event in message.events:
            if self._received == 0:
                # From the start, or from the oldest event that is kept.
                self._received = event.sequence - 1
            self._expect(event.sequence)
            self._advance(event.sequence)
            self._complete = event.task.state in _ENDED_TASKS
            self._ready.append(NumberedTaskEvent(event.sequence, event.task))
