"""The certificates of a local mesh: made in its state folder, and renewed as long as it runs."""

import asyncio
import datetime
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from sluice_cli import authority
from sluice_kit import peers
from sluice_kit.config import ConfigDocument, ConfigError
from sluice_kit.tls import MeshTls, mesh_tls

log = logging.getLogger(__name__)

_LIFE: Final = datetime.timedelta(days=7)
_LOOK_SECONDS: Final = 60.0
"""Often, because a machine that slept does not count the time: what ended meanwhile is renewed soon after it wakes."""
_TRUST_DOMAIN: Final = "sluice.local"


class Certificates:
    """A folder with a CA of its own and a certificate for each service of the mesh."""

    def __init__(self, folder: Path) -> None:
        """Makes the CA if there is none. Raises ConfigError if the folder cannot be used."""
        self._folder = folder
        self._services: tuple[str, ...] = ()
        try:
            if (folder / authority.CA_FILE).exists():
                self._authority = authority.Authority.open(folder)
            else:
                self._authority = authority.Authority.create(folder, _TRUST_DOMAIN)
        except authority.AuthorityError as error:
            raise ConfigError(f"certificates: {error}") from None

    def settings(self, service: str) -> dict[str, str]:
        """Returns the section `tls` for a service, whose certificate is made where it is needed. Raises ConfigError."""
        self._services += (service,)
        self._ensure((service,))
        return {
            "certificate": str(authority.certificate_file(self._folder, service)),
            "key": str(authority.key_file(self._folder, service)),
            "ca": str(self._folder / authority.CA_FILE),
            "trust_domain": self._authority.trust.trust_domain,
        }

    def own(self) -> MeshTls:
        """Returns what the supervisor shows to its processes. Raises ConfigError."""
        own = mesh_tls(ConfigDocument(None, {"tls": self.settings(peers.SUPERVISOR)}))
        assert own is not None  # it has all files
        return own

    async def keep(self) -> None:
        """Renews what nears its end, until this is cancelled. The services take it without a restart."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.renew()

    def renew(self) -> None:
        """Renews what nears its end. What cannot be renewed now is tried again at the next look."""
        try:
            self._ensure(self._services)
        except ConfigError as error:
            log.warning("%s", error)

    def _ensure(self, services: Iterable[str]) -> None:
        try:
            self._authority.ensure(services, _LIFE)
        except authority.AuthorityError as error:
            raise ConfigError(f"certificates: {error}") from None
        except ValueError as error:
            raise ConfigError(f"--mtls: {error}") from None
