"""BM25 as sparse vectors.

A term's id is a stable hash of its word, so that no dictionary has to be kept or shared. A document's vector holds the
saturated term frequencies, normalised by length; a question's vector holds ones; the store multiplies by the inverse
document frequency (Qdrant's modifier `idf`), so the dot product is the BM25 score.

The average length is a constant of the format, not measured: chunks have a bounded size anyway, and so the vector of a
chunk depends on nothing but the chunk, which is what makes re-indexing a part equal to indexing the whole.

Titles (path and symbol) are a field of their own, as in BM25F: they count the same over a short text and a long one, so
that a long section is found by its heading as well as a short function by its name.

The constants were chosen by `make bench-retrieval` over packages that its figures leave out; none of them moves MRR by
more than its noise alone.
"""

import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from sluice_retrieval.text.words import names, words_of

K1: Final = 2.0
"""How fast repeats of a term stop counting."""
B: Final = 0.75
"""How much long chunks are held back, 0 to 1."""
AVERAGE_TERMS: Final = 80.0
"""Terms in a usual chunk, its context included."""
_LEAST_TERMS: Final = 40
"""Shorter chunks count as if they had as many: a function of two lines is not twice as much about its words as one of
four."""
WEIGHING: Final = 2
"""Raised when the same chunk would be weighed differently, so that what was indexed before is not reused."""
_MAX_REMEMBERED: Final = 128
"""Characters of a name that is remembered. What is longer is no name, but data; of it there is no end."""
MAX_QUERY_TERMS: Final = 192
"""Distinct terms of a question that count; the rest of a longer one is left out."""


class SparseVector(NamedTuple):
    """A sparse vector: term ids, ascending, and a weight for each."""

    indices: list[int]
    values: list[float]


def term_id(word: str) -> int:
    """Returns the word's id, 0 to 2^32 - 1, the same in every process and version."""
    return zlib.crc32(word.encode("utf-8", errors="surrogatepass"))


def _terms_of(name: str) -> tuple[int, ...]:
    """Returns the ids of the words that a name stands for. Code repeats its names, so most are remembered."""
    return _remembered_terms(name) if len(name) <= _MAX_REMEMBERED else tuple(map(term_id, words_of(name)))


@lru_cache(maxsize=65_536)
def _remembered_terms(name: str) -> tuple[int, ...]:
    return tuple(map(term_id, words_of(name)))


def document_vector(texts: Iterable[str], titles: Iterable[tuple[str, int]] = ()) -> SparseVector:
    """Returns the vector of a chunk from its texts, and its titles, each with how many times it counts."""
    counts: dict[int, float] = {}
    length = 0
    for text in texts:
        for name in names(text):
            terms = _terms_of(name)
            length += len(terms)
            for term in terms:
                counts[term] = counts.get(term, 0.0) + 1.0
    norm = 1 - B + B * max(length, _LEAST_TERMS) / AVERAGE_TERMS
    for title, times in titles:
        for name in names(title):
            for term in _terms_of(name):
                # All counts are measured against the norm below; this takes it out again.
                counts[term] = counts.get(term, 0.0) + times * norm
    indices = sorted(counts)
    norm *= K1
    return SparseVector(indices, [count * (K1 + 1) / (count + norm) for count in map(counts.__getitem__, indices)])


def query_vector(text: str) -> SparseVector:
    """Returns the vector of a question. Empty if no word of it counts."""
    terms: dict[int, None] = {}
    for name in names(text):
        for term in _terms_of(name):
            terms.setdefault(term)
        if len(terms) >= MAX_QUERY_TERMS:
            break
    indices = sorted(terms)
    return SparseVector(indices, [1.0] * len(indices))
