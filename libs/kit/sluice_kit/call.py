"""What a handler knows of its call, independent of the transport."""

import asyncio
from contextvars import ContextVar
from typing import Final

from sluice.auth.v1.identity_pb2 import Identity
from sluice_kit.auth import Metadata
from sluice_kit.identity import LOCAL_IDENTITY
from sluice_kit.ids import new_id
from sluice_kit.telemetry.spans import NO_SPAN, Span

REQUEST_ID_KEY: Final = "x-request-id"
_MAX_REQUEST_ID_CHARS: Final = 128


class Call:
    """What a handler knows of its call, independent of the transport.

    `deadline` is on the clock of `asyncio`'s loop, in seconds; None means that the caller set none. `span` is what traces
    show of it.
    """

    __slots__ = ("_request_id", "deadline", "identity", "metadata", "method", "span")

    def __init__(
        self,
        method: str,
        identity: Identity = LOCAL_IDENTITY,
        deadline: float | None = None,
        metadata: Metadata = (),
        span: Span = NO_SPAN,
    ) -> None:
        self.method = method
        self.identity = identity
        self.deadline = deadline
        self.metadata = metadata
        self.span = span
        self._request_id: str | None = None

    @property
    def tenant(self) -> str:
        """The tenant that owns whatever the call touches."""
        return self.identity.tenant

    @property
    def request_id(self) -> str:
        """What logs call this call: the caller's `x-request-id`, else one made up."""
        if self._request_id is None:
            for key, value in self.metadata:
                if key == REQUEST_ID_KEY and isinstance(value, str) and value.isprintable():
                    self._request_id = value[:_MAX_REQUEST_ID_CHARS]
                    break
            else:
                self._request_id = new_id()
        return self._request_id

    def time_remaining(self) -> float | None:
        """Returns the seconds left, at least 0; None without a deadline."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    def with_timeout(self, seconds: float) -> "Call":
        """Returns the same call with a deadline at most so many seconds away."""
        limit = asyncio.get_running_loop().time() + seconds
        deadline = limit if self.deadline is None else min(limit, self.deadline)
        child = Call(self.method, self.identity, deadline, self.metadata, self.span)
        child._request_id = self._request_id
        return child

    def under(self, span: Span) -> "Call":
        """Returns the same call as a part of a span, for what is called within it."""
        if span is self.span:
            return self  # the usual case: nothing is traced
        child = Call(self.method, self.identity, self.deadline, self.metadata, span)
        child._request_id = self._request_id
        return child


current_call: ContextVar[Call | None] = ContextVar("sluice_current_call", default=None)
"""The call that the running task serves, for logs."""
