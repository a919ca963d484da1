"""Reads one streaming call in a task of its own.

grpc leaks memory when the task that awaits `call.read()` is cancelled, so the task that the caller may cancel is never
the one that reads: a reader is ended by cancelling the *call*.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Final, Generic, Protocol, TypeVar

import grpc

from sluice_client.failures import ClientClosedError

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)

_MAX_QUEUED: Final = 64
"""Messages read ahead. Beyond it grpc's flow control holds the gateway."""


class StreamingCall(Protocol[M_co]):
    """What a reader needs of a server-streaming call of grpc.aio."""

    def __aiter__(self) -> AsyncIterator[M_co]:
        """Not used; says what type the messages have."""

    def read(self) -> Awaitable[object]:
        """Returns the next message, or grpc.aio.EOF."""

    def cancel(self) -> bool:
        """Ends the call."""

    def done(self) -> bool:
        """Whether the call has ended."""

    def cancelled(self) -> bool:
        """Whether it was ended from this side."""


class Reader(Generic[M]):
    """The messages of one call, in order, bounded."""

    def __init__(self, call: StreamingCall[M]) -> None:
        self._call = call
        self._queue: deque[M] = deque()
        self._failure: grpc.aio.AioRpcError | ClientClosedError | None = None
        self._leaving = False
        self._ended = False
        self._readable = asyncio.Event()
        self._room = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def next(self) -> M | None:
        """Returns the next message, or None after the last one of a call that ended well.

        Raises grpc.aio.AioRpcError, or ClientClosedError, after every message that came before the failure.
        """
        while not self._queue:
            if self._ended:
                if self._failure is not None:
                    raise self._failure
                return None
            self._readable.clear()
            await self._readable.wait()
        message = self._queue.popleft()
        self._room.set()
        return message

    async def close(self) -> None:
        """Ends the call if it runs, and waits for the reading task."""
        self._leaving = True
        self._call.cancel()
        self._room.set()
        task = self._task
        await asyncio.wait((task,))
        # What ended the task holds the frames it ended in, and so this reader and the call. While the call is there its
        # connection is, too, closed channel or not, so it must not wait for garbage collection.
        self._failure = None
        del self._task

    async def _run(self) -> None:
        try:
            while True:
                message: Any = await self._call.read()
                if message is grpc.aio.EOF:
                    if self._was_closed():
                        self._failure = ClientClosedError()
                    return
                self._queue.append(message)
                self._readable.set()
                while len(self._queue) >= _MAX_QUEUED and not self._call.done():
                    self._room.clear()
                    await self._room.wait()
        except grpc.aio.AioRpcError as error:
            self._failure = error
        except asyncio.CancelledError:
            # grpc says so of a call that ended on this side, too.
            if not self._was_closed():
                raise
            self._failure = ClientClosedError()
        finally:
            self._ended = True
            self._readable.set()

    def _was_closed(self) -> bool:
        """Whether the call ended on this side, and not by this reader: with its channel."""
        return self._call.cancelled() and not self._leaving
