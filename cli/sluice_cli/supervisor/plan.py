"""Which processes make the mesh, and with which arguments."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Literal

from sluice_cli.mesh import DEFAULT_ADDRESS
from sluice_cli.supervisor.certificates import Certificates
from sluice_cli.supervisor.ports import free_port
from sluice_kit.config import ConfigDocument, ConfigError
from sluice_kit.main import SERVICES_GROUP

Kind = Literal["provider", "retrieval", "gateway"]

DEFAULT_INTEGRATIONS: Final = ("extractive", "scripted", "openai", "anthropic")
"""What runs where the configuration names no providers: two need nothing, two say which key they miss."""

_MAX_SOCKET_PATH: Final = 100
"""Bytes in the path of a Unix socket; the system's limit is a little above."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process of the mesh."""

    name: str
    """How it is called on the board and in its log's name."""
    kind: Kind
    module: str
    """What `python -m` runs."""
    arguments: tuple[str, ...]
    address: str
    """Where it listens."""
    required: bool
    """Whether the mesh is wrongly configured without it."""
    probe: str | None = None
    """Where it answers health checks, if `address` is not for us."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole mesh."""

    children: tuple[ChildSpec, ...]
    address: str
    """The gateway's address."""
    secure: bool
    """Whether the gateway does TLS there."""
    elsewhere: Mapping[str, str]
    """Parts that need no process of ours, and where they are."""


def make_plan(
    document: ConfigDocument,
    overrides: Sequence[str],
    runtime_dir: Path,
    port: int | None,
    certificates: Certificates | None = None,
) -> Plan:
    """Returns the plan. Raises ConfigError.

    `port` replaces the gateway's; 0 is any free one. With `certificates`, services listen on ports of 127.0.0.1, with
    mutual TLS, instead of on Unix sockets.
    """
    modules = _modules()
    gateway = _mapping(document, "gateway")
    placed = _mapping(document, "gateway.integrations")
    configured = document.entries("providers")
    integrations = configured or (() if placed else DEFAULT_INTEGRATIONS)
    address = _gateway_address(document, gateway, port)
    common = _common(document, overrides)
    places = _Places(runtime_dir, certificates)
    children: list[ChildSpec] = []
    elsewhere: dict[str, str] = {}
    wiring = [f"gateway.listen={address}"]
    for name, place in placed.items():
        if isinstance(place, dict) and place.get("colocate"):
            elsewhere[name] = "inside the gateway"
        elif isinstance(place, dict) and place.get("address"):
            elsewhere[name] = str(place["address"])
    for index, name in enumerate(integrations):
        if name in elsewhere:
            continue
        listen = _listen(document, f"providers.{name}") or places.new(f"p-{name}", f"p{index}")
        wiring.append(f"gateway.integrations.{name}.address={listen}")
        arguments = (*common, *places.tls(name), "--set", f"providers.{name}.listen={listen}", "--integration", name)
        children.append(ChildSpec(name, "provider", modules["providers"], arguments, listen, required=bool(configured)))
    retrieval = _mapping(document, "gateway.retrieval").get("address")
    if retrieval:
        elsewhere["retrieval"] = str(retrieval)
    elif "retrieval" in modules:
        listen = _listen(document, "retrieval") or places.new("retrieval", "r")
        wiring.append(f"gateway.retrieval.address={listen}")
        arguments = (*common, *places.tls("retrieval"), "--set", f"retrieval.listen={listen}")
        if not _mapping(document, "retrieval.gateway"):
            # Not the public address: there, services would need a key, and could not speak for a tenant.
            inside = str(gateway.get("internal") or places.new("gateway", "g"))
            wiring.append(f"gateway.internal={inside}")
            arguments += ("--set", f"retrieval.gateway.address={inside}")
        children.append(ChildSpec("retrieval", "retrieval", modules["retrieval"], arguments, listen, required=True))
    else:
        elsewhere["retrieval"] = "not installed (sluice-retrieval)"
    probe = None
    if _mapping(document, "gateway.tls"):
        # Its door is for who believes its certificate and may have to show one; we only want to know how it is.
        probe = str(gateway.get("probe") or _socket(runtime_dir, "gateway-probe", "gp"))
        wiring.append(f"gateway.probe={probe}")
    settings = [word for setting in wiring for word in ("--set", setting)]
    arguments = (*common, *places.tls("gateway"), *settings)
    spec = ChildSpec("gateway", "gateway", modules["gateway"], arguments, address, required=True, probe=probe)
    return Plan((*children, spec), address, probe is not None, elsewhere)


class _Places:
    """Where services listen that the configuration gives no address, and with which certificates."""

    def __init__(self, folder: Path, certificates: Certificates | None) -> None:
        self._folder = folder
        self._certificates = certificates
        self._ports: set[int] = set()

    def new(self, name: str, short: str) -> str:
        if self._certificates is None:
            return _socket(self._folder, name, short)
        port = free_port("127.0.0.1")
        while port in self._ports:
            port = free_port("127.0.0.1")
        self._ports.add(port)
        return f"127.0.0.1:{port}"

    def tls(self, service: str) -> tuple[str, ...]:
        if self._certificates is None:
            return ()
        pairs = self._certificates.settings(service).items()
        return tuple(word for name, value in pairs for word in ("--set", f"tls.{name}={value}"))


def why_taken(address: str) -> str | None:
    """Returns why nothing can listen on `host:port`, in the system's words; None if it is free."""
    if address.startswith("unix:"):
        return None
    host, _, port = address.rpartition(":")
    try:
        for family, kind, proto, _, where in socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM):
            with socket.socket(family, kind, proto) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _modules() -> dict[str, str]:
    found = {entry.name: entry.module.partition(".")[0] for entry in entry_points(group=SERVICES_GROUP)}
    for name in ("gateway", "providers"):
        if name not in found:
            raise ConfigError(f"the service '{name}' is not installed: install sluice-{name} beside sluice-cli")
    return found


def _common(document: ConfigDocument, overrides: Sequence[str]) -> tuple[str, ...]:
    words: list[str] = ["--until-stdin-closes"]
    if document.path is not None:
        words += ["--config", str(document.path)]
    for word in overrides:
        words += ["--set", word]
    return (*words, "--set", f"state_dir={document.state_dir()}")


def _gateway_address(document: ConfigDocument, gateway: Mapping[str, Any], port: int | None) -> str:
    address = str(gateway.get("listen") or DEFAULT_ADDRESS)
    if port is not None:
        host = "127.0.0.1" if address.startswith("unix:") else address.rpartition(":")[0]
        address = f"{host}:{port}"
    if address.startswith("unix:"):
        return address
    host, _, number = address.rpartition(":")
    if not host or not number.isdigit():
        raise document.error("gateway.listen", f"expected host:port or unix:/path, not {address}")
    return f"{host}:{free_port(host)}" if number == "0" else address


def _mapping(document: ConfigDocument, path: str) -> dict[str, Any]:
    value: Any = document.data
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _listen(document: ConfigDocument, path: str) -> str | None:
    value = _mapping(document, path).get("listen")
    return str(value) if value else None


def _socket(folder: Path, name: str, short: str) -> str:
    path = folder / f"{name}.sock"
    if len(str(path).encode()) > _MAX_SOCKET_PATH:
        path = folder / f"{short}.sock"
    return f"unix:{path}"
