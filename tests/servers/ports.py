"""Ports for servers of tests that go away and come back."""

from __future__ import annotations

import random
import socket
from typing import Final

_PORTS: Final = iter(random.sample(range(15_000, 32_000), 17_000))


def free_port() -> int:
    """A free port below those that the system gives to clients; never the same one twice.

    Clients of a port of that range, which try again and again while its service is down, are at some time given the very
    port they call, and are then connected to themselves; the service finds it taken.
    """
    for port in _PORTS:
        if is_free(port):
            return port
    raise RuntimeError("no port is free")


def free_ports_in_a_row(number: int) -> int:
    """The first of so many free ports, one after the other."""
    while True:
        first = free_port()
        if all(is_free(first + place) for place in range(1, number)):
            return first


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of loopback now."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
