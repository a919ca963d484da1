"""An event loop whose time passes only when a test says so, so that graces and limits are events like all others."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs what is ready; timers fire in their order, at once, when the test lets time pass."""

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__()

    def time(self) -> float:
        return self._now

    def spin(self) -> None:
        """Runs until nothing is ready any more."""
        while True:
            self.call_soon(self.stop)
            self.run_forever()
            if not self._ready:  # type: ignore[attr-defined]  # what a loop has yet to do is nowhere else
                return

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        end = self._now + seconds
        while True:
            self.spin()
            timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]  # as above
            if not timers or min(timers) > end:
                break
            self._now = max(self._now, min(timers))
        self._now = end
        self.spin()

    def finish(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end, letting as much time pass as it needs."""
        task = self.create_task(coroutine)
        while not task.done():
            self.advance(0.05)
        return task.result()
