"""Notes what attempts that run have made so far, so that little of it is lost with a gateway that is killed."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sluice_gateway.pipeline.attempt import AttemptRecord

EVERY_SECONDS: Final = 5.0
"""An attempt is noted so often. What ends sooner is never noted, and costs nothing."""
_LOOK_SECONDS: Final = 0.5
"""Attempts are due when they began, so each look finds a few of them instead of one look all."""
_BYTES_PER_TOKEN: Final = 4


class Notes:
    """The attempts that run. For the event loop's thread."""

    def __init__(self, note: Callable[["AttemptRecord", int], None]) -> None:
        """`note` is told of an attempt, and how many tokens it is estimated to have made."""
        self._note = note
        self._running: dict[int, tuple[float, AttemptRecord, int]] = {}
        """By key: when it is due, the attempt, and what was noted of it last. In the order of these times."""
        self._timer: asyncio.TimerHandle | None = None

    def begun(self, attempt: "AttemptRecord") -> None:
        """Is told of an attempt that is on record and begins."""
        loop = asyncio.get_running_loop()
        self._running[attempt.key] = loop.time() + EVERY_SECONDS, attempt, 0
        if self._timer is None:
            self._timer = loop.call_later(_LOOK_SECONDS, self._look)

    def ended(self, attempt: "AttemptRecord") -> None:
        """Is told of its end."""
        self._running.pop(attempt.key, None)

    def close(self) -> None:
        """Notes nothing more."""
        self._running.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        loop, running = asyncio.get_running_loop(), self._running
        now = loop.time()
        while running:
            key, (due, attempt, noted) = next(iter(running.items()))
            if due > now:
                break
            del running[key]
            made = made_of(attempt.output_bytes, attempt.usage.output_tokens)
            if made > noted:
                self._note(attempt, made)
            running[key] = now + EVERY_SECONDS, attempt, made
        self._timer = loop.call_later(_LOOK_SECONDS, self._look) if running else None


def made_of(size: int, told: int) -> int:
    """Returns the estimated tokens of an output of so many bytes, of which its vendor told so many tokens already."""
    return max(told, -(-size // _BYTES_PER_TOKEN))
