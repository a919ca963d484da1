"""A whole mesh in one process on free ports, for tests.

Services are found by their entry points, so the kit imports none of them. Every listener is a Unix socket in a folder
of its own, except the gateway's, which is loopback on a free port.
"""

import argparse
import contextlib
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from sluice_kit import config as configs
from sluice_kit import telemetry
from sluice_kit.main import SERVICES_GROUP
from sluice_kit.server import Server, Service, shut_down, start


@dataclass(frozen=True)
class Mesh:
    """A running mesh: the gateway's address and each service by its name."""

    address: str
    services: Mapping[str, Service]
    servers: Mapping[str, Server]
    document: configs.ConfigDocument


def make_service(name: str, document: configs.ConfigDocument, **options: Any) -> Service:
    """Makes one service by its entry point. Raises LookupError if its distribution is not installed."""
    for entry in entry_points(group=SERVICES_GROUP):
        if entry.name == name:
            service: Service = entry.load()(document, argparse.Namespace(**options))
            return service
    raise LookupError(f"no installed distribution offers the service '{name}'")


@contextlib.asynccontextmanager
async def running(service: Service, document: configs.ConfigDocument, grace: float = 1.0) -> AsyncIterator[Server]:
    """Runs one service in this process for the length of the block."""
    server = await start(service, document.section("server", configs.ServerConfig))
    try:
        yield server
    finally:
        await shut_down(service, server, grace)


def document_of(settings: Mapping[str, Any], folder: Path) -> configs.ConfigDocument:
    """Writes settings as a sluice.yaml in the folder and reads them back, as a process would."""
    path = folder / "sluice.yaml"
    path.write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
    return configs.load(path, environ={})


@contextlib.asynccontextmanager
async def mesh(
    settings: Mapping[str, Any] | None = None, *, retrieval: bool = False, grace: float = 1.0
) -> AsyncIterator[Mesh]:
    """Runs a gateway and one adapter service per entry of `providers` (and retrieval, if asked for) in this process.

    `settings` is the contents of a sluice.yaml; addresses and `state_dir` are filled in where they are absent.
    """
    values: dict[str, Any] = {key: dict(value) for key, value in (settings or {}).items() if isinstance(value, Mapping)}
    providers = values.setdefault("providers", {"scripted": {"adapter": "scripted"}})
    gateway = values.setdefault("gateway", {})
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-", ignore_cleanup_errors=True)))
        values["state_dir"] = str((settings or {}).get("state_dir", folder / "state"))
        gateway.setdefault("listen", "127.0.0.1:0")
        integrations = gateway.setdefault("integrations", {})
        for name in providers:
            providers[name] = {"listen": f"unix:{folder}/p-{name}.sock", **providers[name]}
            integrations.setdefault(name, {"address": providers[name]["listen"]})
        if retrieval:
            gateway.setdefault("internal", f"unix:{folder}/g.sock")
            values["retrieval"] = {
                "listen": f"unix:{folder}/r.sock",
                "gateway": {"address": gateway["internal"]},
                **values.get("retrieval", {}),
            }
            gateway.setdefault("retrieval", {"address": values["retrieval"]["listen"]})
        document = document_of(values, folder)
        if "telemetry" in values:
            # One for all of them, because they share a process. Its name is no service's, so it has every metric.
            stack.callback(telemetry.switch, telemetry.current())
            await stack.enter_async_context(telemetry.configure(document, "mesh").running())
        services: dict[str, Service] = {}
        servers: dict[str, Server] = {}
        for name in providers:
            if "address" in integrations[name]:
                services[name] = make_service("providers", document, integration=name)
        if retrieval:
            services["retrieval"] = make_service("retrieval", document)
        services["gateway"] = make_service("gateway", document)
        for name, service in services.items():
            servers[name] = await stack.enter_async_context(running(service, document, grace))
        yield Mesh(servers["gateway"].address, services, servers, document)
