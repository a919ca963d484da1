"""A decoder for streams of JSON texts, one to a line (https://github.com/ndjson/ndjson-spec)."""

from typing import Final

from sluice_providers.sse import MAX_EVENT_BYTES, EventTooLong

_LF: Final = b"\n"


class LineDecoder:
    """Turns the bytes of one stream into its lines, without those that are blank.

    A last line without its end is unfinished, so it is not a line.
    """

    __slots__ = ("_limit", "_parts", "_size")

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []  # the unfinished line; joined once its end is there, so long ones cost no copies
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Takes the next bytes, cut anywhere, and returns the lines that they complete. Raises EventTooLong."""
        self._parts.append(data)
        self._size += len(data)
        if _LF not in data:
            self._check()
            return []
        *lines, rest = b"".join(self._parts).split(_LF)
        self._parts = [rest] if rest else []
        self._size = len(rest)
        self._check()
        return [line for line in lines if line.strip()]

    def _check(self) -> None:
        if self._size > self._limit:
            raise EventTooLong(f"a line is longer than {self._limit} bytes")
