"""Circuit breaker: leaves alone for a while what fails again and again, then tries it with one call at a time."""

import enum
import math
from typing import Final

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_gateway.config import BreakerConfig
from sluice_kit.errors import Reason

_LN2: Final = math.log(2)
_MAX_DOUBLINGS: Final = 16
_DECAY_STEP: Final = 0.05
"""Of the half-life."""


class Circuit(enum.Enum):
    """Where a breaker stands."""

    CLOSED = "closed"
    """Calls pass."""
    OPEN = "open"
    """None does."""
    HALF_OPEN = "half_open"
    """One at a time does, to see how it goes."""


class Breaker:
    """One circuit. Times are seconds on the loop's clock, and given by the caller.

    Failures and successes are counted with a half-life, so that a share of failures opens it under load and a few in a
    row do when there is little; what is long past counts no more.
    """

    __slots__ = ("_at", "_config", "_failures", "_opened", "_probing", "_successes", "_until", "circuit", "reason")

    def __init__(self, config: BreakerConfig) -> None:
        self._config = config
        self.circuit = Circuit.CLOSED
        self.reason: Reason = ErrorReason.ERROR_REASON_UNSPECIFIED
        """The failure that opened it last."""
        self._failures = self._successes = 0.0
        self._at = 0.0
        self._opened = 0
        """How often in a row it opened without a success between."""
        self._until = 0.0
        self._probing = False

    def admits(self, now: float) -> bool:
        """Whether a call may be made; if so, its end must be told by one of the methods below."""
        if self.circuit is Circuit.CLOSED:
            return True
        if self.circuit is Circuit.OPEN:
            if now < self._until:
                return False
            self.circuit = Circuit.HALF_OPEN
        if self._probing:
            return False
        self._probing = True
        return True

    def would_admit(self, now: float) -> bool:
        """Whether `admits` would return True; changes nothing."""
        return self.circuit is Circuit.CLOSED or (not self._probing and now >= self._until)

    def reopens_in(self, now: float) -> float:
        """Returns the seconds until a call may be tried again; 0 if one may be now."""
        if self.circuit is Circuit.CLOSED:
            return 0.0
        # While a probe runs nobody knows; the shortest pause is a fair guess.
        return self._config.open_seconds if self._probing else max(0.0, self._until - now)

    def succeeded(self, now: float) -> bool:
        """Is told that a call went well. Returns whether that closed the circuit."""
        self._decay(now)
        self._successes += 1.0
        if self.circuit is not Circuit.HALF_OPEN:
            return False  # nothing new, or the end of a call that began before it opened
        self.circuit = Circuit.CLOSED
        self._failures = 0.0
        self._opened = 0
        self._probing = False
        return True

    def failed(self, now: float, reason: Reason) -> bool:
        """Is told that a call failed for a reason that counts. Returns whether that opened the circuit."""
        self._decay(now)
        self._failures += 1.0
        config = self._config
        if self.circuit is Circuit.OPEN:
            return False  # of a call that began before
        if self.circuit is Circuit.CLOSED:
            # A little less, because even what just happened has decayed a little.
            enough = self._failures > config.failures - 0.5
            if not enough or self._failures < config.share * (self._failures + self._successes):
                return False
        self.circuit = Circuit.OPEN
        self.reason = reason
        self._probing = False
        self._until = now + min(config.open_seconds * 2 ** min(self._opened, _MAX_DOUBLINGS), config.max_open_seconds)
        self._opened += 1
        return True

    def released(self) -> None:
        """Is told that a call ended in a way that says nothing, or never began."""
        self._probing = False

    def _decay(self, now: float) -> None:
        # In steps, because every call ends here.
        passed = (now - self._at) / self._config.half_life_seconds
        if passed > _DECAY_STEP:
            factor = math.exp(-_LN2 * passed)
            self._failures *= factor
            self._successes *= factor
            self._at = now
