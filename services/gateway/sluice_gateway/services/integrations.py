"""`IntegrationService`: the adapters and their health."""

import asyncio
from typing import Final

from sluice.gateway.v1 import integration_service_pb2 as pb
from sluice_gateway.catalog import Catalog
from sluice_gateway.health import Health, HealthMonitor
from sluice_gateway.integrations import Integration, Integrations
from sluice_gateway.registration import Registration
from sluice_gateway.services.paging import page
from sluice_gateway.services.sign_in import begin_sign_in
from sluice_kit.call import Call
from sluice_kit.rpc import SendMessage

_DEFAULT_PAGE: Final = 100


class IntegrationService:
    """Implements sluice.gateway.v1.IntegrationService."""

    def __init__(
        self,
        integrations: Integrations,
        health: Health,
        monitor: HealthMonitor,
        catalog: Catalog,
        registration: Registration,
    ) -> None:
        self._integrations = integrations
        self._health = health
        self._monitor = monitor
        self._catalog = catalog
        self._registration = registration

    async def ListIntegrations(self, request: pb.ListIntegrationsRequest, call: Call) -> pb.ListIntegrationsResponse:
        every = list(self._integrations)
        taken, token = page(every, lambda one: one.id, request.page_size, request.page_token, _DEFAULT_PAGE)
        # What each adapter knows of itself, without asking its vendor: that is what a probe is for.
        healths = await asyncio.gather(*(self._health.ask(one, call, probe=False) for one in taken))
        return pb.ListIntegrationsResponse(
            integrations=[_described(one, health) for one, health in zip(taken, healths, strict=True)],
            next_page_token=token,
        )

    async def GetIntegrationHealth(
        self, request: pb.GetIntegrationHealthRequest, call: Call
    ) -> pb.GetIntegrationHealthResponse:
        integration = self._integrations.get(request.integration)
        return pb.GetIntegrationHealthResponse(health=await self._health.ask(integration, call, probe=True))

    async def WatchIntegrationHealth(
        self, request: pb.WatchIntegrationHealthRequest, call: Call, send: SendMessage
    ) -> None:
        await self._monitor.watch(request.integration, send)

    async def BeginSignIn(self, request: pb.BeginSignInRequest, call: Call, send: SendMessage) -> None:
        integration = self._integrations.get(request.integration)
        await begin_sign_in(integration, call, send)
        self._catalog.invalidate(integration.id)

    async def RegisterIntegration(
        self, request: pb.RegisterIntegrationRequest, call: Call
    ) -> pb.RegisterIntegrationResponse:
        added = await self._registration.register(request.integration, request.address, call)
        # One that is not up yet is registered all the same: it may come later.
        health = await self._health.ask(added, call, probe=False)
        return pb.RegisterIntegrationResponse(integration=_described(added, health))

    async def RemoveIntegration(self, request: pb.RemoveIntegrationRequest, call: Call) -> pb.RemoveIntegrationResponse:
        await self._registration.remove(request.integration)
        return pb.RemoveIntegrationResponse()


def _described(one: Integration, health: pb.IntegrationHealth) -> pb.Integration:
    return pb.Integration(
        id=one.id, adapter=one.adapter, placement=one.placement, health=health, registered=one.registered
    )
