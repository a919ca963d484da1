"""From chunks that match to passages worth reading: merged, without repeats, within a budget."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sluice.chat.v1.passage_pb2 import MatchKind
from sluice_retrieval.text.lines import estimate_tokens, join_lines

_MAX_GAP_LINES: Final = 3
"""Lines between two chunks of a file that are read along when both match."""
MAX_MERGED_LINES: Final = 120
_BEST: Final = 10
"""How many of the chunks that match count as the best."""
_ALIKE: Final = 0.85
"""Part of the lines that two passages share when one is left out."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Lines of a file that match. `lines` are those of the whole file, once they were read."""

    corpus: str
    path: str
    revision: str
    blob_sha256: str
    start_line: int
    end_line: int
    symbol: str
    language: str
    score: float
    match: "MatchKind.ValueType"
    lines: Sequence[str] = ()
    apart: bool = False
    """Whether it is joined with none of its neighbours."""

    @property
    def text(self) -> str:
        """The lines themselves, with their ends."""
        return join_lines(self.lines, self.start_line, self.end_line)


def merge_neighbours(found: Iterable[Candidate]) -> list[Candidate]:
    """Joins chunks that stand next to each other in a file, if both are among the best or of one definition.

    The order is by the best score of what was joined.
    """
    merged: list[Candidate] = []
    by_file: dict[tuple[str, str, str], list[tuple[Candidate, bool]]] = {}
    for place, candidate in enumerate(sorted(found, key=_rank)):
        file = (candidate.corpus, candidate.revision, candidate.path)
        by_file.setdefault(file, []).append((candidate, place < _BEST))
    for group in by_file.values():
        group.sort(key=lambda entry: entry[0].start_line)
        at, is_best = group[0]
        for following, following_is_best in group[1:]:
            wanted = (is_best and following_is_best) or at.symbol == following.symbol
            if wanted and _are_neighbours(at, following):
                at, is_best = _join(at, following), is_best or following_is_best
            else:
                merged.append(at)
                at, is_best = following, following_is_best
        merged.append(at)
    return sorted(merged, key=_rank)


def _rank(candidate: Candidate) -> tuple[bool, float, str, str, int]:
    """Pinned first, then by score; ties always in the same order."""
    pinned = candidate.match == MatchKind.MATCH_KIND_PINNED
    return (not pinned, -candidate.score, candidate.corpus, candidate.path, candidate.start_line)


def _are_neighbours(first: Candidate, second: Candidate) -> bool:
    if first.apart or second.apart or second.start_line - first.end_line - 1 > _MAX_GAP_LINES:
        return False
    return max(first.end_line, second.end_line) - first.start_line < MAX_MERGED_LINES


def _join(first: Candidate, second: Candidate) -> Candidate:
    best = first if first.score >= second.score else second
    match = best.match
    kinds = {first.match, second.match}
    if MatchKind.MATCH_KIND_PINNED in kinds:
        match = MatchKind.MATCH_KIND_PINNED
    elif len(kinds) > 1:
        match = MatchKind.MATCH_KIND_HYBRID
    return replace(
        best,
        start_line=first.start_line,
        end_line=max(first.end_line, second.end_line),
        symbol=_common(first.symbol, second.symbol) or best.symbol,
        match=match,
    )


def _common(first: str, second: str) -> str:
    """Returns the definition or heading that encloses both."""
    if first == second:
        return first
    separator = " > " if " > " in first or " > " in second else "."
    parts: list[str] = []
    for one, other in zip(first.split(separator), second.split(separator), strict=False):
        if one != other:
            break
        parts.append(one)
    return separator.join(parts)


class Selection:
    """Takes the best passages that are offered, in order: none that repeats a better one, such as a copy of a file, none
    that the budget has no room for. If not even one fits, the best one is cut after the lines that do."""

    def __init__(self, top_k: int, token_budget: int | None) -> None:
        self._top_k = top_k
        self._budget = token_budget
        self._left = token_budget
        self._taken: list[Candidate] = []
        self._shapes: list[frozenset[str]] = []
        self._best: Candidate | None = None

    @property
    def full(self) -> bool:
        """Whether more need not be offered."""
        return len(self._taken) >= self._top_k

    def offer(self, candidate: Candidate) -> None:
        """Takes a candidate, or not. It needs its lines."""
        text = candidate.text
        shape = frozenset(filter(None, map(str.strip, text.splitlines())))
        if self.full or any(_alike(shape, other) for other in self._shapes):
            return
        self._shapes.append(shape)
        if self._best is None:
            self._best = candidate
        if self._left is not None:
            tokens = estimate_tokens(text)
            if tokens > self._left:
                return
            self._left -= tokens
        self._taken.append(candidate)

    def result(self) -> list[Candidate]:
        """Returns what was taken, best first."""
        if not self._taken and self._best is not None and self._budget is not None:
            shorter = _shortened(self._best, self._budget)
            return [shorter] if shorter is not None else []
        return self._taken


def _alike(first: frozenset[str], second: frozenset[str]) -> bool:
    smaller, larger = sorted((len(first), len(second)))
    # The sizes alone bound what can be shared, which spares most comparisons.
    if not smaller or smaller < _ALIKE * larger:
        return False
    shared = len(first & second)
    return shared >= _ALIKE * (len(first) + len(second) - shared)


def _shortened(candidate: Candidate, token_budget: int) -> Candidate | None:
    """Returns the first lines of a passage that fit, or None if not even one does."""
    end = candidate.start_line - 1
    text = ""
    while end < candidate.end_line:
        text += candidate.lines[end]
        if estimate_tokens(text) > token_budget:
            break
        end += 1
    return replace(candidate, end_line=end) if end >= candidate.start_line else None
