"""What happens in a process, as methods. Here they do nothing: telemetry that is switched off."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from sluice_kit.telemetry.spans import NO_SPAN, NOTHING, Attributes, Span

if TYPE_CHECKING:
    from sluice_kit.telemetry.meters import StreamMeter
    from sluice_kit.telemetry.table import Metric

Reading = float | Iterable[tuple[tuple[str, ...], float]]
"""What a gauge shows: a number, or one for each combination of its labels' values."""


class Served:
    """One call that is being served."""

    __slots__ = ()

    span: Span = NO_SPAN

    def succeeded(self) -> None:
        """It was answered."""

    def failed(self, code: str, reason: str) -> None:
        """It ends with a status: the names of its code and of its reason."""

    def ended(self) -> None:
        """It is over. One that neither succeeded nor failed was cancelled."""


class Rpc:
    """One method that is served."""

    __slots__ = ()

    def begins(self, context: Any) -> Served:
        """Is told that a call begins, with its grpc.aio.ServicerContext; whoever tells calls `ended` at its end."""
        return _NOTHING_SERVED


_NOTHING_SERVED = Served()
_NO_RPC = Rpc()


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt at a target ended: what the metrics say of it. Times are in seconds."""

    operation: str
    provider: str
    model: str
    outcome: str
    reason: str
    tokens: Mapping[str, int]
    """By kind: `input`, `cached_input`, `output`, `reasoning`. Cached ones are among the input, reasoning among the
    output."""
    cost_nano_usd: int | None
    ttft: float | None


class Telemetry:
    """The telemetry of a process. This one tells nobody anything."""

    metrics = False
    """Whether there are metrics, for what would be worth nothing but them."""
    vendor_trace = False
    """Whether vendors are sent the trace context."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listens and sends for the length of the block. Raises BindError. At its end what is left is sent."""
        yield

    def rpc(self, path: str) -> Rpc:
        """Returns a method that is served, by its path on the wire."""
        return _NO_RPC

    def root(self, name: str, attributes: Attributes = NOTHING) -> Span:
        """Begins a trace of its own."""
        return NO_SPAN

    def stream(self) -> "StreamMeter | None":
        """Returns what counts the events of one stream; None: nobody does."""
        return None

    def watch(self, metric: "Metric", read: Callable[[], Reading]) -> None:
        """Has a gauge read, on the event loop, whenever metrics are asked for."""

    def unwatch(self, read: Callable[[], Reading]) -> None:
        """Ends that."""

    def response_ended(self, outcome: str, reason: str, seconds: float) -> None:
        """A response ended: `completed`, `failed` or `cancelled`; so many seconds after it was accepted."""

    def first_content(self, seconds: float) -> None:
        """A response showed its first content, so many seconds after it was accepted."""

    def attempt_ended(self, end: AttemptEnd) -> None:
        """An attempt at a target ended, and what it used is known."""

    def answered_from_cache(self) -> None:
        """An answer came from the cache."""

    def watcher_stalled(self) -> None:
        """A client took nothing for too long and was ended."""

    def searched(self, mode: str, seconds: float, passages: int) -> None:
        """A search ended well."""

    def task_ended(self, kind: str, state: str, reason: str, seconds: float) -> None:
        """A task of retrieval ended, or was interrupted."""

    def indexed(self, chunks: int) -> None:
        """A new generation of a corpus was published, with so many chunks that searches see."""


OFF = Telemetry()


def version() -> str:
    """Returns the version of what runs."""
    return metadata.version("sluice-kit")
