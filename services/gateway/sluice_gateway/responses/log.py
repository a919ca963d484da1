"""The log of one response: its numbered events, as bytes, for every watcher.

A batch is kept as the serialised `events` field alone. Because `first_sequence` is a field of its own, before it, a
message for a watcher is made by writing the number and the bytes of as many batches as are due, one after the other:
no event is parsed or serialised again, however many watch and wherever they start.

A batch of one token is a dozen bytes in objects of ten times that size, so older batches are joined: what is kept of a
response takes about as much memory as it has bytes. The newest stay as they came, because watchers that keep up are sent
those as they are.
"""

from bisect import bisect_right
from collections import deque
from itertools import islice
from typing import Final, NamedTuple

from sluice.chat.v1.event_pb2 import Event
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1.provider_service_pb2 import GenerateResponse
from sluice_kit.errors import make_error

MAX_MESSAGE_BYTES = 64 * 1024
"""Batches are joined into messages of about this size, at most."""
_LOOSE: Final = 64
"""So many of the newest batches are kept as they came; then the older half of them is joined."""
_FEW: Final = 8
"""So many are not worth joining."""
_JOINED_BYTES: Final = 16 * 1024
"""Batches are joined in memory up to this size; a resume that begins within one parses it."""


class Batch(NamedTuple):
    """Some events: the number of the first, how many, and their bytes as field 2 of a response message."""

    first: int
    length: int
    body: bytes


def frame(first_sequence: int, body: bytes) -> bytes:
    """Returns the bytes of a StreamChatResponse (or ResumeChatResponse, which has the same fields)."""
    return b"\x08" + _varint(first_sequence) + body


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _ONE_BYTE[value]
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_ONE_BYTE = [bytes((value,)) for value in range(0x80)]


class ResponseLog:
    """The events of one response, from the oldest kept to the newest.

    Numbers start at 1 and have no gap. `limit` is in bytes; whoever appends calls `trim` when `size` passes it.
    `resource` names the response in errors.
    """

    __slots__ = ("_batches", "_loose", "_resource", "last_sequence", "limit", "size", "written")

    def __init__(self, limit: int, resource: str = "") -> None:
        self._batches: deque[Batch] = deque()
        self._loose = 0
        """How many batches, at the end, are as they came."""
        self._resource = resource
        self.limit = limit
        self.last_sequence = 0
        self.size = 0
        self.written = 0

    @property
    def first_sequence(self) -> int:
        """Number of the oldest event kept; one past the newest if there is none."""
        return self._batches[0].first if self._batches else self.last_sequence + 1

    def append(self, count: int, body: bytes) -> None:
        """Adds events; the first gets the next number."""
        self._batches.append(Batch(self.last_sequence + 1, count, body))
        self.last_sequence += count
        self.size += len(body)
        self.written += len(body)
        self._loose += 1
        if self._loose == _LOOSE:
            self._join(_LOOSE // 2)

    def close(self) -> None:
        """Is called when nothing more will come: what is kept takes its least room."""
        if self._loose > _FEW:
            self._join(0)

    def _join(self, leave: int) -> None:
        """Joins older batches that are as they came, all but the newest `leave`."""
        batches = self._batches
        loose = [batches.pop() for _ in range(min(self._loose, len(batches)))]
        loose.reverse()
        end = max(0, len(loose) - leave)
        parts: list[Batch] = []
        size = 0
        for batch in loose[:end]:
            if parts and size + len(batch.body) > _JOINED_BYTES:
                batches.append(_one(parts))
                parts, size = [], 0
            parts.append(batch)
            size += len(batch.body)
        if parts:
            batches.append(_one(parts))
        batches.extend(loose[end:])
        self._loose = leave

    def trim(self, needed: int) -> list[Batch]:
        """Forgets the oldest batches until the limit is kept, and returns them.

        Never the newest one, nor any from the event with the number `needed` on: a watcher has yet to be sent those.
        They are few, because the upstream is held back while a watcher is behind.
        """
        forgotten: list[Batch] = []
        batches = self._batches
        while self.size > self.limit and len(batches) > 1 and batches[1].first <= needed:
            batch = batches.popleft()
            self.size -= len(batch.body)
            forgotten.append(batch)
        return forgotten

    def clear(self) -> None:
        """Forgets every event; the numbers stay."""
        self._batches.clear()
        self.size = self._loose = 0

    def batches(self) -> list[Batch]:
        """Returns every batch kept."""
        return list(self._batches)

    def read(self, after: int) -> tuple[bytes, int, int] | None:
        """Returns the next message for a watcher that has the events up to `after`, or None if there is none yet.

        The result is the message, the number of its last event and its size without framing. Raises
        RESUME_WINDOW_EXPIRED if the events after `after` are no longer kept.
        """
        if after >= self.last_sequence:
            return None
        batches = self._batches
        if not batches or after + 1 < batches[0].first:
            first = str(self.first_sequence)
            raise make_error(
                ErrorReason.ERROR_REASON_RESUME_WINDOW_EXPIRED,
                f"events before number {first} are no longer kept; GetResponse has the answer so far",
                metadata={"first_sequence": first, "resource": self._resource},
            )
        newest = batches[-1]
        if newest.first == after + 1:
            # The usual case: the watcher keeps up.
            return frame(newest.first, newest.body), self.last_sequence, len(newest.body)
        start = bisect_right(batches, after + 1, key=_first) - 1
        bodies: list[bytes] = []
        size, last = 0, after
        for batch in islice(batches, start, None):
            body = batch.body if batch.first > last else cut(batch, last)
            if bodies and size + len(body) > MAX_MESSAGE_BYTES:
                break
            bodies.append(body)
            size += len(body)
            last = batch.first + batch.length - 1
        return frame(after + 1, b"".join(bodies)), last, size


def _one(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    length = sum(batch.length for batch in batches)
    return Batch(batches[0].first, length, b"".join(batch.body for batch in batches))


def _first(batch: Batch) -> int:
    return batch.first


def cut(batch: Batch, after: int) -> bytes:
    """Returns the bytes of a batch's events whose numbers lie above `after`: for resumes in the middle of a batch."""
    events = GenerateResponse.FromString(batch.body).events
    return pack(list(events[after - batch.first + 1 :]))


def pack(events: list[Event]) -> bytes:
    """Returns events as the bytes the log keeps."""
    return GenerateResponse(events=events).SerializeToString()


def unpack(batch: Batch) -> list[Event]:
    """Returns the events of a batch."""
    return list(GenerateResponse.FromString(batch.body).events)
