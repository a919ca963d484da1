"""What the gateway says of itself while its response log is away: it is alive, and not ready."""

from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sluice_kit import health
from sluice_kit.channels import open_channel

UP, DOWN = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_readiness_follows_the_response_log(start: Any, own_redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.05)
    settings = {"probe": "127.0.0.1:0", "log": {"redis": {"url": own_redis.url}}}
    plain = {"grpc.service_config": "{}"}  # without it a channel asks nothing of one that is not serving
    async with start(settings) as client, open_channel(client.mesh.servers["gateway"].probe_address, plain) as at:
        stub: Any = health_pb2_grpc.HealthStub(at)
        ready = stub.Watch(health_pb2.HealthCheckRequest(service=health.READINESS))
        assert (await ready.read()).status == UP
        own_redis.kill()
        assert (await ready.read()).status == DOWN
        alive = await stub.Check(health_pb2.HealthCheckRequest(service=health.LIVENESS))
        assert alive.status == UP
        own_redis.start()
        assert (await ready.read()).status == UP
        ready.cancel()


async def test_without_one_it_needs_nothing(start: Any) -> None:
    async with start() as client:
        assert client.gateway.needs == {}
