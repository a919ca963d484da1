"""What a service says of itself in `grpc.health.v1`: whether it is alive, whether it takes calls, whether it is ready.

On the serving address the empty name and the names of the RPC services say whether calls are taken: from the end of the
warm-up to the beginning of the drain. Clients that balance turn away by it, so it does not depend on anything else.

Everywhere, `liveness` says that the event loop turns: it is SERVING from the bind to the very end, also while the service
warms up and drains, because starting a process anew would mend neither. `readiness` says that calls are taken and that
what the service needs *itself* answers: its database, its store, its log; never another service, whose failure would
spread over the whole mesh. Each of these has a name of its own, too, such as `readiness/records`, so that people can be
told which it is. On the probe address the empty name is `readiness`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

log = logging.getLogger(__name__)

LIVENESS: Final = "liveness"
READINESS: Final = "readiness"
SERVICE_NAME: Final = health.SERVICE_NAME

Check = Callable[[], Awaitable[object]]
"""Asks something that a service needs: returns once it answers, raises where it does not."""

CHECK_SECONDS: Final = 1.0
"""Pause between two rounds of checks."""
_ANSWER_SECONDS: Final = 3.0
"""What does not answer for so long is away."""
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """The health of one process. For the event loop's thread."""

    def __init__(self) -> None:
        self._serving = health.aio.HealthServicer()
        self._probe = health.aio.HealthServicer()
        self._names: list[str] = []
        self._open = False
        """Whether calls are taken."""
        self._away: frozenset[str] = frozenset()
        """What the service needs and does not get."""
        self._needs: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None

    async def begin(self, server: Any, probe: Any | None, names: Iterable[str]) -> None:
        """Adds itself to the servers: alive, but not ready. `names` are the RPC services."""
        self._names += names
        for servicer, at in ((self._serving, server), (self._probe, probe)):
            await servicer.set(LIVENESS, _SERVING)
            if at is not None:
                health_pb2_grpc.add_HealthServicer_to_server(servicer, at)
        await self._tell()

    async def open(self, needs: Mapping[str, Check]) -> None:
        """Says that calls are taken, and follows from now on what the service needs."""
        self._open = True
        self._needs = tuple(needs)
        if needs:
            await self._look(needs)
            self._task = asyncio.get_running_loop().create_task(self._follow(needs))
        await self._tell()

    async def shut(self) -> None:
        """Says that no calls are taken any more, for good."""
        self._open = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
        await self._tell()

    async def _follow(self, needs: Mapping[str, Check]) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self._look(needs)
            await self._tell()

    async def _look(self, needs: Mapping[str, Check]) -> None:
        answers = await asyncio.gather(*(_failure(check) for check in needs.values()))
        away = frozenset(name for name, error in zip(needs, answers, strict=True) if error is not None)
        for name, error in zip(needs, answers, strict=True):
            if error is not None and name not in self._away:
                log.warning("not ready", extra={"needs": name, "error": error})
        if self._away and not away:
            log.info("ready again")
        self._away = away

    async def _tell(self) -> None:
        serving = _SERVING if self._open else _NOT_SERVING
        ready = _NOT_SERVING if self._away else serving
        for servicer in (self._serving, self._probe):
            for name in self._names:
                await servicer.set(name, serving)
            await servicer.set(READINESS, ready)
            for need in self._needs:
                await servicer.set(f"{READINESS}/{need}", _NOT_SERVING if need in self._away else serving)
        await self._serving.set("", serving)
        await self._probe.set("", ready)


async def _failure(check: Check) -> str | None:
    """Returns None, or the kind of failure: texts of drivers may quote addresses and passwords."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await check()
    except Exception as error:  # noqa: BLE001 - whatever a driver raises means the same: it does not answer
        return type(error).__name__
    return None
