"""The decoder against the rules of the format, at every cut."""

from __future__ import annotations

import itertools
import re
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_providers.sse import EventTooLong, SSEDecoder

TOKENS = [
    b"data: x\n", b"data", b"data:", b": note", b"\n", b"\r", b"\r\n", b"\xef\xbb\xbf", b"event: e\n", b"data: {}",
    b"id: 1\n", b"retry: 9\r\n", b" ", "data: på 🙂\n".encode(), b"data:  two spaces", b"\n\n", b"dataset: no\n", b"\xff",
]  # fmt: skip  # a table reads better
STREAMS = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=4), max_size=14).map(b"".join)


def by_the_rules(data: bytes) -> list[bytes]:
    """The steps of the specification, line by line, over the whole stream."""
    lines = re.split(rb"\r\n|\n|\r", data.removeprefix(b"\xef\xbb\xbf"))[:-1]
    events: list[bytes] = []
    held: list[bytes] = []
    for line in lines:
        if not line:
            if held:
                events.append(b"\n".join(held))
            held = []
            continue
        field, _, value = line.partition(b":")
        if field == b"data":
            held.append(value.removeprefix(b" "))
    return events


LINE_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
WORDS = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=8).map(str.encode)
FIELDS = st.sampled_from([b"data", b"event", b"id", b"retry", b"", b"dat", b"data ", b"future"])
LINES = st.tuples(FIELDS, st.sampled_from([b"", b":", b": ", b":  "]), WORDS).map(b"".join) | st.just(b"")


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """A stream of lines as vendors write them, each with a line end of its own; perhaps with a mark, perhaps cut."""
    lines = draw(st.lists(st.tuples(LINES, LINE_ENDS).map(b"".join), max_size=12))
    stream = draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef\xbb"])) + b"".join(lines)
    return stream[: len(stream) - draw(st.integers(0, 3))]


def decode(data: bytes, cuts: list[int]) -> list[bytes]:
    decoder = SSEDecoder()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [event for start, end in itertools.pairwise(edges) for event in decoder.feed(data[start:end])]


@settings(max_examples=400, deadline=None)
@given(STREAMS, st.lists(st.integers(0, 200), max_size=6))
def test_any_stream_cut_anywhere(data: bytes, cuts: list[int]) -> None:
    assert decode(data, cuts) == by_the_rules(data)


@settings(max_examples=200, deadline=None)
@given(written())
def test_written_streams_cut_at_every_byte(data: bytes) -> None:
    expected = by_the_rules(data)
    assert decode(data, list(range(len(data)))) == expected
    for cut in range(len(data) + 1):
        assert decode(data, [cut]) == expected


@settings(max_examples=200, deadline=None)
@given(written() | STREAMS)
def test_an_event_comes_with_its_last_byte(data: bytes) -> None:
    """Nothing waits for the next read: what a prefix of the stream holds is there once the prefix was fed."""
    decoder = SSEDecoder()
    found: list[bytes] = []
    for index in range(len(data)):
        found += decoder.feed(data[index : index + 1])
        assert found == by_the_rules(data[: index + 1])


@settings(max_examples=100, deadline=None)
@given(STREAMS)
def test_any_stream_byte_by_byte(data: bytes) -> None:
    assert decode(data, list(range(len(data)))) == by_the_rules(data)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8")), max_size=6),
    st.sampled_from(["\n", "\r", "\r\n"]),
)
def test_what_is_written_is_read(payloads: list[str], line_end: str) -> None:
    data = "".join(f"event: x{line_end}data: {payload}{line_end}{line_end}" for payload in payloads).encode()
    for cut in range(len(data) + 1):
        assert decode(data, [cut]) == [payload.encode() for payload in payloads]


def test_examples_of_the_specification() -> None:
    stream = b"data: YHOO\ndata: +2\ndata: 10\n\n: test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"
    assert decode(stream, []) == [b"YHOO\n+2\n10", b"first event", b"second event", b" third event"]
    assert decode(b"data\n\ndata\ndata\n\ndata:", []) == [b"", b"\n"]


def test_an_event_without_its_empty_line_is_dropped_and_known() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: 1\n\ndata: 2\n") == [b"1"]
    assert decoder.unfinished
    assert decoder.feed(b"\n") == [b"2"]
    assert not decoder.unfinished


def test_a_line_of_ten_megabytes_in_small_pieces() -> None:
    line = b"data: " + b"x" * 10_000_000 + b"\n\n"
    decoder = SSEDecoder()
    events = [event for index in range(0, len(line), 16384) for event in decoder.feed(line[index : index + 16384])]
    assert [len(event) for event in events] == [10_000_000]


def bytes_touched(stream: bytes, size: int) -> int:
    """Returns how many bytes the decoder's calls on bytes looked at or copied, for a stream in pieces of a size."""
    touched = 0

    def count(frame: FrameType, event: str, function: Any) -> None:
        nonlocal touched
        owner = getattr(function, "__self__", None)
        if event == "c_call" and isinstance(owner, bytes):
            # All that a join can copy is what is held; everything else works on the bytes it is called on.
            held = frame.f_locals.get("parts", ()) if function.__name__ == "join" else (owner,)
            touched += sum(map(len, held))

    decoder = SSEDecoder()
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for index in range(0, len(stream), size):
            decoder.feed(stream[index : index + size])
    finally:
        sys.setprofile(before)
    return touched


@pytest.mark.parametrize(
    "stream",
    [
        b"data: " + b"x" * 40_000 + b"\n\n",
        b"data: x\n" * 5_000 + b"\n",
        b"data: x\r\n" * 5_000 + b"\r\n",
        b"data: x\n\n" * 5_000,
        b": ping\r\r" * 5_000,
        b"\n" * 40_000,
    ],
    ids=["one-line", "one-event", "crlf", "events", "comments", "blank"],
)
def test_work_grows_with_the_bytes_and_not_with_the_cuts(stream: bytes) -> None:
    for size in (1, 2, 7, 100, 5_000, len(stream)):
        assert bytes_touched(stream, size) < 10 * len(stream), size


def test_a_line_of_ten_megabytes_byte_by_byte() -> None:
    line = b"data: " + b"x" * 10_000_000 + b"\n\n"
    decoder = SSEDecoder()
    # The cuts that matter are at its ends; a million single bytes in the middle stand for the rest.
    assert decoder.feed(line[:9_000_000]) == []
    for index in range(9_000_000, len(line) - 1):
        decoder.feed(line[index : index + 1])
    (event,) = decoder.feed(line[-1:])
    assert len(event) == 10_000_000


def test_an_event_beyond_the_limit() -> None:
    decoder = SSEDecoder(limit=1000)
    assert decoder.feed(b"data: " + b"x" * 900) == []
    with pytest.raises(EventTooLong):
        decoder.feed(b"x" * 200)
    with pytest.raises(EventTooLong):
        SSEDecoder(limit=1000).feed(b"data: " + b"x" * 2000)
