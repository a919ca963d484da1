"""Where the logs of responses are kept beside the process that makes them, so that others can serve them.

Without a store a log is in its process alone and costs nothing more. With one, a response has a `Writer`: what is
appended is sent to watchers only after the store took it, and what comes while the store takes something is taken
together with the next.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import SluiceError, make_error

if TYPE_CHECKING:
    from sluice_gateway.responses.response import Response, State

log = logging.getLogger(__name__)

REQUEST_ID_SECONDS: Final = 24 * 3600
"""How long a request id is remembered."""


class StoreUnavailableError(Exception):
    """The store does not answer."""


def unavailable() -> SluiceError:
    """Returns the failure of what needs the store while it does not answer."""
    return make_error(
        ErrorReason.ERROR_REASON_STORE_UNAVAILABLE, "the gateway's response log does not answer", retry_after=1.0
    )


class LeaseLostError(Exception):
    """The store says that this gateway does not run the response any more: another one has ended it."""


class ElsewhereError(SluiceError):
    """The request id was taken by a response of another gateway, which the metadata names as `resource`."""


class Ended:
    """How a response ended, as it is kept beside its events."""

    __slots__ = ("answer", "error", "state")

    def __init__(self, state: "State", error: SluiceError | None) -> None:
        self.state = state
        self.error = error
        self.answer = b""
        """Serialised."""


class LogStore(Protocol):
    """Logs that outlive their process. Everything raises StoreUnavailableError."""

    async def open(self, response: "Response", key: tuple[str, str, str] | None) -> str | None:
        """Takes the lease of a new response, and its request id if it has one.

        Returns None, or the id of the response that has the request id already. Raises REQUEST_ID_REUSED if that was for
        another request.
        """

    async def append(self, response_id: str, first: int, count: int, body: bytes, ended: Ended | None) -> None:
        """Adds events, and the end if this is it. Doing it twice is doing it once. Raises LeaseLostError."""

    def release(self, response_id: str) -> None:
        """Stops renewing the lease of a response."""

    async def find(self, response_id: str, tenant: str) -> "Response | None":
        """Returns a response that another gateway makes or made, which goes on as that one does; None if none is kept."""

    async def cancel(self, response_id: str) -> None:
        """Asks the gateway that makes a response to cancel it."""


def lost(name: str) -> SluiceError:
    """Returns the end of a response whose gateway died, or could no longer write its log: the same for every reader."""
    return make_error(
        ErrorReason.ERROR_REASON_RESPONSE_LOST,
        "the gateway that made this response, or its log, was lost; ask again with a new request_id",
        metadata={"resource": name},
    )


class Writer:
    """Brings the events of one response into the store, in order, and then to its watchers."""

    def __init__(self, response: "Response", store: LogStore, *, unlogged: bool) -> None:
        """`unlogged`: where the store is lost the response goes on without it, instead of failing."""
        self._response = response
        self._store = store
        self._unlogged = unlogged
        self._waiting: list[tuple[int, bytes]] = []
        self._ended: Ended | None = None
        self._task: asyncio.Task[None] | None = None
        self.backlog = 0
        """Bytes that the store has yet to take."""
        self.events = 0
        """Events that it has yet to take."""

    def put(self, count: int, body: bytes) -> None:
        """Queues events."""
        self._waiting.append((count, body))
        self.backlog += len(body)
        self.events += count
        self._start()

    def finish(self, ended: Ended) -> None:
        """Queues the end."""
        self._ended = ended
        self._start()

    async def drained(self) -> None:
        """Waits until the store took all that was queued, or is lost."""
        while self._task is not None:
            await asyncio.wait((self._task,))

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        response = self._response
        waiting: list[tuple[int, bytes]] = []
        ended: Ended | None = None
        try:
            while self._waiting or self._ended is not None:
                waiting, self._waiting = self._waiting, []
                ended, self._ended = self._ended, None
                count, body = sum(count for count, _ in waiting), b"".join([body for _, body in waiting])
                first = response.log.last_sequence + 1
                if ended is not None:
                    ended.answer = response.answer_with(first, count, body)
                await self._store.append(response.id, first, count, body, ended)
                self.backlog -= len(body)
                self.events -= count
                self._pass_on(count, body, ended is not None)
        except LeaseLostError:
            log.warning("another gateway ended a response", extra={"response": response.name})
            self._give_up()
        except StoreUnavailableError:
            log.warning("the log of a response cannot be written", extra={"response": response.name})
            if self._unlogged:
                self._go_on(waiting, ended)
            else:
                self._give_up()
        finally:
            self._task = None

    def _pass_on(self, count: int, body: bytes, ended: bool) -> None:
        response = self._response
        if count:
            response.take(count, body)
        if ended:
            self._store.release(response.id)
            response.writer = None
            response.tell_end()
        response.progressed()

    def _give_up(self) -> None:
        self._store.release(self._response.id)
        self._response.writer = None
        self._response.overrule(lost(self._response.name))

    def _go_on(self, waiting: list[tuple[int, bytes]], ended: Ended | None) -> None:
        """From here on the log is this process's alone."""
        response = self._response
        self._store.release(response.id)
        response.writer = None
        for count, body in (*waiting, *self._waiting):
            response.take(count, body)
        if ended is not None or self._ended is not None:
            response.tell_end()
        response.progressed()
