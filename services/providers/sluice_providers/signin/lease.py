"""Short-lived tokens: fetched once for all who wait, renewed before they end."""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

_RETRY_SECONDS: Final = 30.0
"""How long a renewal that failed is not tried again while the old token is still good."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A token that is good for a while, and where it is used. Times are on the clock of `Leases`, in seconds."""

    token: str = field(repr=False)
    base_url: str
    source: str = field(repr=False)
    """The long-lived token that it was made from."""
    due: float
    """From then on it should be renewed."""
    until: float
    """Until then it is good."""


class Leases:
    """The lease of one integration.

    `fetch` makes one from a long-lived token, and is not run twice at a time for the same one.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[Lease]], clock: Callable[[], float] = time.time) -> None:
        self._fetch = fetch
        # Not the monotonic clock: it stands still while a laptop sleeps, and tokens do not.
        self._clock = clock
        self._current: Lease | None = None
        self._tasks: dict[str, asyncio.Task[Lease]] = {}
        self._not_before = 0.0

    async def get(self, source: str) -> Lease:
        """Returns a lease made from a long-lived token. Raises what `fetch` raises.

        One that is due but still good is returned, and renewed meanwhile.
        """
        current = self._current
        now = self._clock()
        if current is not None and current.source == source and now < current.until:
            if now >= current.due and now >= self._not_before:
                _ = self._begin(source)
            return current
        # Who waits may be cancelled: the others wait on.
        return await asyncio.shield(self._begin(source))

    def put(self, lease: Lease) -> None:
        """Takes a lease that was fetched elsewhere."""
        self._current = lease

    def drop(self, lease: Lease) -> None:
        """Forgets a lease that the vendor refused, unless it was replaced already."""
        if self._current is lease:
            self._current = None

    async def close(self) -> None:
        """Ends fetches that still run."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, source: str) -> "asyncio.Task[Lease]":
        task = self._tasks.get(source)
        if task is None:
            # In a context of its own: it works for all who wait, not for the call that came first.
            task = asyncio.get_running_loop().create_task(self._run(source), context=contextvars.Context())
            self._tasks[source] = task
            task.add_done_callback(lambda done: self._ended(source, done))
        return task

    async def _run(self, source: str) -> Lease:
        lease = await self._fetch(source)
        self._current = lease
        return lease

    def _ended(self, source: str, task: "asyncio.Task[Lease]") -> None:
        del self._tasks[source]
        if not task.cancelled() and task.exception() is not None:
            # Looked at, so that it counts as handled where nobody waits.
            self._not_before = self._clock() + _RETRY_SECONDS
