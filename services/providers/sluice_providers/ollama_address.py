"""Where an Ollama server is: OLLAMA_HOST as Ollama itself reads it, and a default that suits host and container."""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PORT: Final = "11434"
ON_HOST: Final = f"http://127.0.0.1:{PORT}"
"""The server's default, seen from its own machine."""
FROM_CONTAINER: Final = f"http://host.docker.internal:{PORT}"
"""The machine that runs the container, by the name that container engines give it."""

_MARKS: Final = (".dockerenv", "run/.containerenv")
_CLOUD: Final = "ollama.com"


def in_container(root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> bool:
    """Tells whether this process runs in a container: of Docker, of Podman, or in a pod of Kubernetes."""
    environ = os.environ if environ is None else environ
    return "KUBERNETES_SERVICE_HOST" in environ or any((root / mark).exists() for mark in _MARKS)


def address_of(host: str) -> str:
    """Returns the address that a value of OLLAMA_HOST means to a client; nothing for an empty one.

    It is a host, `host:port`, `:port`, or an address with scheme, port and path. The port is 11434, with a scheme that
    scheme's own; one that is no port counts as not given. A server's "every interface" is loopback to its clients.
    """
    value = host.strip().strip("\"'").strip()
    if not value:
        return ""
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = "http", value
    default = {"https": "443", "http": "80"}.get(scheme, PORT) if separator else PORT
    rest, _, path = rest.partition("/")
    if not separator and rest == _CLOUD:
        scheme, default = "https", "443"
    name, port = _split(rest)
    if not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        port = default
    path = path.strip("/")
    return f"{scheme}://{_reachable(name)}:{port}" + (f"/{path}" if path else "")


def _split(host_port: str) -> tuple[str, str]:
    """Returns host and port. An IPv6 address has colons of its own: with a port it stands in brackets."""
    if host_port.startswith("["):
        name, _, rest = host_port[1:].partition("]")
        return name, rest.removeprefix(":")
    if host_port.count(":") == 1:
        name, _, port = host_port.partition(":")
        return name, port
    return host_port, ""


def _reachable(name: str) -> str:
    try:
        ip = ipaddress.ip_address(name)
    except ValueError:
        return name or "127.0.0.1"
    if ip.version == 6:
        return "[::1]" if ip.is_unspecified else f"[{ip}]"
    return "127.0.0.1" if ip.is_unspecified else name


def base_url(given: str, host: str, container: bool | None) -> str:
    """Returns the server's address: as given, or by OLLAMA_HOST, or the default. `container` None: find it out."""
    if given:
        return given
    address = address_of(host)
    if address:
        return address
    return FROM_CONTAINER if (in_container() if container is None else container) else ON_HOST
