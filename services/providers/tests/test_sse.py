"""The decoder against the rules of the format, at every cut."""

from __future__ import annotations

import itertools
import re

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


def decode(data: bytes, cuts: list[int]) -> list[bytes]:
    decoder = SSEDecoder()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [event for start, end in itertools.pairwise(edges) for event in decoder.feed(data[start:end])]


@settings(max_examples=400, deadline=None)
@given(STREAMS, st.lists(st.integers(0, 200), max_size=6))
def test_any_stream_cut_anywhere(data: bytes, cuts: list[int]) -> None:
    assert decode(data, cuts) == by_the_rules(data)


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


def test_an_event_beyond_the_limit() -> None:
    decoder = SSEDecoder(limit=1000)
    assert decoder.feed(b"data: " + b"x" * 900) == []
    with pytest.raises(EventTooLong):
        decoder.feed(b"x" * 200)
    with pytest.raises(EventTooLong):
        SSEDecoder(limit=1000).feed(b"data: " + b"x" * 2000)
