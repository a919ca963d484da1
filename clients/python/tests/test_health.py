"""Following the health of integrations: against the real gateway, across cuts and a restart of it."""

import asyncio
import math

import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import integration_service_pb2 as pb
from sluice_client import RetryPolicy, SluiceClient
from sluice_client.retry import Backoff, Deadline
from sluice_kit.errors import DeadlineError, NotFoundError, SluiceError, UnavailableError
from sluice_kit.testing import Mesh, mesh

from .fake import Line

QUICK = RetryPolicy(initial=0.02, maximum=0.1, patience=60.0)
AVAILABLE = pb.HealthState.HEALTH_STATE_AVAILABLE
UNREACHABLE = pb.HealthState.HEALTH_STATE_UNREACHABLE
TWO = {
    "providers": {"scripted": {"adapter": "scripted"}, "twin": {"adapter": "scripted"}},
    "gateway": {"health": {"background_seconds": 0}},  # so that what runs is what is watched
}


def gone(port: str, *, back: bool) -> dict[str, object]:
    """Settings of a gateway on a port, which knows its adapter or another that is not there."""
    providers = {"scripted": {"adapter": "scripted"}} if back else {}
    integrations = {} if back else {"scripted": {"address": "unix:/nonexistent/sluice.sock"}}
    return {"providers": providers, "gateway": {"listen": port, "integrations": integrations}}


def running(gateway: Mesh) -> int:
    """How many integrations the gateway follows."""
    monitor = gateway.services["gateway"].monitor  # type: ignore[attr-defined]  # this service is the gateway
    return int(monitor.running)


async def test_the_present_by_id_and_then_nothing_runs_when_it_is_left() -> None:
    async with mesh(TWO) as gateway, SluiceClient(gateway.address) as client:
        async with client.watch_integration_health() as watch:
            first = [await anext(watch) for _ in range(2)]
            assert running(gateway) == 2
        assert [(one.id, one.health.state) for one in first] == [("scripted", AVAILABLE), ("twin", AVAILABLE)]
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
        while running(gateway):  # noqa: ASYNC110  # what is waited for happens in a server that knows no test
            await asyncio.sleep(0.005)


async def test_who_stops_waiting_may_read_on_inside_the_block_only() -> None:
    async with mesh() as gateway, SluiceClient(gateway.address) as client:
        async with client.watch_integration_health() as watch:
            await anext(watch)
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not watch._ended
            assert running(gateway) == 1
        bare = client.watch_integration_health()
        await anext(bare)
        waiting = asyncio.ensure_future(anext(bare))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(bare)


async def test_one_integration_and_one_that_is_unknown() -> None:
    async with mesh(TWO) as gateway, SluiceClient(gateway.address) as client:
        async with client.watch_integration_health("twin") as watch:
            assert (await anext(watch)).id == "twin"
        with pytest.raises(NotFoundError) as caught:
            await anext(client.watch_integration_health("nobody"))
        assert caught.value.reason == ErrorReason.ERROR_REASON_MODEL_NOT_FOUND


async def test_a_cut_line_is_told_and_the_present_comes_again() -> None:
    breaks: list[SluiceError] = []
    async with mesh() as gateway:
        line = Line(gateway.address)
        await line.start()
        client = SluiceClient(line.address, retry=QUICK)
        async with client, client.watch_integration_health(on_break=breaks.append) as watch:
            assert (await anext(watch)).id == "scripted"
            for _ in range(3):
                breaks.clear()
                line.cut()
                assert (await anext(watch)).id == "scripted"
                assert breaks
        await line.stop()


async def test_a_restart_of_the_gateway_is_outlived() -> None:
    breaks: list[SluiceError] = []
    async with mesh() as first:
        client = SluiceClient(first.address, retry=QUICK)
        watch = client.watch_integration_health(patience=math.inf, on_break=breaks.append)
        assert (await anext(watch)).health.state == AVAILABLE
    async with client, watch:
        async with mesh(gone(first.address, back=False)):
            assert (await anext(watch)).health.state == UNREACHABLE
            assert breaks[0].reason == ErrorReason.ERROR_REASON_DRAINING
        async with mesh(gone(first.address, back=True)):
            assert (await anext(watch)).health.state == AVAILABLE


async def test_patience_and_time_end() -> None:
    async with SluiceClient("unix:/nonexistent/sluice.sock", retry=QUICK) as client:
        with pytest.raises(UnavailableError):
            await anext(client.watch_integration_health(patience=0.1))
    async with mesh() as gateway, SluiceClient(gateway.address) as client:
        with pytest.raises(DeadlineError):
            async for one in client.watch_integration_health(timeout=0.3):
                assert one.id == "scripted"
        assert client.retry.patience == RetryPolicy().patience


async def test_patience_without_end_never_overflows() -> None:
    backoff = Backoff(RetryPolicy(initial=1e-9, maximum=1e-9, patience=math.inf), Deadline(None))
    backoff._failures = 5000
    await backoff.wait(UnavailableError("away"))
