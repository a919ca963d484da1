"""Counts what a load did, and summarises it."""

import time
from collections.abc import Sequence

import msgspec

from bench import stamps


class Spread(msgspec.Struct, frozen=True):
    """Two quantiles, in milliseconds; None where nothing was measured."""

    p50: float | None = None
    p99: float | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a load."""

    started: int
    done: int
    failed: int
    tokens: int
    messages: int
    wall: float
    """Seconds."""
    cpu: float
    """Seconds of CPU that the load itself took."""
    latency: Spread
    """From request to the end of the answer."""
    ttft: Spread
    """From request to the first token."""
    lag: Spread
    """From the upstream's writing of a token to its arrival here."""
    error: str = ""
    """The first failure."""

    @property
    def unfinished(self) -> int:
        """Requests that were neither answered nor refused when the time was over."""
        return self.started - self.done - self.failed


class Tally:
    """Of one load: how much may still be started, and what was measured so far."""

    def __init__(self, count: int, seconds: float) -> None:
        self._left = count
        self._end = time.monotonic() + seconds
        self.started = 0
        self.tokens = 0
        self.messages = 0
        self._failed = 0
        self._error = ""
        self._latency: list[float] = []
        self._ttft: list[float] = []
        self._lag: list[float] = []

    def more(self) -> bool:
        """Returns whether another request may be started, and counts it."""
        if self._left <= 0 or time.monotonic() > self._end:
            return False
        self._left -= 1
        self.started += 1
        return True

    def arrived(self, times: Sequence[bytes]) -> int:
        """Notes tokens by the times they carry. Returns how many."""
        now = stamps.now_us()
        self._lag.extend([(now - int(time)) / 1e3 for time in times])
        self.tokens += len(times)
        return len(times)

    def first_token(self, began: float) -> None:
        """Notes the first token of a request that began then."""
        self._ttft.append((time.monotonic() - began) * 1e3)

    def finished(self, began: float) -> None:
        """Notes a request that was answered."""
        self._latency.append((time.monotonic() - began) * 1e3)

    def failed(self, error: str) -> None:
        """Notes a request that failed."""
        self._failed += 1
        self._error = self._error or error[:600]

    def outcome(self, wall: float, cpu: float) -> Outcome:
        """Returns the summary."""
        return Outcome(
            started=self.started,
            done=len(self._latency),
            failed=self._failed,
            tokens=self.tokens,
            messages=self.messages,
            wall=round(wall, 3),
            cpu=round(cpu, 3),
            latency=_spread(self._latency),
            ttft=_spread(self._ttft),
            lag=_spread(self._lag),
            error=self._error,
        )


def _spread(values: list[float]) -> Spread:
    if not values:
        return Spread()
    ordered = sorted(values)
    last = len(ordered) - 1
    return Spread(*(round(ordered[min(last, int(len(ordered) * share))], 3) for share in (0.5, 0.99)))
