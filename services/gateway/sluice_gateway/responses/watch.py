"""Sends a response's events to one watcher, and looks after those who stall or wait in silence."""

import asyncio
from collections.abc import Iterable
from copy import copy

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1.chat_service_pb2 import GoingAway, StreamChatResponse
from sluice_gateway.config import WatcherLimits
from sluice_gateway.responses.response import Response, State, Watcher
from sluice_kit.errors import InternalError, make_error
from sluice_kit.rpc import SendMessage, invalid_field
from sluice_kit.telemetry import current

HEARTBEAT = StreamChatResponse().SerializeToString()


async def watch(response: Response, after: int, send: SendMessage) -> None:
    """Sends the events after a number until the response has ended, then raises what it failed with, if it did.

    Raises RESUME_WINDOW_EXPIRED where they are no longer kept, INVALID_REQUEST for a number that no event has had yet,
    and WATCHER_STALLED when `tend` gave up on the watcher.
    """
    log = response.log
    if after > log.last_sequence:
        # Nobody can have seen it; without this, an answer that ended earlier would look like one that ended well.
        raise invalid_field("after_sequence", f"the last event so far is number {log.last_sequence}")
    watcher = response.attach(after)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as scope:
            watcher.scope = scope
            while True:
                chunk = log.read(watcher.cursor)
                if chunk is not None:
                    message, last, size = chunk
                    watcher.writing_since = loop.time()
                    # All that is appended while this write is outstanding leaves with the next one.
                    await send(message)
                    watcher.idle_since = loop.time()
                    watcher.writing_since = None
                    watcher.cursor = last
                    watcher.position += size
                    response.progressed()
                elif response.ended:
                    break
                elif watcher.unnumbered is not None:
                    await _send_unnumbered(watcher, send)
                else:
                    watcher.wake = wake = loop.create_future()
                    await wake
                    if watcher.cursor == log.last_sequence and not response.ended:
                        await _send_unnumbered(watcher, send)
    except TimeoutError:
        if not scope.expired():
            raise
        current().watcher_stalled()
        raise make_error(
            ErrorReason.ERROR_REASON_WATCHER_STALLED,
            "the client took nothing for too long; resume the response to read on",
            metadata={"resource": response.name, "last_sequence": str(watcher.cursor)},
        ) from None
    finally:
        response.detach(watcher)
    if response.error is not None:
        raise copy(response.error)  # a raised error holds the frames it came through, and this one is kept
    if response.state is not State.COMPLETED:
        raise InternalError("the response ended without a reason")


async def _send_unnumbered(watcher: Watcher, send: SendMessage) -> None:
    """A watcher woken without a new event was woken for a heartbeat, or to be told that the gateway goes away."""
    loop = asyncio.get_running_loop()
    message = watcher.unnumbered or HEARTBEAT
    watcher.unnumbered = None
    watcher.writing_since = loop.time()
    await send(message)
    watcher.idle_since = loop.time()
    watcher.writing_since = None


def tend(responses: Iterable[Response], limits: WatcherLimits, now: float) -> None:
    """Ends watchers that stall and wakes silent ones for a heartbeat. Called about once a second."""
    for response in responses:
        for watcher in response.watchers:
            if watcher.writing_since is not None:
                if now - watcher.writing_since > limits.stall_seconds and watcher.scope is not None:
                    watcher.scope.reschedule(now)
            elif now - watcher.idle_since > limits.heartbeat_seconds:
                _wake(watcher)


def announce_shutdown(responses: Iterable[Response], grace: float) -> None:
    """Tells every watcher that the connection lasts only `grace` seconds more."""
    notice = GoingAway()
    notice.grace.FromMilliseconds(int(grace * 1000))
    message = StreamChatResponse(going_away=notice).SerializeToString()
    for response in responses:
        for watcher in response.watchers:
            watcher.unnumbered = message
            _wake(watcher)


def _wake(watcher: Watcher) -> None:
    wake, watcher.wake = watcher.wake, None
    if wake is not None and not wake.done():
        wake.set_result(None)
