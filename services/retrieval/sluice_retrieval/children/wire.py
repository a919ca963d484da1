"""How a parent and its child talk: frames over a socket, a number to match answers to questions.

A frame is a header (number of the question, kind, length) and a MessagePack body. Every body is a tagged msgspec
struct, so that a child decodes a question by its tag.
"""

import socket
import struct
from typing import Final

HEADER: Final = struct.Struct("<IBI")
QUESTION: Final = 0
ANSWER: Final = 1
FAILURE: Final = 2
MAX_BODY_BYTES: Final = 512 * 1024 * 1024


def frame(number: int, kind: int, body: bytes) -> bytes:
    """Returns a frame."""
    return HEADER.pack(number, kind, len(body)) + body


def read_frame(connection: socket.socket) -> tuple[int, int, bytes] | None:
    """Reads one frame, blocking. Returns None when the other end is gone."""
    head = _read(connection, HEADER.size)
    if head is None:
        return None
    number, kind, length = HEADER.unpack(head)
    body = _read(connection, length)
    return None if body is None else (number, kind, body)


def _read(connection: socket.socket, count: int) -> bytes | None:
    data = bytearray(count)
    view = memoryview(data)
    at = 0
    while at < count:
        try:
            got = connection.recv_into(view[at:])
        except ConnectionError:
            return None
        if not got:
            return None
        at += got
    return bytes(data)
