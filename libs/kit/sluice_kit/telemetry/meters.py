"""Counters as plain numbers of the event loop's thread, read when metrics are asked for.

prometheus_client's own take a lock for each number, and search their buckets one by one: several times as much. Each
family here is told of by one thread alone, so none is needed; what reads them may be late by one event.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Number:
    """What one combination of labels counts, or how many there are of it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        """Counts up; a gauge also down."""
        self.value += amount


class Buckets:
    """What one combination of labels measures."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Values by the first bound that they do not exceed; the last one: above all."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Takes a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Bound(dict[tuple[str, ...], T], Generic[T]):
    """One metric: what it counts by the values of its labels. What is not there is made."""

    def __init__(self, make: Callable[[], T]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, labels: tuple[str, ...]) -> T:
        made = self[labels] = self._make()
        return made


class StreamMeter:
    """The batches of one stream."""

    __slots__ = ("_events", "_gaps", "_last")

    def __init__(self, gaps: Buckets, events: Number) -> None:
        self._gaps = gaps
        self._events = events
        self._last = 0.0

    def batch(self, now: float, events: int) -> None:
        """Counts a batch with content that came just now, on the loop's clock."""
        if self._last:
            self._gaps.observe(now - self._last)
        self._last = now
        self._events.value += events
