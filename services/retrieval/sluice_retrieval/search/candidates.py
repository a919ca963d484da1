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
    """Lines of a file that match. `lines` are those of the whole file."""

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
    lines: Sequence[str]

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
    if second.start_line - first.end_line - 1 > _MAX_GAP_LINES:
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


def drop_alike(ranked: Sequence[Candidate]) -> list[Candidate]:
    """Leaves out passages that say nearly the same as a better one, such as copies of a file."""
    kept: list[Candidate] = []
    shapes: list[frozenset[str]] = []
    for candidate in ranked:
        shape = frozenset(filter(None, (line.strip() for line in candidate.text.splitlines())))
        if any(_alike(shape, other) for other in shapes):
            continue
        kept.append(candidate)
        shapes.append(shape)
    return kept


def _alike(first: frozenset[str], second: frozenset[str]) -> bool:
    smaller, larger = sorted((len(first), len(second)))
    # The sizes alone bound what can be shared, which spares most comparisons.
    if not smaller or smaller < _ALIKE * larger:
        return False
    shared = len(first & second)
    return shared >= _ALIKE * (len(first) + len(second) - shared)


def within_budget(ranked: Sequence[Candidate], top_k: int, token_budget: int | None) -> list[Candidate]:
    """Takes the best that fit. If not even one fits, the best one is cut after the lines that do."""
    taken: list[Candidate] = []
    left = token_budget
    for candidate in ranked:
        if len(taken) == top_k:
            break
        if left is not None:
            tokens = estimate_tokens(candidate.text)
            if tokens > left:
                continue
            left -= tokens
        taken.append(candidate)
    if not taken and ranked and token_budget is not None:
        shorter = _shortened(ranked[0], token_budget)
        if shorter is not None:
            taken.append(shorter)
    return taken


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
