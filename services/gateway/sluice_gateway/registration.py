"""Registering integrations at run time: which addresses are allowed, and what must hear of it."""

import asyncio
import logging
import posixpath
import re
from collections.abc import Sequence
from typing import Final

from sluice_gateway.catalog import Catalog
from sluice_gateway.health import HealthMonitor
from sluice_gateway.integrations import Integration, Integrations
from sluice_gateway.pipeline.standing import Standings
from sluice_gateway.records.registered import Registered
from sluice_kit.call import Call
from sluice_kit.config import ConfigDocument
from sluice_kit.errors import ConflictError, PermissionDeniedError, SluiceError
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
        poll_seconds: float | None,
        standings: Standings,
    ) -> None:
        """`poll_seconds`: how often to look what other gateways registered; None: there are none."""
        self._poll_seconds = poll_seconds
        self._polling: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._restored: dict[str, str] = {}
        """The addresses of those that are registered here as they are on record."""
        self._refused: dict[str, str] = {}
        """Those on record that are not allowed here, or hidden, so that it is said once."""
        self._allowed = allowed
        self._integrations = integrations
        self._records = records
        self._catalog = catalog
        self._monitor = monitor
        self._standings = standings

    async def start(self) -> None:
        """Brings back what was registered before a restart, and follows what other gateways register from now on.

        Raises STORE_UNAVAILABLE for a file that cannot be read. A server that is away is asked again.
        """
        if self._poll_seconds is None:
            await self._restore()
            return
        await self._look(away=False)
        self._polling = asyncio.get_running_loop().create_task(self._poll(self._poll_seconds))

    async def close(self) -> None:
        """Ends what `start` began."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait((self._polling,))

    async def _poll(self, seconds: float) -> None:
        away = False
        while True:
            await asyncio.sleep(seconds)
            away = await self._look(away=away)

    async def _look(self, *, away: bool) -> bool:
        """Looks what is on record. Returns whether the records are away, which is said once."""
        try:
            async with self._lock:
                await self._restore()
        except SluiceError as error:
            if not away:
                log.warning("registered integrations cannot be read", extra={"reason": error.reason_name})
            return True
        return False

    async def _restore(self) -> None:
        """Makes the registered integrations those on record, as far as the configuration allows them."""
        records = await self._records.all()
        for name, address in list(self._restored.items()):
            if records.get(name) != address:
                self._take_away(name)
        self._refused = {name: address for name, address in self._refused.items() if records.get(name) == address}
        for name, address in records.items():
            if name in self._restored or self._refused.get(name) == address:
                continue
            if name in self._integrations:
                log.warning("a registered integration is hidden by a configured one", extra={"integration": name})
            elif not self._allowed.allows(address):
                log.warning("a registered integration is no longer allowed", extra={"integration": name})
            else:
                self._bring(name, address)
                continue
            self._refused[name] = address

    def _bring(self, name: str, address: str) -> Integration:
        added = self._integrations.add(name, address)
        self._restored[name] = address
        self._standings.forget(name)  # what is there now did nothing yet
        self._catalog.invalidate(name)
        self._monitor.added(added)
        return added

    def _take_away(self, name: str) -> None:
        del self._restored[name]
        self._integrations.remove(name)
        self._standings.forget(name)
        self._catalog.invalidate(name)
        self._monitor.removed(name)

    async def register(self, integration: str, address: str, call: Call) -> Integration:
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
        async with self._lock:
            await self._restore()
            if integration in self._integrations:
                there = self._integrations.get(integration)
                if there.registered and self._restored.get(integration) == address:
                    return there
                raise ConflictError(f"there is an integration '{integration}'", metadata={"resource": integration})
            await self._records.add(integration, address, call.identity)
            added = self._bring(integration, address)
        log.info("integration registered", extra={"integration": integration})
        return added

    async def remove(self, integration: str) -> None:
        """Removes one. Raises MODEL_NOT_FOUND, PermissionDeniedError for one of the configuration, STORE_UNAVAILABLE."""
        async with self._lock:
            if integration not in self._integrations:
                await self._restore()  # another gateway may have registered it a moment ago
            if not self._integrations.get(integration).registered:
                raise PermissionDeniedError(
                    f"'{integration}' stands in the configuration; remove it there",
                    metadata={"integration": integration},
                )
            await self._records.remove(integration)
            self._take_away(integration)
        log.info("integration removed", extra={"integration": integration})
