"""What search is compared with: fixed windows of words, found by plain BM25 or by the same embedding model."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from bench.retrieval.metrics import DEPTH, Span

WINDOW_WORDS: Final = 350
OVERLAP_WORDS: Final = 100
K1: Final = 1.5
B: Final = 0.75
_WORD: Final = re.compile(r"\S+")
_TERM: Final = re.compile(r"\w+")


class Window(NamedTuple):
    """Lines that a window touches, and its text."""

    span: Span
    text: str


def windows(sources: dict[str, str]) -> list[Window]:
    """Cuts files into windows of words (what is between spaces), each overlapping the one before."""
    found: list[Window] = []
    for path, text in sources.items():
        words = [match.span() for match in _WORD.finditer(text)]
        for first in range(0, len(words), WINDOW_WORDS - OVERLAP_WORDS):
            part = words[first : first + WINDOW_WORDS]
            begin, end = part[0][0], part[-1][1]
            lines = Span(path, text.count("\n", 0, begin) + 1, text.count("\n", 0, end) + 1)
            found.append(Window(lines, text[begin:end]))
            if first + WINDOW_WORDS >= len(words):
                break
    return found


class PlainBM25:
    """BM25 as textbooks have it, over words in lower case: nothing is split, stemmed or left out."""

    def __init__(self, cut: Sequence[Window]) -> None:
        self._spans = [window.span for window in cut]
        counts = [Counter(_terms(window.text)) for window in cut]
        lengths = [sum(count.values()) for count in counts]
        average = sum(lengths) / max(1, len(lengths))
        held = Counter(term for count in counts for term in count)
        self._weights: dict[str, list[tuple[int, float]]] = {}
        for number, (count, length) in enumerate(zip(counts, lengths, strict=True)):
            norm = K1 * (1 - B + B * length / average)
            for term, times in count.items():
                rarity = math.log(1 + (len(cut) - held[term] + 0.5) / (held[term] + 0.5))
                self._weights.setdefault(term, []).append((number, rarity * times * (K1 + 1) / (times + norm)))

    def search(self, question: str) -> list[Span]:
        """Returns the best windows, best first."""
        scores: Counter[int] = Counter()
        for term in _terms(question):
            for number, weight in self._weights.get(term, ()):
                scores[number] += weight  # type: ignore[assignment]  # a counter of numbers holds fractions as well
        best = sorted(scores, key=lambda number: (-scores[number], number))
        return [self._spans[number] for number in best[:DEPTH]]


def _terms(text: str) -> list[str]:
    return [str(term).lower() for term in _TERM.findall(text)]


class DenseWindows:
    """The windows nearest to a question by their vectors, all compared."""

    def __init__(self, cut: Sequence[Window], vectors: Sequence[Sequence[float]]) -> None:
        """`vectors` are the windows' own, of length 1."""
        self._spans = [window.span for window in cut]
        self._vectors: Any = np.asarray(vectors, dtype=np.float32)

    def search(self, vector: Sequence[float]) -> list[Span]:
        """Returns the windows nearest to a vector, nearest first."""
        scores = self._vectors @ np.asarray(vector, dtype=np.float32)
        return [self._spans[number] for number in np.argsort(-scores, kind="stable")[:DEPTH]]
