"""BM25 as sparse vectors.

A term's id is a stable hash of its word, so that no dictionary has to be kept or shared. A document's vector holds the
saturated term frequencies, normalised by length; a question's vector holds ones; the store multiplies by the inverse
document frequency (Qdrant's modifier `idf`), so the dot product is the BM25 score.

The average length is a constant of the format, not measured: chunks have a bounded size anyway, and so the vector of a
chunk depends on nothing but the chunk, which is what makes re-indexing a part equal to indexing the whole.
"""

import zlib
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from sluice_retrieval.text.words import words, words_of

K1: Final = 1.5
"""How fast repeats of a term stop counting."""
B: Final = 0.75
"""How much long chunks are held back, 0 to 1."""
AVERAGE_TERMS: Final = 80.0
"""Terms in a usual chunk, its context included."""
MAX_QUERY_TERMS: Final = 192
"""Distinct terms of a question that count; the rest of a longer one is left out."""


class SparseVector(NamedTuple):
    """A sparse vector: term ids, ascending, and a weight for each."""

    indices: list[int]
    values: list[float]


@lru_cache(maxsize=400_000)
def term_id(word: str) -> int:
    """Returns the word's id, 0 to 2^32 - 1, the same in every process and version."""
    return zlib.crc32(word.encode("utf-8", errors="surrogatepass"))


def document_vector(weighted: Iterable[tuple[str, int]]) -> SparseVector:
    """Returns the vector of a chunk from its texts, each with how many times it counts."""
    counts: Counter[str] = Counter()
    for text, times in weighted:
        for word in words(text):
            counts[word] += times
    length = sum(counts.values())
    norm = K1 * (1 - B + B * length / AVERAGE_TERMS)
    weights: dict[int, float] = {}
    for word, count in counts.items():
        key = term_id(word)
        # Two words with one id count as one term; the larger weight stands.
        weights[key] = max(weights.get(key, 0.0), count * (K1 + 1) / (count + norm))
    indices = sorted(weights)
    return SparseVector(indices, [weights[key] for key in indices])


def query_vector(text: str) -> SparseVector:
    """Returns the vector of a question. Empty if no word of it counts."""
    terms: dict[int, None] = {}
    for word in words(text):
        terms.setdefault(term_id(word))
        if len(terms) >= MAX_QUERY_TERMS:
            break
    indices = sorted(terms)
    return SparseVector(indices, [1.0] * len(indices))


def clear_caches() -> None:
    """Frees what was remembered of words, after a large piece of work."""
    term_id.cache_clear()
    words_of.cache_clear()
