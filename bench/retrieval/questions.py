"""The questions written by hand, checked against what is installed."""

import tomllib
from pathlib import Path
from typing import Final

import msgspec

from bench.retrieval.metrics import Question, Span
from bench.retrieval.packages import Package

FILE: Final = Path(__file__).with_name("questions.toml")


class StaleQuestions(Exception):
    """The questions are about other lines than those that are installed. The message says which."""


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    start: int
    end: int
    anchor: str
    """Text that is in one of the lines."""


class _Question(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    answers: list[_Answer]


class _Package(msgspec.Struct, forbid_unknown_fields=True):
    distribution: str
    version: str
    questions: list[_Question]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    packages: list[_Package]


def questions_about(package: Package, sources: dict[str, str], file: Path = FILE) -> list[Question]:
    """Returns the questions about a package. Raises StaleQuestions unless every cited line is where it was."""
    with file.open("rb") as opened:
        held = msgspec.convert(tomllib.load(opened), _File)
    (about,) = (one for one in held.packages if one.distribution == package.distribution)
    if about.version != package.version:
        raise StaleQuestions(
            f"{file.name} is about {package.distribution} {about.version}, but {package.version} is installed: "
            "bring its lines and its version up to date"
        )
    return [
        Question(question.text, tuple(_checked(answer, package, sources, file) for answer in question.answers))
        for question in about.questions
    ]


def _checked(answer: _Answer, package: Package, sources: dict[str, str], file: Path) -> Span:
    lines = sources.get(answer.path, "").split("\n")[answer.start - 1 : answer.end]
    if len(lines) != answer.end - answer.start + 1 or not any(answer.anchor in line for line in lines):
        where = f"{package.distribution}: {answer.path}, lines {answer.start} to {answer.end}"
        raise StaleQuestions(f"{file.name}: {where} do not contain: {answer.anchor}")
    return Span(answer.path, answer.start, answer.end)
