"""Which failures mean that the connection broke, and which are the answer."""

from typing import Final

import grpc

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import STATUS_DETAILS_KEY, CancelledByOwnerError, InternalError, SluiceError, from_rpc_error

SERVICE: Final = "gateway"

# Codes that grpc itself makes when a connection or a proxy on the way breaks: reset streams arrive as INTERNAL, UNKNOWN
# or CANCELLED, depending on who reset them.
_BROKEN: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
    }
)
# A service that says so itself: this connection ends, the response goes on.
_MOVED: Final = frozenset({ErrorReason.ERROR_REASON_DRAINING, ErrorReason.ERROR_REASON_WATCHER_STALLED})


class StreamProtocolError(InternalError):
    """The gateway broke a promise of its streams: a gap in the numbers, or an end that is no end."""


class ClientClosedError(CancelledByOwnerError):
    """The client was closed, which ended what it was doing, or before it was asked. A response may go on without it."""

    def __init__(self) -> None:
        super().__init__("the client is closed")


def read_failure(error: grpc.aio.AioRpcError) -> tuple[SluiceError, bool]:
    """Returns the exception that a failed call stands for, and whether only the connection broke.

    A failure that carries Sluice's details was decided by a service: it is the answer, not an accident.
    """
    failure = from_rpc_error(error, SERVICE)
    if any(key == STATUS_DETAILS_KEY for key, _ in error.trailing_metadata() or ()):
        return failure, failure.reason in _MOVED
    return failure, error.code() in _BROKEN
