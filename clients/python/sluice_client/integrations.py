"""Adding and removing integrations at run time."""

from sluice.gateway.v1 import integration_service_pb2 as pb
from sluice.gateway.v1.integration_service_pb2_grpc import IntegrationServiceStub
from sluice_client.connection import Connection


class RegistrationCalls(Connection):
    """The calls that change which integrations there are. For administrators."""

    async def register_integration(
        self, integration: str, address: str, *, timeout: float | None = None
    ) -> pb.Integration:
        """Adds an adapter that listens at an address, `host:port` or `unix:/path`, and returns it with its health.

        Again with the same address changes nothing. Raises PermissionDeniedError for an address that the gateway's
        configuration does not allow, ConflictError if the id is taken.
        """
        request = pb.RegisterIntegrationRequest(integration=integration, address=address)
        method = self.stub(IntegrationServiceStub).RegisterIntegration
        return (await self.unary(method, request, timeout=timeout)).integration

    async def remove_integration(self, integration: str, *, timeout: float | None = None) -> None:
        """Removes an adapter that was registered; what it is being asked goes on to its end.

        Not repeated: a second try would not find it. Raises PermissionDeniedError for one of the configuration.
        """
        request = pb.RemoveIntegrationRequest(integration=integration)
        method = self.stub(IntegrationServiceStub).RemoveIntegration
        await self.unary(method, request, timeout=timeout, repeatable=False)
