"""One run: a mesh of real processes, a misbehaving vendor, clients, and whoever kills what; all from one seed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import sqlite3
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row
from redis.asyncio import Redis

from scripts.servers import POSTGRES, REDIS, find
from sluice.chat.v1.message_pb2 import Message
from sluice.gateway.v1.conversation_service_pb2 import TurnState
from sluice_client import SluiceClient
from sluice_kit.channels import open_channel

from ..e2e.services import Fleet, Service, free_port, index  # noqa: TID252  # tests of the whole mesh share one way to start it
from ..servers import postgres, redis  # noqa: TID252  # and one way to start servers
from .checker import Violation, check
from .history import History, Process, Turn
from .load import Clients
from .plans import CONVERSATIONS, Plan, draw
from .upstream import Upstream

_AT_ONCE: Final = 16
_REST_SECONDS: Final = 40.0
PRICES: Final = {"input": 3, "output": 15}
"""US dollars for a million tokens, of every target."""
_PAGE_KILOBYTES: Final = os.sysconf("SC_PAGE_SIZE") // 1024
_BUSY: Final = re.compile(
    r"^sluice_(?:rpc_in_flight|admission_in_flight)\{(?P<what>[^}]*)\} (?P<count>\d+)", re.MULTILINE
)


@dataclass
class Report:
    """What came of a run."""

    history: History
    violations: list[Violation]
    kills: list[str] = field(default_factory=list)
    seconds: float = 0.0


class _Run:
    """A run. The first third of the load is without kills, so that what the processes hold can be compared."""

    def __init__(self, folder: Path, plans: list[Plan], rng: random.Random, kills: int, stores: dict[str, str]) -> None:
        self._folder = folder
        self._rng = rng
        self._plans = plans
        self._stores = stores
        self._upstream = Upstream({plan.tag: plan.behaviours for plan in plans})
        self._kills = kills
        self._killed: list[str] = []
        self._history = History(shared=bool(stores), prices=(PRICES["input"] * 1000, PRICES["output"] * 1000))
        self._metrics: dict[str, int] = {}
        self._fleet: Fleet

    async def go(self) -> Report:
        began = time.monotonic()
        history = self._history
        url = await self._upstream.start()
        replicas = 2 if self._stores else 1
        fleet = self._fleet = Fleet(
            self._folder, _settings(self._folder, url, self._stores), gateways=replicas, adapters=replicas
        )
        for service in fleet.services.values():
            self._metrics[service.name] = port = free_port()
            service.set(f"telemetry.metrics=127.0.0.1:{port}")
        async with fleet.running(), AsyncExitStack() as stack:
            await self._prepare()
            channels = [await stack.enter_async_context(open_channel(gateway.address)) for gateway in fleet.gateways]
            clients = Clients(channels)
            middle = len(self._plans) // 3 if self._kills else len(self._plans)
            calm, wild = self._plans[:middle], self._plans[middle:]
            warm = len(calm) // 2
            await self._load(clients, calm[:warm])
            history.before = await self._rest()
            await self._load(clients, calm[warm:])
            history.rests.append(await self._rest())
            killing = asyncio.create_task(self._kill(clients, len(wild)))
            await self._load(clients, wild)
            await clients.end()
            await killing
            if wild:
                history.rests.append(await self._rest())
            await self._survived()
            history.asks, history.seen = clients.asks, clients.seen
            history.turns = await self._turns_kept()
        self._upstream.close()
        history.sent = self._upstream.sent
        history.gateway_killed = any(name.startswith("gateway") for name in self._killed)
        history.responses, history.attempts = self._rows("responses"), self._rows("attempts")
        return Report(history, check(history), self._killed, time.monotonic() - began)

    async def _prepare(self) -> None:
        texts = self._folder / "texts"
        texts.mkdir()
        (texts / "words.md").write_text("# Words\n\nSay what the chaos says, and nothing else.\n", encoding="utf-8")
        await index(self._fleet.address, "chaos", texts)
        async with SluiceClient(self._fleet.address) as client:
            for number in range(CONVERSATIONS):
                await client.create_conversation(f"chaos-{number}")

    async def _turns_kept(self) -> list[Turn]:
        async with SluiceClient(self._fleet.address) as client:
            return [
                Turn(turn.labels["tag"], turn.response, TurnState.Name(turn.state)[11:].lower(), _answer(turn.answer))
                for number in range(CONVERSATIONS)
                for turn in await client.list_turns(f"chaos-{number}").all()
            ]

    async def _load(self, clients: Clients, plans: list[Plan]) -> None:
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(plan: Plan) -> None:
            async with room:
                await clients.run(plan)

        await asyncio.gather(*(one(plan) for plan in plans))

    async def _kill(self, clients: Clients, responses: int) -> None:
        """Kills a service after a random number of events, and waits until it is back, before the next."""
        turns = self._turns()
        for _ in range(self._kills):
            service = next(turns)
            target = clients.count + self._rng.randrange(5, 10 + 8 * responses // (self._kills + 1))
            async with clients.moved:
                await clients.moved.wait_for(lambda: clients.ended or clients.count >= target)  # noqa: B023  # awaited at once
            if clients.ended:
                return
            clients.calm.clear()
            await service.kill()
            self._killed.append(service.name)
            await service.start()
            clients.calm.set()

    def _turns(self) -> Iterator[Service]:
        """Gateways, adapters and retrieval in turn."""
        fleet = self._fleet
        assert fleet.retrieval is not None
        round_ = 0
        while True:
            yield fleet.gateways[round_ % len(fleet.gateways)]
            yield fleet.adapters[round_ % len(fleet.adapters)]
            yield fleet.retrieval
            round_ += 1

    async def _rest(self) -> dict[str, Process]:
        """Waits until nothing streams and nothing is served any more, and returns what the processes hold."""
        services = self._fleet.services
        with contextlib.suppress(TimeoutError):  # what is not at rest by then is found by the checker
            async with asyncio.timeout(_REST_SECONDS):
                while any(sent.open for sent in self._upstream.sent):
                    self._upstream.changed.clear()
                    await self._upstream.changed.wait()
                while any([await self._in_flight(name) for name in services]):  # noqa: ASYNC110  # other processes
                    await asyncio.sleep(0.1)
        return {
            service.name: _process(service.pid, await self._in_flight(service.name)) for service in services.values()
        }

    async def _survived(self) -> None:
        """Waits until what gateways left that were killed is ended by others, which takes a lease."""
        if not self._stores:
            return
        with contextlib.suppress(TimeoutError):  # as above
            async with asyncio.timeout(_REST_SECONDS), Redis.from_url(self._stores["redis"]) as log:
                while await log.exists("sluice:running") or self._running():  # noqa: ASYNC110  # other processes
                    await asyncio.sleep(0.1)

    def _running(self) -> bool:
        return any(row["outcome"] == "running" for row in self._rows("attempts"))

    async def _in_flight(self, name: str) -> int:
        """Returns what a service says it is at."""
        said = await asyncio.to_thread(_fetch, f"http://127.0.0.1:{self._metrics[name]}/metrics")
        # Whoever watches health or a task's end does so for as long as it likes.
        return sum(int(found["count"]) for found in _BUSY.finditer(said) if "Watch" not in found["what"])

    def _rows(self, table: str) -> list[dict[str, Any]]:
        if self._stores:
            with psycopg.connect(self._stores["postgres"], row_factory=dict_row) as connection:
                rows = connection.execute(f"SELECT * FROM {table}".encode()).fetchall()  # noqa: S608  # one of two names
            return [{**row, "labels": _text(row["labels"])} for row in rows]
        with contextlib.closing(sqlite3.connect(self._fleet.state_dirs[0] / "gateway" / "records.db")) as lite:
            lite.row_factory = sqlite3.Row
            return [dict(row) for row in lite.execute(f"SELECT * FROM {table}")]  # noqa: S608  # one of two names


async def run(folder: Path, *, seed: int, responses: int, kills: int, shared: bool = False) -> Report:
    """Runs it in an empty folder. `shared`: two gateways, over Redis and Postgres, which must be there."""
    rng = random.Random(seed)
    plans = draw(rng, responses)
    with contextlib.ExitStack() as stack:
        stores: dict[str, str] = {}
        if shared:
            programs = find(REDIS), find(POSTGRES)
            assert programs[0] is not None
            assert programs[1] is not None
            stores["redis"] = stack.enter_context(redis.running(programs[0])).new_database()
            stores["postgres"] = stack.enter_context(postgres.running(programs[1])).new_database()
        return await _Run(folder, plans, rng, kills, stores).go()


def _settings(folder: Path, url: str, stores: dict[str, str]) -> dict[str, Any]:
    can = ["streaming", "assistant_prefill", "structured_output"]
    gateway: dict[str, Any] = {
        "routes": {"default": {"targets": ["vendor/any"]}},
        "prices": {f"vendor/{name}": PRICES for name in ("any", "other")},
        "limits": {"ttft_seconds": 3, "idle_seconds": 1.5, "total_seconds": 30},
        # So much goes wrong here on purpose that the circuit would be open all the time.
        "resilience": {
            "breaker": {"failures": 1_000_000},
            "retry": {"share": 1.0},
            "hedge": {"share": 1.0},
        },
    }
    if stores:
        gateway["replicas"] = 2
        gateway["log"] = {"redis": {"url": stores["redis"], "lease_seconds": 2}}
        gateway["records"] = {"url": stores["postgres"], "lease_seconds": 3}
        gateway["conversations"] = {"lease_seconds": 3}
    models = [{"id": name, "capabilities": can} for name in ("any", "other")]
    return {
        "providers": {"vendor": {"adapter": "openai", "base_url": url, "api_key": "x", "models": models}},
        "gateway": gateway,
        "retrieval": {"allowed_roots": [str(folder)]},
    }


def _process(pid: int, in_flight: int) -> Process:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    return Process(pid, len(list(Path(f"/proc/{pid}/fd").iterdir())), pages * _PAGE_KILOBYTES, threads, in_flight)


def _answer(message: Message) -> str:
    """Returns the text of a message."""
    return "".join(part.text for part in message.parts)


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # of a process of this run
        return str(answer.read().decode())


def _text(labels: object) -> str:
    return labels if isinstance(labels, str) else json.dumps(labels)
