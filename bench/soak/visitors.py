"""Clients of many tenants, each with a channel of its own, who come, ask some things, and go."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Final

from bench.soak.site import Mesh, tenant
from sluice_client import SluiceClient

_AT_ONCE: Final = 8
_STAY: Final = 40
"""How many things each does."""


class _Visitor:
    def __init__(self, mesh: Mesh, number: int) -> None:
        self.client = SluiceClient(mesh.address, mesh.key(tenant(number)))
        self.begun = self.busy = 0


class Visitors:
    """Those who are there now."""

    def __init__(self, mesh: Mesh, draw: random.Random) -> None:
        self._mesh = mesh
        self._draw = draw
        self._came = 0
        self._here = [self._next() for _ in range(_AT_ONCE)]

    @property
    def came(self) -> int:
        """How many came so far."""
        return self._came

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[SluiceClient]:
        """Lends one of them for something that it does. The last thing done, its channel is closed."""
        place = self._draw.randrange(_AT_ONCE)
        visitor = self._here[place]
        visitor.begun += 1
        visitor.busy += 1
        if visitor.begun == _STAY:
            self._here[place] = self._next()
        try:
            yield visitor.client
        finally:
            visitor.busy -= 1
            if visitor.begun >= _STAY and not visitor.busy:
                await visitor.client.close()

    async def leave(self) -> None:
        """Closes what is open; others come for what is done next."""
        left, self._here = self._here, [self._next() for _ in range(_AT_ONCE)]
        await asyncio.gather(*(visitor.client.close() for visitor in left))

    def _next(self) -> _Visitor:
        self._came += 1
        return _Visitor(self._mesh, self._came)
