"""What the gateway says of itself while its response log is away: it is alive, and not ready."""

from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sluice.error.v1.error_reason_pb2 import ErrorReason
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


async def test_it_may_start_before_its_log(
    start: Any, ask: Any, own_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.05)
    own_redis.kill()
    async with start({"log": {"redis": {"url": own_redis.url}}}) as client:
        stub: Any = health_pb2_grpc.HealthStub(client.channel)
        ready = stub.Watch(health_pb2.HealthCheckRequest(service=health.READINESS))
        assert (await ready.read()).status == DOWN
        assert (await client.stream(ask())).error.reason == ErrorReason.ERROR_REASON_STORE_UNAVAILABLE
        own_redis.start()
        assert (await ready.read()).status == UP
        assert (await client.stream(ask())).error is None
        ready.cancel()
