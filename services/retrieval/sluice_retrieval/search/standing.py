"""What stands behind its score, unless the question is about it: tests, and licences at the top of files.

A test says in words what the code does, calls it by its name and is short, so that it would often come first. Who asks
how something works wants the code; the test is still found, right behind it. A licence has words for everything
("conditions", "limitations", "distributed"), and has them in every file.
"""

import re
from collections.abc import Iterable, Sequence
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
_NOTICE: Final = re.compile(
    r"\b(?:copyright|licen[cs]ed?|spdx-license-identifier|all rights reserved)\b", re.IGNORECASE
)
_COMMENT: Final = ("#", "//", "/*", "*", "--", ";", "%", "<!--")
_NOTICE_LINES: Final = 60
"""Lines at the top of a file that are looked at."""
_ASKING_LICENCE: Final = frozenset({"licens", "licenc", "copyright", "spdx", "warranty", "author"})
_OF_NOTICES: Final = 0.5
"""What the notice of a licence keeps of any score."""
_FIRST_LINES: Final = 3
"""Where a notice begins, below what a script's first line says."""


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


def asks_for_licences(question: str) -> bool:
    """Tells whether a question is about licences."""
    return not _ASKING_LICENCE.isdisjoint(words(question))


def may_begin_with_notice(candidate: Candidate) -> bool:
    """Tells whether it is worth reading a candidate to see whether it begins with the notice of a licence."""
    return candidate.start_line <= _FIRST_LINES and candidate.match != MatchKind.MATCH_KIND_PINNED


def notice_behind(candidate: Candidate) -> Candidate:
    """Returns a candidate (with its lines) without the notice of a licence that it begins with.

    One that is mostly notice keeps it, but little of its score, and is joined with nothing.
    """
    held = _notice_lines(candidate.lines) - candidate.start_line + 1
    if held <= 0:
        return candidate
    if 2 * held >= candidate.end_line - candidate.start_line + 1:
        return replace(candidate, score=candidate.score * _OF_NOTICES, apart=True)
    return replace(candidate, start_line=candidate.start_line + held)


def _notice_lines(lines: Sequence[str]) -> int:
    """Returns how many lines the comment at the top of a file has, with the blank ones after it, if it is about
    copyright; else 0."""
    count, found = 0, False
    for line in lines[:_NOTICE_LINES]:
        text = line.strip()
        if text and not text.startswith(_COMMENT):
            break
        count += 1
        found = found or _NOTICE.search(text) is not None
    return count if found else 0
