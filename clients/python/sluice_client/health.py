"""Following the health of integrations, across every break of the connection."""

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

import grpc

from sluice.gateway.v1 import integration_service_pb2 as pb
from sluice_client.failures import StreamProtocolError, read_failure
from sluice_client.reader import Reader, StreamingCall
from sluice_client.retry import Backoff, Deadline, RetryPolicy
from sluice_kit.errors import SluiceError

log = logging.getLogger(__name__)

Message = pb.WatchIntegrationHealthResponse


class HealthStream:
    """How integrations are: the present state of each, then each change, without an end.

    Yields an `Integration` with its health; one whose health is unset is not known yet. A broken connection is followed
    by another, which starts with the present state of each again: what happened in between shows only in that. Iterate
    over it inside `async with`, so that leaving ends the call.
    """

    def __init__(
        self,
        watch: Callable[[float | None], StreamingCall[Message]],
        *,
        policy: RetryPolicy,
        timeout: float | None,
        on_break: Callable[[SluiceError], None] | None,
    ) -> None:
        self._watch = watch
        self._deadline = Deadline(timeout)
        self._backoff = Backoff(policy, self._deadline)
        self._on_break = on_break
        self._reader: Reader[Message] | None = None
        self._ended = False
        self._entered = False

    async def aclose(self) -> None:
        """Ends the call. Called when the block of an `async with` is left."""
        self._ended = True
        await self._close_reader()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> pb.Integration:
        while not self._ended:
            try:
                message = await self._next()
            except asyncio.CancelledError:
                # Inside `async with` the block's end does this, and its caller may read on.
                if not self._entered:
                    await self.aclose()
                raise
            except SluiceError:
                await self.aclose()
                raise
            if message is not None and message.HasField("integration"):
                return message.integration
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _next(self) -> Message | None:
        """Returns one message, or None where the connection broke and is to be opened again."""
        if self._reader is None:
            self._deadline.check()
            self._reader = Reader(self._watch(self._deadline.left()))
        try:
            message = await self._reader.next()
        except grpc.aio.AioRpcError as error:
            failure, broken = read_failure(error)
        else:
            if message is None:
                raise StreamProtocolError("the stream ended, which only its reader may do")
            self._backoff.reset()
            return message
        await self._close_reader()
        if not broken:
            raise failure
        if self._on_break is not None:
            self._on_break(failure)
        await self._backoff.wait(failure)
        log.debug("watching again", extra={"reason": failure.reason_name})
        return None

    async def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()
