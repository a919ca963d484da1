"""One decoder for server-sent events, for every adapter.

It follows the WHATWG rules for the event stream format (https://html.spec.whatwg.org/multipage/server-sent-events.html):
lines end with LF, CR or CRLF, a byte order mark may stand first, `data` lines of one event are joined by LF, comments
and unknown fields are skipped, and an event that is not finished by an empty line is dropped. `event`, `id` and `retry`
are read over: the vendors' payloads carry their own types, and nobody reconnects in the middle of an answer.

It works on bytes, so a character that is cut anywhere stays whole, and reading what is invalid UTF-8 is left to the
decoder of the payload, which refuses it. The common case, whole events of one `data` line, costs no loop over lines.
"""

from typing import Final

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
_BOM: Final = b"\xef\xbb\xbf"


class EventTooLong(Exception):
    """An event is longer than the limit."""


class SSEDecoder:
    """Turns the bytes of one stream into the payloads of its events."""

    __slots__ = ("_after_cr", "_at_start", "_limit", "_parts", "_size")

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []  # the unfinished event; joined once its end is there, so long ones cost no copies
        self._size = 0
        self._at_start = True
        self._after_cr = False

    @property
    def unfinished(self) -> bool:
        """Whether an event was begun and not ended; at the end of a stream it is lost."""
        return any(part.strip(b"\n") for part in self._parts)

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the next bytes, cut anywhere, and returns the payload of each event that they complete.

        Raises EventTooLong.
        """
        if self._at_start:
            data = self._start(data)
        if self._after_cr or b"\r" in data:
            data = self._only_lf(data)
        if not data:
            return []
        parts = self._parts
        if parts:
            parts.append(data)
            self._size += len(data)
            if b"\n\n" not in data and not (parts[-2].endswith(b"\n") and data.startswith(b"\n")):
                self._check()
                return []
            data = b"".join(parts)
            parts.clear()
        *blocks, rest = data.split(b"\n\n")
        if rest:
            parts.append(rest)
            self._size = len(rest)
            self._check()
        payloads = []
        for block in blocks:
            if block.startswith(b"data: ") and b"\n" not in block:
                payloads.append(block[6:])
            else:
                payload = _payload(block)
                if payload is not None:
                    payloads.append(payload)
        return payloads

    def _check(self) -> None:
        if self._size > self._limit:
            raise EventTooLong(f"an event is longer than {self._limit} bytes")

    def _start(self, data: bytes) -> bytes:
        """Drops a byte order mark, which may be cut too."""
        held = b"".join(self._parts) + data
        self._parts.clear()
        if len(held) < len(_BOM) and _BOM.startswith(held):
            self._parts.append(held)
            return b""
        self._at_start = False
        return held.removeprefix(_BOM)

    def _only_lf(self, data: bytes) -> bytes:
        """Turns CR and CRLF into LF. A CR at the end may be half of a CRLF: the LF that follows is dropped then."""
        if not data:
            return data
        if self._after_cr:
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _payload(block: bytes) -> bytes | None:
    """Returns the joined `data` lines of an event; None if it has none."""
    head, line_end, rest = block.partition(b"\n")
    if line_end and head.startswith(b"event") and rest.startswith(b"data: ") and b"\n" not in rest:
        return rest[6:]
    lines = []
    for line in block.split(b"\n"):
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value[1:] if value.startswith(b" ") else value)
        elif line == b"data":
            lines.append(b"")
    return b"\n".join(lines) if lines else None
