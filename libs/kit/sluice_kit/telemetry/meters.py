"""Counters for what happens with every batch: plain numbers of the event loop's thread, read when metrics are asked for.

A metric of prometheus_client takes a lock and searches its buckets one by one, for each of several numbers.
"""

from bisect import bisect_left
from collections.abc import Sequence


class Flow:
    """The batches of all streams of a process."""

    __slots__ = ("bounds", "counts", "events", "seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Gaps by the first bound that they do not exceed; the last one: above all."""
        self.seconds = 0.0
        """All gaps together."""
        self.events = 0


class StreamMeter:
    """The batches of one stream."""

    __slots__ = ("_flow", "_last")

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._last = 0.0

    def batch(self, now: float, events: int) -> None:
        """Counts a batch with content that came just now, on the loop's clock."""
        flow, last = self._flow, self._last
        if last:
            gap = now - last
            flow.counts[bisect_left(flow.bounds, gap)] += 1
            flow.seconds += gap
        self._last = now
        flow.events += events
