"""Start and stop of a mesh: in any order, and under load without anybody noticing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_client import SluiceClient, question
from sluice_kit.errors import SluiceError
from sluice_kit.testing import document_of, make_service, running

from .services import Fleet, Service, index

R = ErrorReason
STREAMS: Final = 200
TOKENS: Final = 12
MODEL: Final = f"scripted/text?tokens={TOKENS}&delay_ms=170"
"""Some two seconds."""


@dataclass
class Load:
    """Clients that ask again and again, so that at any time so many streams are open."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    open: int = 0
    stopping: bool = False
    full: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, address: str) -> None:
        """Returns once it is `stopping` and the last streams have ended."""
        async with SluiceClient(address) as client:
            await asyncio.gather(*(self._one(client, number % 4 == 0) for number in range(STREAMS)))

    async def _one(self, client: SluiceClient, grounded: bool) -> None:
        spec = question("which words", model=MODEL)
        if grounded:
            spec.grounding.corpora.append("corpora/words")
            spec.grounding.policy = pb.GroundingPolicy.GROUNDING_POLICY_REQUIRED
        while not self.stopping:
            text, numbers = "", []
            try:
                async with client.stream_chat(spec) as stream:
                    async for item in stream:
                        numbers.append(item.sequence)
                        if item.kind == "accepted":
                            self._opened(1)
                        text += item.event.text_delta.text
            except SluiceError as error:
                self.failures.append(f"{error.reason_name} after {len(numbers)} events: {error.message}")
            else:
                if len(text.split()) != TOKENS or numbers != list(range(1, len(numbers) + 1)):
                    self.failures.append(f"{len(text.split())} words, events {numbers}")
                self.answered += 1
            finally:
                if numbers:
                    self._opened(-1)

    def _opened(self, more: int) -> None:
        self.open += more
        if self.open == STREAMS:
            self.full.set()


def _settings(folder: Path, **gateway: Any) -> dict[str, Any]:
    return {
        "providers": {"scripted": {"adapter": "scripted"}},
        "gateway": {"routes": {"default": {"targets": ["scripted/text"]}}, **gateway},
        "retrieval": {"allowed_roots": [str(folder)]},
        "server": {"drain_seconds": 50},
    }


async def _restart_under_load(fleet: Fleet, folder: Path, *services: Service) -> None:
    texts = folder / "texts"
    texts.mkdir()
    (texts / "words.md").write_text("# Words\n\nWhich words there are.\n", encoding="utf-8")
    await index(fleet.address, "words", texts)
    load = Load()
    clients = asyncio.create_task(load.run(fleet.address))
    for service in services:
        # In the meantime some wait for their turn, or for the service that is away.
        load.full.clear()
        await load.full.wait()
        await service.restart()
    load.stopping = True
    await clients
    assert load.failures == []
    assert load.answered >= STREAMS * len(services)


@pytest.mark.slow
async def test_every_service_restarts_under_two_hundred_streams(
    tmp_path: Path, redis_url: str, postgres_url: str
) -> None:
    shared = {"replicas": 2, "log": {"redis": {"url": redis_url}}, "records": {"url": postgres_url}}
    fleet = Fleet(tmp_path, _settings(tmp_path, **shared), gateways=2, adapters=2)
    async with fleet.running():
        await _restart_under_load(fleet, tmp_path, *fleet.services.values())


@pytest.mark.slow
async def test_one_gateway_lets_its_streams_end_and_clients_wait_for_the_next(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, _settings(tmp_path))
    async with fleet.running():
        await _restart_under_load(fleet, tmp_path, *fleet.gateways)


@pytest.mark.parametrize("order", list(itertools.permutations(("gateway", "scripted", "retrieval"))), ids="-".join)
async def test_the_order_of_start_does_not_matter(order: tuple[str, ...], tmp_path: Path) -> None:
    places = {name: f"unix:{tmp_path}/{name}.sock" for name in ("scripted", "retrieval", "inside")}
    settings: dict[str, Any] = {
        "state_dir": str(tmp_path / "state"),
        "providers": {"scripted": {"adapter": "scripted", "listen": places["scripted"]}},
        "retrieval": {"listen": places["retrieval"], "gateway": {"address": places["inside"]}},
        "gateway": {
            "listen": "127.0.0.1:0",
            "internal": places["inside"],
            "integrations": {"scripted": {"address": places["scripted"]}},
            "retrieval": {"address": places["retrieval"]},
            # Asked again and again until it is there, it would be left alone for a while.
            "resilience": {"breaker": {"failures": 1000}},
        },
    }
    document = document_of(settings, tmp_path)
    async with AsyncExitStack() as stack:
        up: set[str] = set()
        client: SluiceClient | None = None
        for name in order:
            options = {"integration": name} if name == "scripted" else {}
            service = make_service("providers" if options else name, document, **options)
            server = await stack.enter_async_context(running(service, document))  # which returns once it serves
            up.add(name)
            if name == "gateway":
                client = await stack.enter_async_context(SluiceClient(server.address))
            if client is not None:
                await _check_what_is_there(client, up)


async def _check_what_is_there(client: SluiceClient, up: set[str]) -> None:
    """Checks that the gateway serves what is there, and names what is not."""

    async def ask() -> None:
        await client.chat(question("hello", model="scripted/text?tokens=3"))

    async def list_corpora() -> None:
        await client.list_corpora().all()

    for name, use in (("scripted", ask), ("retrieval", list_corpora)):
        if name in up:
            async with asyncio.timeout(60):
                while not await _served(use, name):  # noqa: ASYNC110  # it happens in a service that knows no test
                    await asyncio.sleep(0.05)  # a connection that failed is tried again within a second
        else:
            assert not await _served(use, name)


async def _served(use: Callable[[], Awaitable[None]], name: str) -> bool:
    failure = None
    try:
        await use()
    except SluiceError as error:
        failure = error
    if failure is not None:
        assert (failure.reason, failure.metadata["service"]) == (R.ERROR_REASON_SERVICE_UNREACHABLE, name)
    return failure is None
