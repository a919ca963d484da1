"""The providers service: one process for each integration."""

import argparse
from collections.abc import Sequence

from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit import main as kit_main
from sluice_kit.auth import internal_authenticator
from sluice_kit.config import AuthConfig, ConfigDocument, check_listeners
from sluice_kit.peers import RESERVED
from sluice_kit.server import Server
from sluice_kit.tls import mesh_tls
from sluice_providers.colocate import make
from sluice_providers.servicer import face


class ProviderService:
    """One integration, served; see sluice_kit.server.Service."""

    def __init__(self, document: ConfigDocument, integration: str) -> None:
        self.servicer, settings = make(document, integration)
        self.name = "providers"
        self.integration = integration
        self.listen = settings.listen
        self.probe = settings.probe
        tls = mesh_tls(document)
        if tls is not None and integration in RESERVED:
            raise document.error(
                f"providers.{integration}", "with `tls`, this name is another service's; choose another"
            )
        self.authenticator = internal_authenticator(document, tls)
        self.tls = tls.listener() if tls is not None else None
        path = f"providers.{integration}"
        probes = [(f"{path}.probe", settings.probe)] if settings.probe is not None else []
        inside = [(f"{path}.listen", settings.listen)]
        check_listeners(document, document.section("auth", AuthConfig), probes, inside)

    def register(self, server: Server) -> None:
        """Adds ProviderService."""
        server.add(pb.DESCRIPTOR.services_by_name["ProviderService"], face(self.servicer))

    async def start(self) -> None:
        """Gets the adapter ready."""
        await self.servicer.start()

    async def drain(self, grace: float) -> None:
        """Returns at once: attempts in flight end by themselves."""

    async def stop(self) -> None:
        """Ends every connection to the vendor."""
        await self.servicer.close()


def create(document: ConfigDocument, options: argparse.Namespace) -> ProviderService:
    """Makes the service of the integration that `options.integration` names. Raises ConfigError."""
    return ProviderService(document, options.integration)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the process of one integration."""
    parser = kit_main.parser("providers")
    parser.add_argument("--integration", required=True, metavar="ID", help="which entry of `providers` to serve")
    return kit_main.run("providers", create, parser, argv)
