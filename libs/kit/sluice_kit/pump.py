"""Moves the messages of one upstream call into a sink, bounded and cancel-safe.

A relay that awaits `call.read()` in the task that may be cancelled leaks memory inside grpc, as does one written as
`async for`. So a pump reads in a task of its own, and is ended by cancelling the *call*, after which the task ends by
itself and is awaited. The sink may push back: while what it returned is not done, the pump does not read, and grpc's
flow control holds the upstream.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar, cast

from grpc.aio import EOF

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class StreamCall(Protocol[T_co]):
    """What a pump needs of a server-streaming call of grpc.aio."""

    def read(self) -> Awaitable[T_co | object]:
        """Returns the next message, or grpc.aio.EOF."""

    def cancel(self) -> bool:
        """Ends the call."""


class Pump(Generic[T]):
    """Hands every message of a call to `deliver`, in order, until the call ends.

    Use it as an async context manager and `await wait()` inside; leaving the block ends call and task. `deliver`
    returns None, or an awaitable that is done when there is room for more.
    """

    def __init__(self, call: StreamCall[T], deliver: Callable[[T], Awaitable[None] | None]) -> None:
        self._call = call
        self._deliver = deliver
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._failure: BaseException | None = None
        self._cancelled = False
        # Both are given up with the end: a failure holds the frames it came through, and these the pump and the call,
        # which would wait for garbage collection together with all that they were for.
        self._task: asyncio.Task[None] | None = loop.create_task(self._run())
        self._task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._cancelled = task.cancelled()
        if not self._cancelled:
            self._failure = task.exception()  # whoever waits gets it; where nobody waits any more, that is no news
        if not self._ended.done():
            self._ended.set_result(None)

    async def _run(self) -> None:
        read, deliver, end = self._call.read, self._deliver, EOF
        while True:
            message = await read()
            if message is end:
                return
            pushback = deliver(cast("T", message))
            if pushback is not None:
                await pushback

    async def wait(self) -> None:
        """Waits for the end of the call. Raises what the call or `deliver` raised, once.

        If the call was cancelled from this side, asyncio.CancelledError does not come out of here: the pump's task is
        the one cancelled, not the caller's; `cancelled` tells.
        """
        # A future of its own: the cancellation of whoever waits must not reach the pump's task while it reads.
        await self._ended
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure

    @property
    def cancelled(self) -> bool:
        """Whether the call was ended from this side."""
        return self._cancelled

    def on_end(self, function: Callable[[], None]) -> None:
        """Calls a function when the call has ended, however it did."""
        self._ended.add_done_callback(lambda _: function())

    def cancel(self) -> None:
        """Ends the call; `wait` returns soon after."""
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = self._task
        if task is not None:
            self._call.cancel()
            await asyncio.wait((task,), timeout=_END_SECONDS)
            if not task.done():
                # The task waits in `deliver`, not in the call, so cancelling the task is safe.
                task.cancel()
                await asyncio.wait((task,))
            if self._task is not None:
                await self._ended  # it ended in this moment: `_on_done` comes next
        self._failure = None


_END_SECONDS = 0.05


class ByteQueue:
    """A bounded queue of serialised messages between a pump and a writer, in one event loop.

    The writer takes all that is queued each time, so that what arrived during one write leaves with the next.
    `limit` is in bytes; one message more than that may be queued.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[bytes] = deque()
        self._bytes = 0
        self._closed = False
        self._readable = asyncio.Event()
        self._room = asyncio.Event()

    def put(self, message: bytes) -> Awaitable[None] | None:
        """Queues a message. What it returns, if anything, is done when there is room again."""
        self._items.append(message)
        self._bytes += len(message)
        self._readable.set()
        if self._bytes <= self._limit:
            return None
        self._room.clear()
        return self._wait_room()

    def close(self) -> None:
        """Marks the end: `take` returns nothing once the queue is empty."""
        self._closed = True
        self._readable.set()

    async def take(self) -> list[bytes]:
        """Returns all that is queued, waiting for at least one message; an empty list is the end."""
        while not self._items and not self._closed:
            self._readable.clear()
            await self._readable.wait()
        taken = list(self._items)
        self._items.clear()
        self._bytes = 0
        self._room.set()
        return taken

    async def _wait_room(self) -> None:
        await self._room.wait()
