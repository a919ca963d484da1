"""Asks a process how it is, over the address that it serves."""

import asyncio
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sluice.provider.v1 import provider_service_pb2
from sluice.provider.v1.provider_service_pb2_grpc import ProviderServiceStub
from sluice_cli.supervisor.child import Child, State
from sluice_kit.channels import open_channel
from sluice_kit.identity import IDENTITY_KEY, LOCAL_IDENTITY, encode
from sluice_kit.tls import MeshTls

_RETRY_SECONDS: Final = 0.3
_STATUS_SECONDS: Final = 5.0
_OPTIONS: Final = {
    # A process that starts is found soon after it listens, and health is asked of one that does not serve yet.
    "grpc.max_reconnect_backoff_ms": 200,
    "grpc.service_config": "{}",
}


async def follow(child: Child, tls: MeshTls | None = None) -> None:
    """Tells the child what its process says of itself, until this is cancelled.

    `tls` is the supervisor's own, where the mesh has mutual TLS; the gateway's public door has none of it.
    """
    inside = tls if child.spec.kind != "gateway" else None
    channel = open_channel(child.spec.probe or child.spec.address, _OPTIONS, tls=inside, service=child.spec.name)
    try:
        while True:
            try:
                await _watch(child, channel)
            except grpc.aio.AioRpcError:
                child.note_health(False)
            await asyncio.sleep(_RETRY_SECONDS)
    finally:
        await channel.close()


async def _watch(child: Child, channel: grpc.aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)  # its methods are not in the stubs
    call = stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
    async for answer in call:
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        child.note_health(serving)
        if serving and child.spec.kind == "provider" and child.status.state == State.UP:
            await _ask_status(child, channel)


async def _ask_status(child: Child, channel: grpc.aio.Channel) -> None:
    request = provider_service_pb2.GetStatusRequest()
    metadata = ((IDENTITY_KEY, encode(LOCAL_IDENTITY)),)
    status = await ProviderServiceStub(channel).GetStatus(request, timeout=_STATUS_SECONDS, metadata=metadata)
    child.note_missing(list(status.missing_settings), "" if status.available else status.detail)
