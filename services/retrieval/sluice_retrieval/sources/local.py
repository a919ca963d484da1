"""Reads a local folder: .gitignore honoured, symbolic links never followed."""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sluice_retrieval.sources.classify import is_bad_name
from sluice_retrieval.sources.folder import Folder, SkippedFile
from sluice_retrieval.sources.found import Budget, SeenFile, unreadable
from sluice_retrieval.sources.patterns import IgnoreRules, PathFilter
from sluice_retrieval.sources.selection import (
    IGNORE_FILE,
    IGNORE_FILE_BYTES,
    ignore_file_too_large,
    skip_file,
    skip_folder,
)

_SETTLED_NANOSECONDS: Final = 2_000_000_000
"""The coarsest clock of the disks in use ticks every two seconds."""


class LocalFolder:
    """A folder of this machine. A `Source`."""

    def __init__(self, root: Path, filters: PathFilter, budget: Budget) -> None:
        """Raises ChildFailure: SOURCE_UNREADABLE."""
        try:
            self._folder = Folder.root(root)
        except FileNotFoundError:
            raise unreadable("there is no such folder") from None
        except NotADirectoryError:
            raise unreadable("the path is not a folder") from None
        except OSError as error:
            raise unreadable(f"the folder cannot be read: {error.strerror}") from None
        self._filters = filters
        self._budget = budget
        self._begun = time.time_ns()

    def files(self) -> Iterator[SeenFile]:
        """Yields the files that may count."""
        # Those that a clone keeps to itself, too.
        rules = IgnoreRules().within("", _text(self._folder, ".git", "info", "exclude"))
        yield from self._walk(self._folder, "", rules, 1)

    def read(self, path: str, ref: str) -> bytes | str:
        """Reads a file without leaving the folder."""
        try:
            return self._folder.read_path(path.split("/"), self._budget.max_file_bytes)
        except SkippedFile as skipped:
            return skipped.reason

    def close(self) -> None:
        """Closes the folder."""
        self._folder.close()

    def _walk(self, folder: Folder, path: str, rules: IgnoreRules, depth: int) -> Iterator[SeenFile]:
        budget = self._budget
        budget.check_depth(depth)
        budget.check_time()
        rules = rules.within(path, _text(folder, IGNORE_FILE))
        try:
            entries = folder.entries(budget.max_objects)
        except OSError:
            budget.skip("unreadable")
            return
        for entry in entries:
            budget.see()
            inner = f"{path}/{entry.name}" if path else entry.name
            reason = _skip_entry(entry, inner, rules, self._filters)
            if reason is not None:
                budget.skip(reason)
            elif entry.is_dir(follow_symlinks=False):
                try:
                    deeper = folder.folder(entry.name)
                except OSError:
                    budget.skip("unreadable")
                    continue
                with deeper:
                    yield from self._walk(deeper, inner, rules, depth + 1)
            else:
                seen = self._seen(entry, inner)
                if isinstance(seen, str):
                    budget.skip(seen)
                else:
                    yield seen

    def _seen(self, entry: os.DirEntry[str], path: str) -> SeenFile | str:
        """Returns the file, or why it does not count, without opening it."""
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            return "unreadable"
        if not stat.S_ISREG(status.st_mode):
            return "special"
        if status.st_size > self._budget.max_file_bytes:
            return "too_large"
        # One that was just written may be written again within the same tick of the disk's clock.
        settled = max(status.st_mtime_ns, status.st_ctime_ns) < self._begun - _SETTLED_NANOSECONDS
        parts = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
        return SeenFile(path, status.st_size, ":".join(map(str, parts)) if settled else "")


def _skip_entry(entry: os.DirEntry[str], path: str, rules: IgnoreRules, filters: PathFilter) -> str | None:
    if entry.is_symlink():
        return "bad_name" if is_bad_name(entry.name) else "symlink"
    if entry.is_dir(follow_symlinks=False):
        return skip_folder(path, entry.name, rules, filters)
    return skip_file(path, entry.name, rules, filters)


def _text(folder: Folder, *parts: str) -> str | None:
    """Returns the patterns in a file, or None where there is none that can be read."""
    try:
        return folder.read_path(parts, IGNORE_FILE_BYTES).decode("utf-8-sig", errors="replace")
    except SkippedFile as skipped:
        if skipped.reason == "too_large":
            raise ignore_file_too_large() from None
        return None
