"""Tests stand behind what they test, unless the question is about tests.

A test says in words what the code does, calls it by its name and is short, so that it would often come first. Who asks
how something works wants the code; the test is still found, right behind it.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Final

from sluice.chat.v1.passage_pb2 import MatchKind
from sluice_retrieval.search.candidates import Candidate
from sluice_retrieval.text.words import words

_FOLDERS: Final = frozenset({"test", "tests", "testing", "testdata", "spec", "specs", "__tests__", "e2e"})
_NAME: Final = re.compile(
    r"(?:^test_|^tests?\.|^conftest\.|_tests?\.|_spec\.|[.-](?:test|spec)\.|[a-z0-9](?:Tests?|Spec)\.(?:java|kt|cs|php|scala)$)"
)
_ASKING: Final = frozenset({"test", "pytest", "unittest", "jest", "spec", "mock", "fixtur", "assert", "conftest"})
BY_WORDS: Final = 0.8
"""What a test keeps of a score of words, or of ranks."""
BY_MEANING: Final = 0.9
"""What it keeps of a similarity, which differs less from one text to the next."""


def is_test(path: str) -> bool:
    """Tells whether a file belongs to tests, by its folders and its name."""
    pure = PurePosixPath(path)
    return not _FOLDERS.isdisjoint(part.lower() for part in pure.parts[:-1]) or _NAME.search(pure.name) is not None


def asks_for_tests(question: str) -> bool:
    """Tells whether a question is about tests."""
    return not _ASKING.isdisjoint(words(question))


def tests_behind(found: Iterable[Candidate], factor: float) -> list[Candidate]:
    """Returns the candidates with the scores of tests multiplied; those of pinned files stay as they are."""
    return [
        replace(one, score=one.score * factor)
        if one.match != MatchKind.MATCH_KIND_PINNED and is_test(one.path)
        else one
        for one in found
    ]
