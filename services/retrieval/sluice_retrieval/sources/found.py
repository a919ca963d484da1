"""What reading a source yields, and what it may cost."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from sluice_retrieval.children.runtime import ChildFailure


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A file that may count, before it is read."""

    path: str
    size: int
    signature: str
    """What tells without reading it that it is the same as before. Empty: nothing does."""
    ref: str = ""
    """What the source calls it, where that is not the path."""


class Source(Protocol):
    """A source that is open. Blocking: use it in a child."""

    def files(self) -> Iterator[SeenFile]:
        """Yields the files that may count, and counts the others in the budget by reason."""

    def read(self, path: str, ref: str) -> bytes | str:
        """Returns the contents of a file that was seen, or why it is not read."""

    def close(self) -> None:
        """Releases it."""


@dataclass
class Budget:
    """What one source may cost, and what it did. Its methods raise SOURCE_LIMIT_EXCEEDED."""

    max_files: int
    max_file_bytes: int
    max_total_bytes: int
    max_depth: int
    max_seconds: float
    max_objects: int = 1_000_000
    files: int = 0
    total: int = 0
    seen: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    _start: float = field(default_factory=time.monotonic)

    def take(self, size: int, files: int = 1) -> None:
        """Counts files of a size together."""
        self.files += files
        self.total += size
        if self.files > self.max_files:
            raise exceeded("max_files", f"more than {self.max_files} files")
        if self.total > self.max_total_bytes:
            raise exceeded("max_total_bytes", f"more than {self.max_total_bytes} bytes")

    def see(self) -> None:
        """Counts an entry that is looked at, whether it counts or not: a small tree may show itself a billion times."""
        self.seen += 1
        if self.seen > self.max_objects:
            raise exceeded("max_objects", f"more than {self.max_objects} entries to look at")
        self.check_time()

    def skip(self, reason: str) -> None:
        """Counts what does not count, by the reason."""
        self.skipped[reason] += 1

    def check_depth(self, depth: int) -> None:
        """Refuses folders that are nested too deeply."""
        if depth > self.max_depth:
            raise exceeded("max_depth", f"folders nested more than {self.max_depth} deep")

    def check_time(self) -> float:
        """Returns the seconds left; refuses when there are none."""
        left = self.max_seconds - (time.monotonic() - self._start)
        if left <= 0:
            raise exceeded("max_seconds", f"more than {self.max_seconds:g} seconds")
        return left


def exceeded(limit: str, what: str) -> ChildFailure:
    """Returns the failure for a limit of the operator."""
    return ChildFailure("SOURCE_LIMIT_EXCEEDED", f"the source has {what}; filters leave folders out", {"limit": limit})


def unreadable(what: str) -> ChildFailure:
    """Returns the failure for a source that cannot be read."""
    return ChildFailure("SOURCE_UNREADABLE", what)
