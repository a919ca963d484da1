"""`IntegrationService`: the adapters and their health."""

import asyncio
import time
from typing import Final

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import integration_service_pb2 as pb
from sluice.provider.v1.provider_service_pb2 import GetStatusRequest, GetStatusResponse
from sluice_gateway.integrations import Integration, Integrations
from sluice_gateway.services.paging import page
from sluice_kit.call import Call
from sluice_kit.errors import SluiceError, make_error

_LIST_SECONDS: Final = 2.0
_PROBE_SECONDS: Final = 10.0
_DEFAULT_PAGE: Final = 100


class IntegrationService:
    """Implements sluice.gateway.v1.IntegrationService."""

    def __init__(self, integrations: Integrations) -> None:
        self._integrations = integrations

    async def ListIntegrations(self, request: pb.ListIntegrationsRequest, call: Call) -> pb.ListIntegrationsResponse:
        every = list(self._integrations)
        taken, token = page(every, lambda one: one.id, request.page_size, request.page_token, _DEFAULT_PAGE)
        limited = call.with_timeout(_LIST_SECONDS)
        # What each adapter knows of itself, without asking its vendor: that is what a probe is for.
        healths = await asyncio.gather(*(_health(one, limited, probe=False) for one in taken))
        return pb.ListIntegrationsResponse(
            integrations=[
                pb.Integration(id=one.id, adapter=one.adapter, placement=one.placement, health=health)
                for one, health in zip(taken, healths, strict=True)
            ],
            next_page_token=token,
        )

    async def GetIntegrationHealth(
        self, request: pb.GetIntegrationHealthRequest, call: Call
    ) -> pb.GetIntegrationHealthResponse:
        integration = self._integrations.get(request.integration)
        health = await _health(integration, call.with_timeout(_PROBE_SECONDS), probe=True)
        return pb.GetIntegrationHealthResponse(health=health)


async def _health(integration: Integration, call: Call, *, probe: bool) -> pb.IntegrationHealth:
    health = pb.IntegrationHealth()
    health.probe_time.FromNanoseconds(time.time_ns())
    try:
        async with asyncio.timeout_at(call.deadline):
            status = await integration.generator.get_status(GetStatusRequest(probe=probe), call)
    except (SluiceError, TimeoutError) as error:
        failure = error if isinstance(error, SluiceError) else _no_answer(integration)
        health.state = pb.HealthState.HEALTH_STATE_UNREACHABLE
        health.reason = failure.reason
        health.detail = failure.message
        return health
    integration.adapter = status.adapter
    health.state = _state(status)
    health.version = status.version
    health.missing_settings.extend(status.missing_settings)
    if status.HasField("latency"):
        health.latency.CopyFrom(status.latency)
    if health.state != pb.HealthState.HEALTH_STATE_AVAILABLE:
        health.reason = status.last_error or ErrorReason.ERROR_REASON_INTEGRATION_MISCONFIGURED
        health.detail = status.detail or _advice(status)
    return health


def _state(status: GetStatusResponse) -> "pb.HealthState.ValueType":
    if status.missing_settings:
        return pb.HealthState.HEALTH_STATE_MISCONFIGURED
    return pb.HealthState.HEALTH_STATE_AVAILABLE if status.available else pb.HealthState.HEALTH_STATE_UNAVAILABLE


def _advice(status: GetStatusResponse) -> str:
    return f"set {', '.join(status.missing_settings)}" if status.missing_settings else ""


def _no_answer(integration: Integration) -> SluiceError:
    return make_error(ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE, f"the adapter {integration.id} does not answer")
