"""Registering integrations at run time: which addresses are allowed, and what must hear of it."""

import logging
import posixpath
import re
from collections.abc import Sequence
from typing import Final

from sluice_gateway.catalog import Catalog
from sluice_gateway.health import HealthMonitor
from sluice_gateway.integrations import Integration, Integrations
from sluice_gateway.records.registered import Registered
from sluice_kit.call import Call
from sluice_kit.config import ConfigDocument
from sluice_kit.errors import ConflictError, PermissionDeniedError
from sluice_kit.rpc import invalid_field

log = logging.getLogger(__name__)

_SETTING: Final = "gateway.registration.allow"
_UNIX: Final = "unix:"
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_MAX_PORT: Final = 65535


class AllowList:
    """The addresses at which integrations may be registered; none if it is empty.

    A pattern is an address, `HOST:PORT` or `unix:/PATH`, in which `*` stands for any text: within the host, for the
    whole port, or within one part of the path.
    """

    def __init__(self, document: ConfigDocument, patterns: Sequence[str]) -> None:
        """Raises ConfigError for what is no pattern."""
        self._patterns: list[tuple[str, str]] = []
        for index, pattern in enumerate(patterns):
            place, _, port = ("", "", "") if pattern.startswith(_UNIX) else pattern.rpartition(":")
            fine = pattern.startswith(f"{_UNIX}/") or (place and (port == "*" or port.isdigit()))
            if not fine:
                raise document.error(f"{_SETTING}.{index}", f"'{pattern}' is neither HOST:PORT nor unix:/PATH")
            self._patterns.append((pattern, "") if pattern.startswith(_UNIX) else (place.lower(), port))

    def allows(self, address: str) -> bool:
        """Whether a well-formed address is allowed."""
        if address.startswith(_UNIX):
            parts = address.split("/")
            return any(
                len(parts) == len(pattern.split("/")) and all(map(_matches, parts, pattern.split("/")))
                for pattern, port in self._patterns
                if not port
            )
        host, _, number = address.lower().rpartition(":")
        return any(_matches(host, pattern) and port in ("*", number) for pattern, port in self._patterns if port)


def _matches(text: str, pattern: str) -> bool:
    # Not fnmatch: to it the brackets of an IPv6 address are a set of characters.
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None


def check_address(address: str) -> None:
    """Raises InvalidRequestError unless it is `HOST:PORT` or `unix:/PATH`, written the plain way.

    No other scheme, no `..`: what is compared with the patterns must be what is connected to.
    """
    if address.startswith(_UNIX):
        path = address.removeprefix(_UNIX)
        if (
            path.startswith("/")
            and not path.startswith("//")
            and posixpath.normpath(path) == path
            and path.isprintable()
        ):
            return
    else:
        host, _, port = address.rpartition(":")
        plain = port.isascii() and port.isdigit() and 0 < int(port) <= _MAX_PORT and port == str(int(port))
        if plain and _HOST.fullmatch(host):
            return
    raise invalid_field("address", "must be HOST:PORT or unix:/PATH")


class Registration:
    """Registers and removes integrations, and tells everybody who keeps something of them."""

    def __init__(
        self,
        allowed: AllowList,
        integrations: Integrations,
        records: Registered,
        catalog: Catalog,
        monitor: HealthMonitor,
    ) -> None:
        self._allowed = allowed
        self._integrations = integrations
        self._records = records
        self._catalog = catalog
        self._monitor = monitor

    def restore(self) -> None:
        """Brings back what was registered before a restart, as far as the configuration still allows it."""
        for name, address in self._records.all().items():
            if name in self._integrations:
                log.warning("a registered integration is hidden by a configured one", extra={"integration": name})
            elif not self._allowed.allows(address):
                log.warning("a registered integration is no longer allowed", extra={"integration": name})
            else:
                self._integrations.add(name, address)

    def register(self, integration: str, address: str, call: Call) -> Integration:
        """Registers one. Again with the same address: it stays as it is.

        Raises InvalidRequestError, PermissionDeniedError for an address that is not allowed, ConflictError if the id is
        taken, STORE_UNAVAILABLE.
        """
        check_address(address)
        if not self._allowed.allows(address):
            raise PermissionDeniedError(
                f"integrations may not be registered at {address}; {_SETTING} says where they may",
                metadata={"rule": _SETTING},
            )
        if integration in self._integrations:
            there = self._integrations.get(integration)
            if there.registered and self._records.all().get(integration) == address:
                return there
            raise ConflictError(f"there is an integration '{integration}'", metadata={"resource": integration})
        self._records.add(integration, address, call.identity)
        added = self._integrations.add(integration, address)
        self._catalog.invalidate(integration)
        self._monitor.added(added)
        log.info("integration registered", extra={"integration": integration})
        return added

    def remove(self, integration: str) -> None:
        """Removes one. Raises MODEL_NOT_FOUND, PermissionDeniedError for one of the configuration, STORE_UNAVAILABLE."""
        if not self._integrations.get(integration).registered:
            raise PermissionDeniedError(
                f"'{integration}' stands in the configuration; remove it there", metadata={"integration": integration}
            )
        self._records.remove(integration)
        self._integrations.remove(integration)
        self._catalog.invalidate(integration)
        self._monitor.removed(integration)
        log.info("integration removed", extra={"integration": integration})
