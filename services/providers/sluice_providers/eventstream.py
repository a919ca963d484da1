"""A decoder for the event stream framing of AWS (application/vnd.amazon.eventstream).

A message is a prelude (its whole length, the length of its headers, a CRC of these two), headers, a payload, and a CRC
of everything before it; numbers are big-endian
(https://smithy.io/2.0/aws/amazon-eventstream.html). Nothing is handed on before its checksums are right. botocore's own
buffer does the same in 8 microseconds a message where this takes 1.5 to 2: it reads the headers of each anew, and it
copies what is left of a read for each message, so that the time grows with the square of a long read.
"""

import zlib
from struct import Struct
from typing import Final, NamedTuple

from sluice_providers.sse import MAX_EVENT_BYTES, EventTooLong

_PRELUDE: Final = Struct(">III")
_NUMBER: Final = Struct(">I")
_SHORT: Final = Struct(">H")
_AROUND: Final = _PRELUDE.size + _NUMBER.size
"""Bytes of a message beside its headers and payload."""
_STRING: Final = 7
_SIZES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type, where the type says it."""
_BYTES: Final = 6
_MAX_KINDS: Final = 64


class BrokenFrame(Exception):
    """A message is not what its checksums say, or not of the format."""


class Frame(NamedTuple):
    """One message."""

    kind: str
    """Its `:event-type`; the `:exception-type` or `:error-code` of a failure. Empty: it has none."""
    failed: bool
    """Whether it reports a failure."""
    payload: bytes


class EventStreamDecoder:
    """Turns the bytes of one stream into its messages."""

    __slots__ = ("_kinds", "_limit", "_needed", "_parts", "_size")

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []  # the unfinished message; joined once it is whole, so long ones cost no copies
        self._size = 0
        self._needed = _PRELUDE.size
        self._kinds: dict[bytes, tuple[str, bool]] = {}  # headers repeat: there are as many as kinds of events

    @property
    def unfinished(self) -> bool:
        """Whether a message was begun and not ended; at the end of a stream it is lost."""
        return self._size > 0

    def feed(self, data: bytes) -> list[Frame]:
        """Takes the next bytes, cut anywhere, and returns the messages that they complete.

        Raises BrokenFrame, EventTooLong.
        """
        if not data:
            return []
        self._parts.append(data)
        self._size += len(data)
        if self._size < self._needed:
            return []
        held = b"".join(self._parts) if len(self._parts) > 1 else data
        frames = []
        position, end = 0, len(held)
        self._needed = _PRELUDE.size
        while end - position >= _PRELUDE.size:
            total, headers = self._lengths(held, position)
            if end - position < total:
                self._needed = total
                break
            frames.append(self._frame(held, position, total, headers))
            position += total
        rest = held[position:] if position else held
        self._parts = [rest] if rest else []
        self._size = len(rest)
        return frames

    def _lengths(self, held: bytes, position: int) -> tuple[int, int]:
        """Returns the lengths of a message and of its headers."""
        total, headers, checksum = _PRELUDE.unpack_from(held, position)
        if zlib.crc32(held[position : position + 8]) != checksum:
            raise BrokenFrame("the prelude does not match its checksum")
        if total > self._limit:
            raise EventTooLong(f"a message is longer than {self._limit} bytes")
        if total < headers + _AROUND:
            raise BrokenFrame("the lengths contradict each other")
        return total, headers

    def _frame(self, held: bytes, position: int, total: int, headers: int) -> Frame:
        end = position + total - _NUMBER.size
        (checksum,) = _NUMBER.unpack_from(held, end)
        if zlib.crc32(held[position:end]) != checksum:
            raise BrokenFrame("a message does not match its checksum")
        start = position + _PRELUDE.size
        written = held[start : start + headers]
        found = self._kinds.get(written)
        if found is None:
            found = _kind(written)
            if len(self._kinds) < _MAX_KINDS:
                self._kinds[written] = found
        return Frame(found[0], found[1], held[start + headers : end])


def _kind(headers: bytes) -> tuple[str, bool]:
    """Returns what kind of message it is, and whether it reports a failure."""
    try:
        found = _texts(headers)
    except (IndexError, KeyError, UnicodeDecodeError):
        raise BrokenFrame("the headers cannot be read") from None
    what = found.get(":message-type")
    if what == "event":
        return found.get(":event-type", ""), False
    if what == "exception":
        return found.get(":exception-type", ""), True
    if what == "error":
        return found.get(":error-code", ""), True
    raise BrokenFrame("a message of no known type")


def _texts(headers: bytes) -> dict[str, str]:
    """Returns the headers whose values are text."""
    found: dict[str, str] = {}
    position = 0
    while position < len(headers):
        name, position = _text(headers, position + 1, headers[position])
        kind = headers[position]
        position += 1
        if kind in (_STRING, _BYTES):
            size = int.from_bytes(_slice(headers, position, _SHORT.size))
            position += _SHORT.size
            if kind == _STRING:
                found[name], position = _text(headers, position, size)
            else:
                position += len(_slice(headers, position, size))
        else:
            position += len(_slice(headers, position, _SIZES[kind]))
    return found


def _text(data: bytes, position: int, size: int) -> tuple[str, int]:
    return _slice(data, position, size).decode(), position + size


def _slice(data: bytes, position: int, size: int) -> bytes:
    """Returns so many bytes. Raises IndexError if there are fewer."""
    if position + size > len(data):
        raise IndexError
    return data[position : position + size]
