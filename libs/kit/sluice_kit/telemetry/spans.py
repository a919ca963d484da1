"""Spans: what of a call traces show. The one here is not recorded and costs next to nothing."""

from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Final, Self

Attributes = Mapping[str, str | int | float | bool]
Headers = tuple[tuple[str, str], ...]

NOTHING: Final[Attributes] = MappingProxyType({})

TRACE_KEYS: Final = ("traceparent", "tracestate")
"""Metadata entries of the W3C's trace context."""


class Span:
    """One thing that takes time. This one is not recorded, and neither are its children.

    Use it as a context manager, or call `end`. What fails within the block is named by its reason alone, never by its
    message. Attributes hold numbers, names of the configuration, model ids and reasons: never what people or vendors
    wrote.
    """

    __slots__ = ()

    @property
    def trace_id(self) -> str:
        """The trace's id in hexadecimal. Empty: there is no trace."""
        return ""

    @property
    def headers(self) -> Headers:
        """The trace context, as metadata of a call that is made within this."""
        return ()

    def child(self, name: str, attributes: Attributes = NOTHING) -> "Span":
        """Begins a part of it."""
        return self

    def client(self, name: str, attributes: Attributes = NOTHING) -> "Span":
        """Begins a call of another service as a part of it."""
        return self

    def event(self, name: str, attributes: Attributes = NOTHING) -> None:
        """Notes that something happened just now."""

    def set(self, attributes: Attributes) -> None:
        """Adds attributes."""

    def link(self, other: "Span") -> None:
        """Says that it has to do with another one, of whatever trace."""

    def failed(self, reason: str) -> None:
        """Says that it failed, and the name of the reason."""

    def end(self) -> None:
        """Ends it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None


NO_SPAN = Span()


class PassedOn(Span):
    """A span that is not recorded because its trace is not: its context is passed on, so that nobody else does."""

    __slots__ = ("_headers", "_trace_id")

    def __init__(self, trace_id: str, headers: Headers) -> None:
        self._trace_id = trace_id
        self._headers = headers

    @property
    def trace_id(self) -> str:
        return self._trace_id

    @property
    def headers(self) -> Headers:
        return self._headers
