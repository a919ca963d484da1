"""The channel to the gateway, and single calls on it."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import grpc

from sluice_client.failures import ClientClosedError, read_failure
from sluice_client.retry import Backoff, Deadline, RetryPolicy
from sluice_client.tracing import trace_context
from sluice_kit.channels import CHANNEL_OPTIONS

if TYPE_CHECKING:
    from grpc.aio import UnaryUnaryMultiCallable

Request = TypeVar("Request")
Response = TypeVar("Response")
Stub = TypeVar("Stub")

CALL_SECONDS: Final = 60.0
"""Time limit of a single call where neither the call nor the client sets another."""


class Connection:
    """One channel with a key. It connects when it is first used, and again whenever it broke."""

    def __init__(
        self,
        address: str,
        key: str | None = None,
        tls: grpc.ChannelCredentials | bool | None = None,
        *,
        retry: RetryPolicy | None = None,
        timeout: float = CALL_SECONDS,
    ) -> None:
        self.address = address
        self.retry = RetryPolicy() if retry is None else retry
        self.timeout = timeout
        self._metadata: tuple[tuple[str, str], ...] = (("authorization", f"Bearer {key}"),) if key else ()
        self._tls = tls
        self._channel: grpc.aio.Channel | None = None
        self._closed = False
        self._stubs: dict[type, Any] = {}

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with a call that is made now: the key, and the trace that the caller is in."""
        return self._metadata + trace_context()

    def stub(self, kind: Callable[[grpc.aio.Channel], Stub]) -> Stub:
        """Returns the stub of a service on this channel."""
        key = cast(type, kind)
        if key not in self._stubs:
            self._stubs[key] = kind(self._open())
        return cast(Stub, self._stubs[key])

    async def unary(
        self,
        method: "UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        *,
        timeout: float | None = None,
        repeatable: bool = True,
    ) -> Response:
        """Makes one call and returns its answer; its failure comes as a SluiceError.

        `timeout` is in seconds and covers all tries; None is the client's own. With `repeatable` a call whose
        connection broke is made again: only for calls that are safe to repeat.
        """
        deadline = Deadline(self.timeout if timeout is None else timeout)
        backoff = Backoff(self.retry, deadline)
        while True:
            deadline.check()
            try:
                return await method(request, timeout=deadline.left(), metadata=self.metadata)
            except grpc.aio.AioRpcError as error:
                failure, broken = read_failure(error)
            except asyncio.CancelledError:
                # grpc says so of a call that ended with its channel, too, when nobody cancelled the caller.
                task = asyncio.current_task()
                if not self._closed or (task is not None and task.cancelling()):
                    raise
                raise ClientClosedError from None
            try:
                if not (broken and repeatable):
                    raise failure
                await backoff.wait(failure)
            finally:
                del failure  # or, raised, it would hold this frame, which holds it, the request and its answer

    async def close(self) -> None:
        """Ends every call with ClientClosedError and closes the channel. What is asked for later fails by it, too."""
        self._closed = True
        channel, self._channel = self._channel, None
        self._stubs.clear()
        if channel is not None:
            await channel.close()

    async def __aenter__(self) -> Self:
        self._closed = False  # entered again, it is open again
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _open(self) -> grpc.aio.Channel:
        if self._closed:
            raise ClientClosedError
        if self._channel is None:
            options = list(CHANNEL_OPTIONS)
            if self._tls:
                credentials = grpc.ssl_channel_credentials() if self._tls is True else self._tls
                self._channel = grpc.aio.secure_channel(self.address, credentials, options=options)
            else:
                self._channel = grpc.aio.insecure_channel(self.address, options=options)
        return self._channel
