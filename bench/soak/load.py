"""A load at an even rate, whatever its requests take."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable
from typing import Final

from bench.soak.deeds import Deeds
from bench.soak.operator import Operator
from bench.soak.site import OPERATOR, Mesh
from bench.soak.visitors import Visitors
from sluice.gateway.v1.chat_service_pb2 import CachePolicy

_MOST_AT_ONCE: Final = 200
_CHORE_SECONDS: Final = 2.0
_LAST_SECONDS: Final = 60.0
_FILL_AT_ONCE: Final = 16
_MISTAKES: Final = 20


class Load:
    """Everybody who uses a mesh."""

    def __init__(self, mesh: Mesh, rate: float, seed: int) -> None:
        """`rate` is requests a second, each a thing that a user does, in one call or a few."""
        draw = random.Random(seed)
        self._gap = 1 / rate
        self._visitors = Visitors(mesh, draw)
        self._operator = Operator(mesh)
        self._deeds = Deeds(mesh.address, mesh.key(OPERATOR), draw)
        self._open: set[asyncio.Task[None]] = set()
        self.done: Counter[str] = Counter()
        """By name."""
        self.begun = 0
        self.skipped = 0
        """Requests that were not begun because too many were open."""
        self.mistakes: list[str] = []
        """What went otherwise than it should, the first of it."""
        self.failed = 0
        """How often that was."""

    @property
    def visitors(self) -> int:
        """How many clients came so far."""
        return self._visitors.came

    async def prepare(self, fill: int) -> None:
        """Makes what is asked about, and fills what is kept up to a size, by so many models that are asked once."""
        async with asyncio.timeout(_LAST_SECONDS):
            await self._operator.prepare()
        numbers = iter(range(fill))

        async def work() -> None:
            for number in numbers:
                spec = self._deeds.spec(self._deeds.new_model("m-n8"), f"Fill {number}")
                spec.cache = CachePolicy.CACHE_POLICY_USE
                async with self._visitors.one() as client:
                    await client.chat(spec, timeout=_LAST_SECONDS)

        await asyncio.gather(*(work() for _ in range(_FILL_AT_ONCE)))

    async def run(self, seconds: float) -> None:
        """Loads for so long, and waits until everything that was begun has ended."""
        end = time.monotonic() + seconds
        chores = asyncio.create_task(self._do_chores(end))
        due = time.monotonic()
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += self._gap
            if len(self._open) >= _MOST_AT_ONCE:
                self.skipped += 1
                continue
            self.begun += 1
            task = asyncio.create_task(self._do())
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        await chores
        if self._open:
            _, late = await asyncio.wait(self._open, timeout=_LAST_SECONDS)
            for task in late:
                self._note("load", TimeoutError("it did not end"))
                task.cancel()
        await self._visitors.leave()

    async def close(self) -> None:
        """Closes every channel."""
        await self._visitors.leave()
        await self._operator.client.close()

    async def _do(self) -> None:
        deed = self._deeds.next()
        async with self._visitors.one() as client:
            await self._try(getattr(deed, "__name__", "?"), deed(client))

    async def _do_chores(self, end: float) -> None:
        for chore in itertools.cycle(self._operator.chores):
            if time.monotonic() >= end:
                return
            await self._try(chore.__name__, chore())
            await asyncio.sleep(min(_CHORE_SECONDS, max(0.0, end - time.monotonic())))

    async def _try(self, name: str, work: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                await work
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on, and the report has it
            self._note(name, error)
        else:
            self.done[name] += 1

    def _note(self, name: str, error: Exception) -> None:
        self.failed += 1
        if len(self.mistakes) < _MISTAKES:
            self.mistakes.append(f"{name}: {error!r:.300}")
