"""The decoder of JSON lines, at every cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_providers.ndjson import LineDecoder
from sluice_providers.sse import EventTooLong

TOKENS = [b'{"a":1}', b"\n", b"\n\n", b"\r\n", b"\r", b" ", b"\t\n", b"x", '"på 🙂"\n'.encode(), b"\xff", b"{}\n[]\n"]
STREAMS = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=4), max_size=14).map(b"".join)


def by_the_rules(data: bytes) -> list[bytes]:
    """Every line that has an end and is not blank."""
    return [line for line in data.split(b"\n")[:-1] if line.strip()]


def decode(data: bytes, cuts: list[int]) -> list[bytes]:
    decoder = LineDecoder()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [line for start, end in itertools.pairwise(edges) for line in decoder.feed(data[start:end])]


@settings(max_examples=400, deadline=None)
@given(STREAMS, st.lists(st.integers(0, 200), max_size=6))
def test_any_stream_cut_anywhere(data: bytes, cuts: list[int]) -> None:
    assert decode(data, cuts) == by_the_rules(data)


@settings(max_examples=100, deadline=None)
@given(STREAMS)
def test_any_stream_byte_by_byte(data: bytes) -> None:
    assert decode(data, list(range(len(data)))) == by_the_rules(data)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\n", codec="utf-8"), min_size=1), max_size=6))
def test_what_is_written_is_read(texts: list[str]) -> None:
    lines = [f'"{text}"'.encode() for text in texts]
    data = b"".join(line + b"\n" for line in lines)
    for cut in range(len(data) + 1):
        assert decode(data, [cut]) == lines


def test_a_line_leaves_as_soon_as_its_end_is_there() -> None:
    decoder = LineDecoder()
    assert decoder.feed(b'{"a":') == []
    assert decoder.feed(b'1}\n{"b"') == [b'{"a":1}']
    assert decoder.feed(b":2}") == []
    assert decoder.feed(b"\n") == [b'{"b":2}']


def test_a_line_of_ten_megabytes_in_small_pieces() -> None:
    data = b"x" * 10_000_000 + b"\n"
    decoder = LineDecoder()
    lines = [line for index in range(0, len(data), 16384) for line in decoder.feed(data[index : index + 16384])]
    assert [len(line) for line in lines] == [10_000_000]


def test_a_line_without_end_is_limited() -> None:
    decoder = LineDecoder(limit=1000)
    assert decoder.feed(b"short\n" + b"x" * 900) == [b"short"]
    with pytest.raises(EventTooLong):
        decoder.feed(b"x" * 200)
    with pytest.raises(EventTooLong):
        LineDecoder(limit=1000).feed(b"short\n" + b"x" * 2000)
