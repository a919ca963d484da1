"""Chooses the lines of passages that answer a question best, by its words alone.

Every word of the question (identifiers fall into their parts) weighs by how rare it is among the lines at hand (IDF).
A window of lines is worth the weights of the different words it holds, and a little for each time they stand close
together; headings and lines that define something named in the question count more. Ties go to the passage that the
search ranked higher.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sluice.chat.v1 import passage_pb2
from sluice_providers.words import terms

_DEFINITION: Final = re.compile(
    r"^\s*(?:#{1,6} |(?:async |export |public |private |static |pub )*"
    r"(?:def|class|function|func|fn|type|interface|struct|enum|message|service|rpc|const) )"
)
_DEFINITION_WEIGHT: Final = 1.6
_RANK_WEIGHT: Final = 0.15
_LENGTH_COST: Final = 0.02
_ENOUGH: Final = 0.35
"""A further quote must be worth this share of the best one."""


@dataclass(frozen=True, slots=True)
class Quote:
    """Lines of one passage. `score` is 0 if they share no word with the question."""

    passage: passage_pb2.Passage
    start_line: int
    end_line: int
    text: str
    score: float


def choose(question: str, passages: Sequence[passage_pb2.Passage], *, max_quotes: int, max_lines: int) -> list[Quote]:
    """Returns the best quotes, best first: at most one window of at most `max_lines` lines from each passage.

    Windows never overlap, also where passages do. Without any common word the first passage's head is quoted.
    """
    passages = [passage for passage in passages if passage.text.strip()]
    if not passages:
        return []
    asked = set(terms(question))
    lines = [passage.text.splitlines() for passage in passages]
    held = [[asked.intersection(terms(line)) for line in rows] for rows in lines]
    weights = _weights(asked, held)
    quotes = []
    for rank, (passage, rows, found) in enumerate(zip(passages, lines, held, strict=True)):
        best = _best_window(rows, found, weights, max_lines)
        if best is not None:
            first, last, score = best
            score += _RANK_WEIGHT * max(weights.values()) / (1 + rank)
            score += 0.5 * sum(weights[term] for term in asked.intersection(terms(f"{passage.path} {passage.symbol}")))
            quotes.append(_quote(passage, rows, first, last, score))
    quotes.sort(key=lambda quote: -quote.score)
    chosen: list[Quote] = []
    for quote in quotes:
        if len(chosen) == max_quotes or (chosen and quote.score < chosen[0].score * _ENOUGH):
            break
        if not any(_overlap(quote, other) for other in chosen):
            chosen.append(quote)
    if chosen:
        return chosen
    rows = lines[0]
    first = next(index for index, row in enumerate(rows) if row.strip())
    return [_quote(passages[0], rows, first, min(len(rows), first + max_lines) - 1, 0.0)]


def _weights(asked: set[str], held: Sequence[Sequence[set[str]]]) -> dict[str, float]:
    """Returns the weight of each word asked for, by the number of lines that hold it."""
    total = sum(len(rows) for rows in held)
    weights = {}
    for term in asked:
        count = sum(term in found for rows in held for found in rows)
        weights[term] = math.log(1 + (total - count + 0.5) / (count + 0.5))
    return weights


def _best_window(
    rows: Sequence[str], found: Sequence[set[str]], weights: dict[str, float], max_lines: int
) -> tuple[int, int, float] | None:
    """Returns the first and the last row of the best window and its score; None if no row holds a word."""
    best: tuple[int, int, float] | None = None
    worth = [
        sum(weights[term] for term in terms_) * (_DEFINITION_WEIGHT if _DEFINITION.match(row) else 1.0)
        for row, terms_ in zip(rows, found, strict=True)
    ]
    for first in range(len(rows)):
        if not found[first]:
            continue
        seen: set[str] = set()
        score = 0.0
        for last in range(first, min(len(rows), first + max_lines)):
            fresh = found[last] - seen
            if found[last]:
                share = sum(weights[term] for term in fresh)
                bonus = worth[last] - sum(weights[term] for term in found[last])
                score += share + bonus + 0.1 * (worth[last] - share - bonus)
                seen |= found[last]
                value = score * (1 - _LENGTH_COST * (last - first))
                if best is None or value > best[2]:
                    best = (first, last, value)
    if best is None:
        return None
    first, last, score = best
    return first, _to_the_end_of_the_block(rows, first, last, max_lines), score


def _to_the_end_of_the_block(rows: Sequence[str], first: int, last: int, max_lines: int) -> int:
    """Returns the row at which the quote ends: the paragraph or block goes on to a blank line, if that is near."""
    end = last
    while end + 1 < len(rows) and end + 1 - first < max_lines and rows[end + 1].strip():
        end += 1
    # A heading alone says nothing: take the paragraph below it.
    if end == first and rows[first].lstrip().startswith("#") and end + 2 < len(rows):
        end += 1
        while end + 1 < len(rows) and end + 1 - first < max_lines and rows[end + 1].strip():
            end += 1
    while end > last and not rows[end].strip():
        end -= 1
    return end


def _quote(passage: passage_pb2.Passage, rows: Sequence[str], first: int, last: int, score: float) -> Quote:
    start = max(passage.start_line, 1)
    return Quote(passage, start + first, start + last, "\n".join(rows[first : last + 1]), score)


def _overlap(one: Quote, other: Quote) -> bool:
    return (
        one.passage.path == other.passage.path
        and one.passage.corpus == other.passage.corpus
        and one.start_line <= other.end_line
        and other.start_line <= one.end_line
    )
