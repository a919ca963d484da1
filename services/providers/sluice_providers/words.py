"""Words of prose and of code, for what works without a model: quoting, and embeddings by hashing."""

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Final

_WORD: Final = re.compile(r"[^\W\d_]+|\d+")
_HUMP: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_COMMON: Final = (
    "a about all an and any are as at be been but by can could did do does for from get give had has have how i if in "
    "into is it its just me my no not of on one or our out show so some such tell than that the their them then there "
    "these they this those to up us use used uses using was we were what when where which while who why will with "
    "would you your please"
)
STOP_WORDS: Final = frozenset(_COMMON.split())


def split(text: str) -> Iterator[str]:
    """Yields the words of a text in lower case; identifiers fall into their parts (`getHTTPName` → get, http, name)."""
    for match in _WORD.finditer(text):
        for part in _HUMP.split(match[0]):
            yield part.lower()


def stem(word: str) -> str:
    """Returns a word without the commonest English endings, so that `retries`, `retrying` and `retry` meet."""
    for ending, instead in (("ies", "y"), ("ied", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            base = word[: -len(ending)] + instead
            if len(base) > 3 and base[-1] == base[-2] and base[-1] not in "aeiouls":
                base = base[:-1]
            return base.removesuffix("e") if len(base) > 3 else base
    return word.removesuffix("e") if len(word) > 3 else word


def terms(text: str) -> list[str]:
    """Returns the stems of a text's words that mean something."""
    return [stem(word) for word in split(text) if word not in STOP_WORDS]


def hashed_vector(text: str, dimensions: int) -> Sequence[float]:
    """Returns a unit vector in which texts with common words, or common parts of words, lie close. Deterministic.

    Each stem adds to one component chosen by its hash, with the root of its count; its three-letter pieces add a
    little to others, so that kindred words are not strangers.
    """
    weights: dict[str, float] = {}
    for term in terms(text) or [stem(word) for word in split(text)]:
        weights[term] = weights.get(term, 0.0) + 1.0
        padded = f"^{term}$"
        for index in range(len(padded) - 2):
            piece = f"#{padded[index : index + 3]}"
            weights[piece] = weights.get(piece, 0.0) + 0.08
    vector = [0.0] * dimensions
    for term, weight in weights.items():
        digest = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "big")
        vector[digest % dimensions] += math.sqrt(weight) * (1.0 if digest >> 63 else -1.0)
    norm = math.sqrt(sum(value * value for value in vector))
    if norm == 0.0:
        vector[0] = norm = 1.0
    return [value / norm for value in vector]
