"""Sluice's own ways from a client to the upstream, and what they are compared with here.

A path starts its processes and says where a load goes. Peers are in `peers`.
"""

import hashlib
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from bench.load import Target
from bench.process import Process, StartError, free_port
from scripts import servers

INTEGRATION: Final = "bench"


class Site:
    """Where a run takes place: a folder for configurations, sockets and outputs, the upstream, and one key."""

    def __init__(self, folder: Path, upstream_port: int) -> None:
        self.folder = folder
        self.upstream = f"http://127.0.0.1:{upstream_port}/v1"
        self.upstream_port = upstream_port
        self.key = f"sk-bench-{secrets.token_hex(16)}"

    def write(self, name: str, text: str) -> Path:
        """Writes a file of configuration and returns its path."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path


class Running(NamedTuple):
    """A path that is being started: its processes, none for the upstream itself, and where its loads go."""

    processes: list[Process]
    target: Callable[[], Target]
    """To be called once the processes are ready, because some choose their port themselves."""


Path_ = Callable[[Site], Running]


def mock(site: Site) -> Process:
    """Starts the upstream."""
    command = [sys.executable, "-m", "bench.mock", str(site.upstream_port)]
    return Process("mock", command, folder=site.folder, port=site.upstream_port)


def direct(site: Site) -> Running:
    """The client talks to the upstream."""
    return Running([], lambda: Target(protocol="http", port=site.upstream_port))


def two(site: Site) -> Running:
    """Gateway and adapter as two services, a Unix socket between them."""
    socket = site.folder / "two.sock"
    config = _config(site, "two", {"address": f"unix:{socket}"}, listen=f"unix:{socket}")
    adapter = _adapter(site, "two", config, socket)
    gateway, target = _gateway(site, "two", config)
    return Running([adapter, gateway], target)


def shared(site: Site) -> Running:
    """As `two`, with the response log in a Redis of its own, whose CPU counts too."""
    programs = servers.find(servers.REDIS)
    if programs is None:
        raise StartError(servers.why_not(servers.REDIS))
    socket, port = site.folder / "shared.sock", free_port()
    state = site.folder / "shared-redis"
    state.mkdir(exist_ok=True)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(state), "--save", "", "--appendonly", "yes"]
    redis = Process(
        "shared-redis",
        [str(programs.folder / "redis-server"), *options],
        folder=site.folder,
        port=port,
        environ=programs.environment,
    )
    log = {"redis": {"url": f"redis://127.0.0.1:{port}/0"}}
    config = _config(site, "shared", {"address": f"unix:{socket}"}, {"log": log}, listen=f"unix:{socket}")
    adapter = _adapter(site, "shared", config, socket)
    gateway, target = _gateway(site, "shared", config)
    return Running([redis, adapter, gateway], target)


def colocated(site: Site) -> Running:
    """The gateway hosts the adapter."""
    config = _config(site, "colocated", {"colocate": True})
    gateway, target = _gateway(site, "colocated", config)
    return Running([gateway], target)


def _adapter(site: Site, name: str, config: Path, socket: Path) -> Process:
    return Process(
        f"{name}-adapter",
        [sys.executable, "-m", "sluice_providers", "--config", config, "--integration", INTEGRATION],
        folder=site.folder,
        health=f"unix:{socket}",
    )


def _config(
    site: Site, name: str, integration: dict[str, Any], gateway: dict[str, Any] | None = None, **adapter: str
) -> Path:
    """Writes a configuration with everything on: keys, log, ledger, numbering are the gateway's defaults."""
    keys = site.write(
        f"{name}-keys.yaml",
        yaml.safe_dump(
            {"keys": [{"id": "bench", "sha256": hashlib.sha256(site.key.encode()).hexdigest(), "tenant": "bench"}]}
        ),
    )
    settings = {
        "state_dir": str(site.folder / f"{name}-state"),
        "auth": {"mode": "keys", "keys_file": str(keys)},
        "gateway": {"integrations": {INTEGRATION: integration}} | (gateway or {}),
        "providers": {
            INTEGRATION: {"adapter": "openai", "base_url": site.upstream, "api_key": "sk-upstream", **adapter}
        },
    }
    return site.write(f"{name}.yaml", yaml.safe_dump(settings))


def _gateway(site: Site, name: str, config: Path) -> tuple[Process, Callable[[], Target]]:
    port = free_port()
    address = f"127.0.0.1:{port}"
    process = Process(
        f"{name}-gateway",
        [sys.executable, "-m", "sluice_gateway", "--config", config, "--set", f"gateway.listen={address}"],
        folder=site.folder,
        health=address,
    )
    return process, _target(port, site.key)


def _target(port: int, key: str) -> Callable[[], Target]:
    return lambda: Target(
        protocol="grpc", port=port, model=f"{INTEGRATION}/{{}}", headers={"authorization": f"Bearer {key}"}
    )


def obvious(site: Site) -> Running:
    """The same two services written the obvious way: see `obvious`."""
    adapter_port, gateway_port = free_port(), free_port()
    module = [sys.executable, "-m", "bench.obvious"]
    adapter = Process(
        "obvious-adapter",
        [*module, "adapter", str(adapter_port), site.upstream],
        folder=site.folder,
        port=adapter_port,
    )
    gateway = Process(
        "obvious-gateway",
        [*module, "gateway", str(gateway_port), f"127.0.0.1:{adapter_port}"],
        folder=site.folder,
        port=gateway_port,
    )
    return Running([adapter, gateway], _target(gateway_port, site.key))


PATHS: Final[dict[str, Path_]] = {"direct": direct, "two": two, "colocated": colocated, "obvious": obvious}
"""By name, those that a run takes if it is not told otherwise; the first of them costs nothing of its own."""

MORE: Final[dict[str, Path_]] = {"shared": shared}
"""Those that are measured when they are named."""

OURS: Final = ("two", "colocated", "shared")
"""Those that are Sluice."""
