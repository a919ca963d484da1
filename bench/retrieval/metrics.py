"""When a passage counts as found, and what is computed from that. The same for every system."""

import math
import random
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Final, NamedTuple

CUTS: Final = (5, 10, 20)
DEPTH: Final = max(CUTS)
"""Passages of each answer that are looked at."""
_RANKED: Final = 10
_RESAMPLES: Final = 2000
_SEED: Final = 20


class Span(NamedTuple):
    """Lines of a file: `start` to `end`, inclusive, from 1."""

    path: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """How many lines."""
        return self.end - self.start + 1


class Question(NamedTuple):
    """What is asked, and the spans that answer it: each of them is an answer of its own."""

    text: str
    answers: tuple[Span, ...]


class Score(NamedTuple):
    """How well one question was answered."""

    recall: tuple[float, ...]
    """Share of the answers among the first passages, for each of CUTS."""
    reciprocal: float
    """1 divided by the place of the first passage that holds an answer; 0 if none of the first ten does."""
    gain: float
    """nDCG of the first ten: 1 if the answers are at the top."""


def holds(passage: Span, answer: Span) -> bool:
    """Tells whether a passage answers: it has at least half of the answer's lines, or lies at least half within it.

    The second is for answers that are longer than a passage. Touching an answer is not enough.
    """
    if passage.path != answer.path:
        return False
    shared = min(passage.end, answer.end) - max(passage.start, answer.start) + 1
    return 2 * shared >= min(answer.size, passage.size)


def score(question: Question, found: Sequence[Span]) -> Score:
    """Returns the score of passages, best first. A second passage with the same answer gains nothing."""
    open_answers = set(question.answers)
    first = 0
    new: list[int] = []
    for place, passage in enumerate(found[:DEPTH], 1):
        # One passage may hold several answers.
        held = {answer for answer in question.answers if holds(passage, answer)}
        if held and not first:
            first = place
        new.append(len(held & open_answers))
        open_answers -= held
    total = len(set(question.answers))
    recall = tuple(sum(new[:cut]) / total for cut in CUTS)
    gained = sum(bool(count) / math.log2(place + 1) for place, count in enumerate(new[:_RANKED], 1))
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(total, _RANKED) + 1))
    return Score(recall, 1 / first if 0 < first <= _RANKED else 0.0, gained / ideal)


def mean(scores: Sequence[Score]) -> Score:
    """Returns the mean over questions."""
    recalls = zip(*(one.recall for one in scores), strict=True)
    return Score(
        tuple(fmean(values) for values in recalls),
        fmean(one.reciprocal for one in scores),
        fmean(one.gain for one in scores),
    )


def gain_over(scores: Sequence[float], baseline: Sequence[float]) -> tuple[float, float, float]:
    """Returns by which share the mean of scores exceeds that of a baseline over the same questions: the figure itself
    between the ends of its 95 % interval, by drawing questions anew (paired bootstrap, always the same draws)."""
    draw = random.Random(_SEED)
    count = len(scores)
    ratio: Callable[[Sequence[int]], float] = lambda places: (  # noqa: E731 - one formula, for the sample and the draws
        sum(scores[place] for place in places) / (sum(baseline[place] for place in places) or math.inf) - 1
    )
    drawn = sorted(ratio(draw.choices(range(count), k=count)) for _ in range(_RESAMPLES))
    return drawn[int(0.025 * _RESAMPLES)], ratio(range(count)), drawn[int(0.975 * _RESAMPLES)]
