"""Findings: what is well, what may go wrong, what is wrong, a line each."""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """It works, or nobody needs it yet."""
    FAIL = "fail"
    """It does not work for somebody who asks."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    part: str
    """What it is about: `gateway`, an integration, a route, `retrieval`, a corpus, a setting."""
    said: str
    """What is so."""
    todo: str = ""
    """What to do about it."""

    def as_json(self) -> dict[str, Any]:
        """Returns it for other programs."""
        return {**asdict(self), "level": self.level.value}


@dataclass
class Findings:
    """All of them, in the order they were made; `show` is told of each."""

    show: Callable[[Finding], None]
    made: list[Finding] = field(default_factory=list)

    def ok(self, part: str, said: str) -> None:
        """Notes what is well."""
        self._add(Finding(Level.OK, part, said))

    def warn(self, part: str, said: str, todo: str) -> None:
        """Notes what may go wrong."""
        self._add(Finding(Level.WARN, part, said, todo))

    def fail(self, part: str, said: str, todo: str) -> None:
        """Notes what is wrong."""
        self._add(Finding(Level.FAIL, part, said, todo))

    def _add(self, finding: Finding) -> None:
        self.made.append(finding)
        self.show(finding)

    def count(self, level: Level) -> int:
        """Returns how many there are of a level."""
        return sum(finding.level is level for finding in self.made)


_STYLES = {Level.OK: "\x1b[32m", Level.WARN: "\x1b[33m", Level.FAIL: "\x1b[31m"}


def print_line(finding: Finding) -> None:
    """Prints a finding as one line."""
    level = f"{finding.level.value:4}"
    if sys.stdout.isatty():
        level = f"{_STYLES[finding.level]}{level}\x1b[0m"
    todo = f" → {finding.todo}" if finding.todo else ""
    print(f"{level}  {finding.part}: {finding.said}{todo}")
