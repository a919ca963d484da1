"""The health check that containers run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sluice_kit import probe

Status = health_pb2.HealthCheckResponse.ServingStatus


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[str, health.aio.HealthServicer]]:
    """A server whose health can be set, and where it is."""
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"unix:{tmp_path}/probe.sock"
    server.add_insecure_port(address)
    await server.start()
    yield address, servicer
    await server.stop(None)


@pytest.mark.parametrize(("status", "code"), [(Status.Value("SERVING"), 0), (Status.Value("NOT_SERVING"), 1)])
async def test_the_exit_code_says_whether_it_serves(
    served: tuple[str, health.aio.HealthServicer],
    status: int,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, servicer = served
    await servicer.set("readiness", status)
    assert await asyncio.to_thread(probe.main, [address, "--service", "readiness"]) == code
    assert capsys.readouterr().out == f"{Status.Name(status)}\n"


async def test_a_failed_call_is_no_status(
    served: tuple[str, health.aio.HealthServicer], capsys: pytest.CaptureFixture[str]
) -> None:
    address, _ = served
    assert await asyncio.to_thread(probe.main, [address, "--service", "nobody"]) == 2
    assert "NOT_FOUND" in capsys.readouterr().err
    assert await asyncio.to_thread(probe.main, [f"{address}.gone"]) == 2
    assert "UNAVAILABLE" in capsys.readouterr().err
