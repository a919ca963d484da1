"""Ports that nobody else gets while the service that has one is restarted."""

import random
import socket
from pathlib import Path
from typing import Final

_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LEAST: Final = 10_000
_USUAL: Final = 32_768
"""Where the ports begin that the system gives away, if it does not say."""
_TRIES: Final = 100


def free_port(host: str) -> int:
    """Returns a port that is free now, below those that the system gives to whoever asks for any.

    One of those could be the near end of somebody's connection a moment after its service died, and the service could
    not have it back. Where there is none, it is one of those after all.
    """
    ours = range(_LEAST, _first_given_away())
    for port in random.sample(ours, k=min(_TRIES, len(ours))):
        if _is_free(host, port):
            return port
    with _probe(host) as probe:
        probe.bind((host.strip("[]"), 0))
        return int(probe.getsockname()[1])


def _first_given_away() -> int:
    try:
        return int(_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _USUAL


def _is_free(host: str, port: int) -> bool:
    with _probe(host) as probe:
        try:
            probe.bind((host.strip("[]"), port))
        except OSError:
            return False
    return True


def _probe(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
