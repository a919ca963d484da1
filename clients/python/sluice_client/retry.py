"""How long the client tries again: jittered exponential backoff within a patience and a deadline."""

import asyncio
import random
from dataclasses import dataclass
from typing import Final

from sluice_kit.errors import DeadlineError, SluiceError

_MAX_EXPONENT: Final = 32
"""Waits stop growing here at the latest: who has patience without end would otherwise compute infinities."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long a failure of the transport is answered by another try. All figures are seconds."""

    initial: float = 0.1
    """Longest wait before the second try. Each wait is drawn between half of the limit and the limit."""
    multiplier: float = 2.0
    """How much the limit grows with each failure in a row."""
    maximum: float = 2.0
    """The limit stops growing here."""
    patience: float = 10.0
    """Failures in a row are raised once they lasted so long. 0: the first one is raised; `math.inf`: none is."""


class Deadline:
    """A point on the clock of the running loop; None seconds: no limit."""

    __slots__ = ("_at",)

    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None else asyncio.get_running_loop().time() + seconds

    def left(self) -> float | None:
        """Returns the seconds left, at least 0; None without a limit."""
        return None if self._at is None else max(0.0, self._at - asyncio.get_running_loop().time())

    def check(self) -> None:
        """Raises DeadlineError if no time is left."""
        if self.left() == 0.0:
            raise DeadlineError("the time limit of the call passed")


class Backoff:
    """The failures in a row of one operation."""

    def __init__(self, policy: RetryPolicy, deadline: Deadline) -> None:
        self._policy = policy
        self._deadline = deadline
        self._failures = 0
        self._since: float | None = None

    def reset(self) -> None:
        """Notes progress: the next failure is the first one again."""
        self._failures = 0
        self._since = None

    async def wait(self, error: SluiceError) -> None:
        """Waits before the next try, at least as long as the server asked for.

        Raises `error` if patience or deadline do not reach that far.
        """
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since = now
        growth = self._policy.multiplier ** min(self._failures, _MAX_EXPONENT)
        limit = min(self._policy.maximum, self._policy.initial * growth)
        self._failures += 1
        delay = max(random.uniform(limit / 2, limit), error.retry_after or 0.0)
        left = self._deadline.left()
        if now + delay - self._since > self._policy.patience or (left is not None and delay >= left):
            try:
                raise error
            finally:
                del error  # or it would hold this frame, which holds it
        await asyncio.sleep(delay)
