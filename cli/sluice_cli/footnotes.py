"""Citations as footnotes.

Models mark a claim with the id of its passage, `[p3]` or `[p1, p3]`. People read `[1]`: the marks are renumbered in the
order in which they come, while the text streams, and the footnotes at the end carry the same numbers.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from sluice.chat.v1.passage_pb2 import Citation

_MARK: Final = re.compile(r"\[(p\d{1,4}(?:\s?[,;]\s?p\d{1,4}){0,15})\]")
_PART_OF_MARK: Final = re.compile(r"\[(?:p(?:[\dp,; ]*)?)?\Z")
_MAX_MARK: Final = 128


class Footnote(NamedTuple):
    """One line of the list under an answer."""

    number: int
    place: str
    """`path:start-end`"""
    symbol: str
    state: str
    """VERIFIED, UNVERIFIED or STALE."""

    def __str__(self) -> str:
        symbol = f" ({self.symbol})" if self.symbol else ""
        return f"[{self.number}] {self.place}{symbol} {self.state}"


class Footnotes:
    """Numbers the passages that an answer cites."""

    def __init__(self) -> None:
        self.grounded = False
        """Whether there are passages. Without, `[p1]` is no mark."""
        self._numbers: dict[str, int] = {}
        self._held = ""

    def feed(self, text: str) -> str:
        """Takes a piece of the answer and returns what can be shown, renumbered; the start of a mark is held back."""
        if not self.grounded:
            return text
        text = self._held + text
        opening = text.rfind("[", max(0, len(text) - _MAX_MARK))
        cut = opening if opening >= 0 and _PART_OF_MARK.match(text, opening) else len(text)
        self._held = text[cut:]
        return _MARK.sub(self._renumber, text[:cut])

    def flush(self) -> str:
        """Returns what was held back, at the end of the answer."""
        held, self._held = self._held, ""
        return held

    def number(self, passage_id: str) -> int:
        """Returns the number of a passage, the next one if it has none yet."""
        return self._numbers.setdefault(passage_id, len(self._numbers) + 1)

    def notes(self, citations: Sequence["Citation"]) -> list[Footnote]:
        """Returns the footnotes, by number; the same lines stand once."""
        notes: dict[Footnote, None] = {}
        for citation in citations:
            notes.setdefault(self._note(citation))
        return sorted(notes, key=lambda note: note.number)

    def _note(self, citation: "Citation") -> Footnote:
        from sluice.chat.v1.passage_pb2 import CitationState

        state = CitationState.Name(citation.state).removeprefix("CITATION_STATE_")
        place = f"{citation.path}:{citation.start_line}-{citation.end_line}" if citation.path else "no such passage"
        return Footnote(self.number(citation.passage_id), place, citation.symbol, state)

    def _renumber(self, match: re.Match[str]) -> str:
        return "[" + ", ".join(str(self.number(one)) for one in _ids(match[1])) + "]"


def _ids(mark: str) -> Iterable[str]:
    return re.findall(r"p\d{1,4}", mark)
