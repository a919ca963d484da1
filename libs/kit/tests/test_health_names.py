"""Liveness is about the event loop alone, readiness about what a service needs itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sluice_kit import health
from sluice_kit.auth import Authenticator, LocalAuthenticator
from sluice_kit.channels import open_channel
from sluice_kit.config import ServerConfig
from sluice_kit.server import Server, shut_down, start

if TYPE_CHECKING:
    from sluice_kit.tls import ListenerTls

UP, DOWN = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
# A channel of ours watches health itself and would refuse to ask a service that is not serving.
PLAIN = {"grpc.service_config": "{}"}


class Needy:
    """A service with a database, which may be away."""

    name = "needy"
    listen = "127.0.0.1:0"
    probe: str | None = "127.0.0.1:0"
    authenticator: Authenticator = LocalAuthenticator()
    tls: "ListenerTls | None" = None

    def __init__(self) -> None:
        self.away = False
        self.draining, self.drained = asyncio.Event(), asyncio.Event()
        self.needs: dict[str, health.Check] = {"records": self._ask}

    async def _ask(self) -> None:
        if self.away:
            raise ConnectionError("secret-host:5432 refused")

    def register(self, server: Server) -> None:
        """It has no RPCs."""

    async def start(self) -> None:
        """It has nothing to start."""

    async def drain(self, grace: float) -> None:
        self.draining.set()
        await self.drained.wait()

    async def stop(self) -> None:
        """It has nothing to stop."""


@asynccontextmanager
async def watching(address: str | None, name: str) -> AsyncIterator[Any]:
    """Returns a function that waits for the next change."""
    assert address is not None
    async with open_channel(address, PLAIN) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        call = stub.Watch(health_pb2.HealthCheckRequest(service=name))

        async def change() -> int:
            return int((await call.read()).status)

        yield change
        call.cancel()


async def test_readiness_follows_what_the_service_needs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.01)
    service = Needy()
    service.away = True
    server = await start(service, ServerConfig())
    async with (
        watching(server.probe_address, "readiness") as ready,
        watching(server.probe_address, "") as by_default,
        watching(server.probe_address, "liveness") as alive,
        watching(server.address, "") as serving,
        watching(server.address, "readiness") as there_too,
    ):
        assert [await one() for one in (ready, by_default, there_too)] == [DOWN] * 3
        # Who balances goes on calling, and is told what is wrong.
        assert [await one() for one in (alive, serving)] == [UP] * 2
        for away, said in ((False, UP), (True, DOWN), (False, UP)):
            service.away = away
            assert [await one() for one in (ready, by_default, there_too)] == [said] * 3
        stopping = asyncio.create_task(shut_down(service, server, 5))
        await service.draining.wait()
        assert [await one() for one in (ready, by_default, serving, there_too)] == [DOWN] * 4
        async with watching(server.probe_address, "liveness") as still:
            assert await still() == UP
        service.drained.set()
        await stopping
    said_so = [record for record in caplog.records if record.getMessage() == "not ready"]
    assert [record.__dict__["error"] for record in said_so] == ["ConnectionError"] * 2
    assert "secret-host" not in caplog.text


async def test_what_never_answers_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_ANSWER_SECONDS", 0.01)
    service = Needy()
    service.needs = {"log": asyncio.Event().wait}
    service.drained.set()
    server = await start(service, ServerConfig())
    async with watching(server.probe_address, "readiness") as ready:
        assert await ready() == DOWN
    await shut_down(service, server, 1)


async def test_each_need_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.01)
    service = Needy()
    service.needs["response log"] = asyncio.Event().wait
    monkeypatch.setattr(health, "_ANSWER_SECONDS", 0.01)
    service.drained.set()
    server = await start(service, ServerConfig())
    async with (
        watching(server.address, "readiness/response log") as log,
        watching(server.probe_address, "readiness/records") as records,
    ):
        assert (await log(), await records()) == (DOWN, UP)
        service.away = True
        assert await records() == DOWN
    await shut_down(service, server, 1)
