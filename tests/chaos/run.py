"""One run: a mesh of real processes, a misbehaving vendor, clients, and whoever kills what; all from one seed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sluice_kit.channels import open_channel

from ..e2e.processes import Mesh, Up  # noqa: TID252  # tests of the whole mesh share one way to start it
from .checker import Violation, check
from .history import History, Process
from .load import Clients, Plan, draw
from .upstream import Upstream

_AT_ONCE: Final = 16
_REST_SECONDS: Final = 40.0
_PAGE_KILOBYTES: Final = os.sysconf("SC_PAGE_SIZE") // 1024
KILLS: Final = ("gateway", "vendor", "retrieval")
"""Services, in the order of their turn."""


@dataclass
class Report:
    """What came of a run."""

    history: History
    violations: list[Violation]
    kills: list[str] = field(default_factory=list)
    seconds: float = 0.0


class _Run:
    """A run. The first half of the load is without kills, so that what the processes hold can be compared."""

    def __init__(self, folder: Path, seed: int, responses: int, kills: int) -> None:
        self._folder = folder
        self._rng = random.Random(seed)
        self._plans = [draw(self._rng, str(number), grounded=True) for number in range(1, responses + 1)]
        self._upstream = Upstream({plan.tag: plan.behaviours for plan in self._plans})
        self._kills = [KILLS[number % len(KILLS)] for number in range(kills)]
        self._killed: list[str] = []
        self._history = History()
        self._up: Up

    async def go(self) -> Report:
        began = time.monotonic()
        history = self._history
        url = await self._upstream.start()
        self._up = up = Up(self._folder, _settings(url), "--port", str(_port(self._rng)))
        try:
            address = await asyncio.to_thread(lambda: up.address)
            await asyncio.to_thread(self._index)
            async with open_channel(address) as channel:
                clients = Clients(channel)
                calm, wild = self._halves()
                warm = len(calm) // 3
                await self._load(clients, calm[:warm])
                history.before = await self._rest()
                await self._load(clients, calm[warm:])
                history.after = await self._rest()
                killing = asyncio.create_task(self._kill(clients, len(wild)))
                await self._load(clients, wild)
                await clients.end()
                await killing
                await self._rest()
                history.asks, history.seen = clients.asks, clients.seen
        finally:
            code = await asyncio.to_thread(up.end)
            self._upstream.close()
        assert code == 0, f"the mesh ended with {code}"
        history.sent = self._upstream.sent
        history.gateway_killed = "gateway" in self._killed
        history.responses, history.attempts = (_rows(up.state_dir, table) for table in ("responses", "attempts"))
        return Report(history, check(history), self._killed, time.monotonic() - began)

    def _halves(self) -> tuple[list[Plan], list[Plan]]:
        middle = len(self._plans) // 2 if self._kills else len(self._plans)
        return self._plans[:middle], self._plans[middle:]

    def _index(self) -> None:
        texts = self._folder / "texts"
        texts.mkdir()
        (texts / "words.md").write_text("# Words\n\nSay what the chaos says, and nothing else.\n", encoding="utf-8")
        Mesh(self._up).run("index", str(texts), "--name", "chaos")

    async def _load(self, clients: Clients, plans: list[Plan]) -> None:
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(plan: Plan) -> None:
            async with room:
                await clients.run(plan)

        await asyncio.gather(*(one(plan) for plan in plans))

    async def _kill(self, clients: Clients, responses: int) -> None:
        """Kills a service after a random number of events, and waits until it is back, before the next."""
        for name in self._kills:
            target = clients.count + self._rng.randrange(5, 10 + 8 * responses // (len(self._kills) + 1))
            async with clients.moved:
                await clients.moved.wait_for(lambda: clients.ended or clients.count >= target)  # noqa: B023  # awaited at once
            if clients.ended:
                return
            said = len(self._up.said)
            clients.calm.clear()
            os.kill(self._pid(name), signal.SIGKILL)
            self._killed.append(name)
            await asyncio.to_thread(self._up.service, name, "up", said)
            clients.calm.set()

    def _pid(self, name: str) -> int:
        lines = [line for line in self._up.said if line.get("service") == name and line.get("state") == "up"]
        return int(lines[-1]["pid"])

    async def _rest(self) -> dict[str, Process]:
        """Waits until nothing streams any more, and returns what the processes hold."""
        async with asyncio.timeout(_REST_SECONDS) as scope:
            try:
                while any(sent.open for sent in self._upstream.sent):
                    self._upstream.changed.clear()
                    await self._upstream.changed.wait()
            except TimeoutError:
                if not scope.expired():
                    raise
        return {name: _process(self._pid(name)) for name in ("gateway", "vendor")}


async def run(folder: Path, *, seed: int, responses: int, kills: int) -> Report:
    """Runs it in an empty folder."""
    return await _Run(folder, seed, responses, kills).go()


def _port(rng: random.Random) -> int:
    """A free port below those that the system gives to clients.

    Clients of a port of that range, which try again and again while the gateway is down, are at some time given the very
    port they call, and are then connected to themselves; the gateway finds it taken.
    """
    while True:
        port = rng.randrange(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue  # taken
            return port


def _settings(url: str) -> dict[str, Any]:
    return {
        "providers": {"vendor": {"adapter": "openai", "base_url": url, "api_key": "x"}},
        "gateway": {
            "routes": {"default": {"targets": ["vendor/any"]}},
            "limits": {"ttft_seconds": 3, "idle_seconds": 1.5, "total_seconds": 30},
            # So much goes wrong here on purpose that the circuit would be open all the time.
            "resilience": {"breaker": {"failures": 1_000_000}, "retry": {"share": 1.0}},
        },
    }


def _process(pid: int) -> Process:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return Process(pid, len(list(Path(f"/proc/{pid}/fd").iterdir())), pages * _PAGE_KILOBYTES)


def _rows(state_dir: Path, table: str) -> list[dict[str, Any]]:
    with sqlite3.connect(state_dir / "gateway" / "records.db") as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]  # noqa: S608  # one of two names
