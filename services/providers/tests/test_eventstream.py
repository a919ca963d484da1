"""The decoder of AWS's event stream: against the SDK's own, at every cut, and with every byte wrong."""

from __future__ import annotations

import itertools
import struct
import zlib

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_providers.eventstream import BrokenFrame, EventStreamDecoder, Frame
from sluice_providers.sse import EventTooLong

EVENT = {":event-type": "contentBlockDelta", ":content-type": "application/json", ":message-type": "event"}
FAILURE = {":exception-type": "throttlingException", ":message-type": "exception"}
ERROR = {":error-code": "InternalError", ":error-message": "på dansk", ":message-type": "error"}


def header(name: str, kind: int, value: bytes) -> bytes:
    return struct.pack(">B", len(name.encode())) + name.encode() + struct.pack(">B", kind) + value


def text(name: str, value: str) -> bytes:
    return header(name, 7, struct.pack(">H", len(value.encode())) + value.encode())


def message(head: bytes, payload: bytes, headers_length: int | None = None) -> bytes:
    length = len(head) if headers_length is None else headers_length
    prelude = struct.pack(">II", 16 + len(head) + len(payload), length)
    data = prelude + struct.pack(">I", zlib.crc32(prelude)) + head + payload
    return data + struct.pack(">I", zlib.crc32(data))


def encoded(headers: dict[str, str], payload: bytes) -> bytes:
    return message(b"".join(text(name, value) for name, value in headers.items()), payload)


MESSAGES = st.lists(st.tuples(st.sampled_from([EVENT, FAILURE, ERROR]), st.binary(max_size=60)), max_size=6)
CUTS = st.lists(st.integers(0, 2000), max_size=8)


def decode(data: bytes, cuts: list[int]) -> list[Frame]:
    decoder = EventStreamDecoder()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [frame for start, end in itertools.pairwise(edges) for frame in decoder.feed(data[start:end])]


def expected(messages: list[tuple[dict[str, str], bytes]]) -> list[Frame]:
    names = {"event": ":event-type", "exception": ":exception-type", "error": ":error-code"}
    return [
        Frame(headers[names[headers[":message-type"]]], headers[":message-type"] != "event", payload)
        for headers, payload in messages
    ]


@settings(max_examples=300, deadline=None)
@given(MESSAGES, CUTS)
def test_any_stream_cut_anywhere(messages: list[tuple[dict[str, str], bytes]], cuts: list[int]) -> None:
    data = b"".join(encoded(headers, payload) for headers, payload in messages)
    assert decode(data, cuts) == expected(messages)
    assert decode(data, list(range(len(data)))) == expected(messages)


@settings(max_examples=100, deadline=None)
@given(MESSAGES)
def test_the_sdk_reads_the_same(messages: list[tuple[dict[str, str], bytes]]) -> None:
    data = b"".join(encoded(headers, payload) for headers, payload in messages)
    theirs = EventStreamBuffer()
    theirs.add_data(data)
    assert [found.payload for found in theirs] == [found.payload for found in decode(data, [])]


@settings(max_examples=400, deadline=None)
@given(MESSAGES.filter(bool), CUTS, st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_byte_never_makes_a_wrong_message(
    messages: list[tuple[dict[str, str], bytes]], cuts: list[int], where: int, change: int
) -> None:
    """What comes before it is right; of what holds it and follows it, nothing comes."""
    pieces = [encoded(headers, payload) for headers, payload in messages]
    data = bytearray(b"".join(pieces))
    where %= len(data)
    data[where] ^= change
    ends = list(itertools.accumulate(len(piece) for piece in pieces))
    whole = sum(end <= where for end in ends)
    decoder = EventStreamDecoder()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found: list[Frame] = []
    with pytest.raises(BrokenFrame):
        for start, end in itertools.pairwise(edges):
            found += decoder.feed(bytes(data[start:end]))
    assert found == expected(messages)[: len(found)]
    assert len(found) <= whole


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), CUTS)
def test_noise_is_no_message(data: bytes, cuts: list[int]) -> None:
    try:
        assert decode(data, cuts) == []
    except (BrokenFrame, EventTooLong):
        assert len(data) >= 12


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=10))
def test_headers_of_any_bytes_are_read_or_refused(head: bytes, payload: bytes) -> None:
    """Right checksums around nonsense: the decoder says so, and in no other way."""
    try:
        (found,) = EventStreamDecoder().feed(message(head, payload))
    except BrokenFrame:
        return
    assert found.payload == payload


def test_every_type_of_header_is_read_over() -> None:
    head = b"".join(
        (
            header("true", 0, b""),
            header("false", 1, b""),
            header("byte", 2, b"x"),
            header("short", 3, b"xx"),
            header("integer", 4, b"xxxx"),
            header("long", 5, b"x" * 8),
            header("bytes", 6, struct.pack(">H", 3) + b"\xff\xfe\xfd"),
            header("time", 8, b"x" * 8),
            header("uuid", 9, b"x" * 16),
            text(":event-type", "messageStop"),
            text(":message-type", "event"),
        )
    )
    assert EventStreamDecoder().feed(message(head, b"{}")) == [Frame("messageStop", False, b"{}")]


@pytest.mark.parametrize(
    "head",
    [
        b"",
        text(":event-type", "messageStop"),
        text(":message-type", "something"),
        header(":message-type", 10, b"event"),
        header(":message-type", 7, struct.pack(">H", 50) + b"event"),
        header(":message-type", 7, struct.pack(">H", 2) + b"\xff\xfe"),
        header("long", 5, b"x"),
        b"\xff",
    ],
    ids=["none", "no-type", "unknown-type", "unknown-form", "too-short", "no-utf8", "cut", "cut-name"],
)
def test_headers_that_break_the_format(head: bytes) -> None:
    with pytest.raises(BrokenFrame):
        EventStreamDecoder().feed(message(head, b"{}"))


def test_lengths_that_contradict_each_other() -> None:
    with pytest.raises(BrokenFrame):
        EventStreamDecoder().feed(message(b"", b"{}", headers_length=3))


def test_an_unfinished_message_is_known() -> None:
    data = encoded(EVENT, b"{}")
    decoder = EventStreamDecoder()
    assert decoder.feed(data + data[:5]) == [Frame("contentBlockDelta", False, b"{}")]
    assert decoder.unfinished
    assert decoder.feed(data[5:]) == [Frame("contentBlockDelta", False, b"{}")]
    assert not decoder.unfinished


def test_ten_megabytes_in_small_pieces() -> None:
    data = encoded(EVENT, b"x" * 10_000_000)
    decoder = EventStreamDecoder()
    frames = [frame for at in range(0, len(data), 16384) for frame in decoder.feed(data[at : at + 16384])]
    assert [len(frame.payload) for frame in frames] == [10_000_000]


def test_a_message_beyond_the_limit_is_refused_by_its_prelude() -> None:
    data = encoded(EVENT, b"x" * 1000)
    with pytest.raises(EventTooLong):
        EventStreamDecoder(limit=1000).feed(data[:12])
    assert len(EventStreamDecoder(limit=len(data)).feed(data)) == 1
