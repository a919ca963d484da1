"""Marks of passages become footnotes while the text streams."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.chat.v1.passage_pb2 import Citation, CitationState
from sluice_cli.footnotes import Footnote, Footnotes

TEXT = "First [p7]. Both [p3, p7], then [p12][p3]; not [x] nor a[p] or [p1."


def shown(pieces: list[str]) -> str:
    notes = Footnotes()
    notes.grounded = True
    return "".join(map(notes.feed, pieces)) + notes.flush()


def test_marks_are_numbered_in_the_order_they_come() -> None:
    assert shown([TEXT]) == "First [1]. Both [2, 1], then [3][2]; not [x] nor a[p] or [p1."


@given(st.lists(st.integers(0, len(TEXT)), max_size=12))
def test_any_cut_of_the_text_shows_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(TEXT)]
    assert shown([TEXT[start:end] for start, end in pairwise(edges)]) == shown([TEXT])


def test_text_is_never_held_back_for_long() -> None:
    notes = Footnotes()
    notes.grounded = True
    assert notes.feed("see [p") == "see "
    assert notes.feed("arse]") == "[parse]"
    assert notes.feed("[" + "p1, " * 200).startswith("[p1")


def test_without_passages_nothing_is_a_mark() -> None:
    notes = Footnotes()
    assert notes.feed("a[p1] = b[p2") == "a[p1] = b[p2"


def cited(passage: str, path: str, state: "CitationState.ValueType", symbol: str = "") -> Citation:
    return Citation(passage_id=passage, path=path, start_line=3, end_line=9, symbol=symbol, state=state)


def test_footnotes_carry_place_symbol_and_state_once() -> None:
    notes = Footnotes()
    notes.grounded = True
    notes.feed("[p2] [p1]")
    found = notes.notes(
        [
            cited("p1", "a.py", CitationState.CITATION_STATE_STALE, "f"),
            cited("p2", "b.md", CitationState.CITATION_STATE_VERIFIED),
            cited("p1", "a.py", CitationState.CITATION_STATE_STALE, "f"),
            Citation(passage_id="p9", state=CitationState.CITATION_STATE_UNVERIFIED),
        ]
    )
    assert [str(note) for note in found] == [
        "[1] b.md:3-9 VERIFIED",
        "[2] a.py:3-9 (f) STALE",
        "[3] no such passage UNVERIFIED",
    ]
    assert isinstance(found[0], Footnote)


@pytest.mark.parametrize("mark", ["[p1;p2]", "[p1 ; p2]", "[p1 , p2]"])
def test_what_models_make_of_marks(mark: str) -> None:
    assert shown([mark]) == "[1, 2]"
