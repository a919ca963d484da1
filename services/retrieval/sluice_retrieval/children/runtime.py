"""What runs inside a child: one question after the other, until the parent is gone."""

import ctypes
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from sluice_retrieval.children import wire

_PR_SET_PDEATHSIG: Final = 1
S = TypeVar("S", bound=msgspec.Struct)


class ChildFailure(Exception):
    """A failure that the parent is told: a reason of ErrorReason (without its prefix) and a message for people."""

    def __init__(self, reason: str, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})


class Failure(msgspec.Struct):
    """A ChildFailure, or a defect (an empty reason; `message` is then the traceback, for the log), on the wire."""

    reason: str
    message: str
    metadata: dict[str, str] = {}


Handler = Callable[[Any], msgspec.Struct]


def die_with_parent() -> None:
    """Asks the system to kill this process when its parent dies, even if it is busy then (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def run(connection: socket.socket, handlers: Mapping[type[msgspec.Struct], Handler]) -> None:
    """Answers questions until the parent closes the connection. `handlers` are by the type of the question."""
    decoder = msgspec.msgpack.Decoder(_union(tuple(handlers)))
    encode = msgspec.msgpack.Encoder().encode
    while (received := wire.read_frame(connection)) is not None:
        number, _, body = received
        try:
            question = decoder.decode(body)
            answer = encode(handlers[type(question)](question))
            kind = wire.ANSWER
        except ChildFailure as failure:
            kind, answer = wire.FAILURE, encode(Failure(failure.reason, failure.message, failure.metadata))
        except Exception:  # noqa: BLE001  # the parent logs it and reports a defect
            kind, answer = wire.FAILURE, encode(Failure("", traceback.format_exc()))
        try:
            connection.sendall(wire.frame(number, kind, answer))
        except ConnectionError:
            return


def _union(types: tuple[type, ...]) -> Any:
    union: Any = types[0]
    for type_ in types[1:]:
        union = union | type_
    return union


def connect(descriptor: str) -> socket.socket:
    """Takes over the socket that the parent passed on, and its lifetime."""
    parent = os.getppid()
    die_with_parent()
    # Ctrl-C in a terminal reaches the whole group; the parent decides when its children end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(descriptor))
    if os.getppid() != parent:
        raise SystemExit(0)
    return connection
