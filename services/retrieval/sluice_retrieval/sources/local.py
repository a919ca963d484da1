"""Reads a local folder: .gitignore honoured, symbolic links never followed."""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sluice_retrieval.sources.classify import HIDDEN_FOLDERS, VENDORED_FOLDERS, skip_by_name
from sluice_retrieval.sources.folder import Folder, SkippedFile
from sluice_retrieval.sources.found import Budget, SeenFile, unreadable
from sluice_retrieval.sources.patterns import IgnoreRules, PathFilter

_IGNORE_FILE_BYTES: Final = 256 * 1024
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
        rules = IgnoreRules().within("", _repository_excludes(self._folder))
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
        rules = rules.within(path, _text(folder, ".gitignore"))
        try:
            entries = folder.entries()
        except OSError:
            budget.skipped["unreadable"] += 1
            return
        for entry in entries:
            inner = f"{path}/{entry.name}" if path else entry.name
            reason = _skip_entry(entry, inner, rules, self._filters)
            if reason is not None:
                budget.skipped[reason] += 1
            elif entry.is_dir(follow_symlinks=False):
                try:
                    deeper = folder.folder(entry.name)
                except OSError:
                    budget.skipped["unreadable"] += 1
                    continue
                with deeper:
                    yield from self._walk(deeper, inner, rules, depth + 1)
            else:
                seen = self._seen(entry, inner)
                if isinstance(seen, str):
                    budget.skipped[seen] += 1
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
    try:
        path.encode()
    except UnicodeEncodeError:
        return "bad_name"
    if entry.is_symlink():
        return "symlink"
    is_folder = entry.is_dir(follow_symlinks=False)
    if is_folder:
        if entry.name in HIDDEN_FOLDERS:
            return "hidden"
        if entry.name in VENDORED_FOLDERS and not filters.names(entry.name):
            return "vendored"
    if rules.ignores(path, is_folder=is_folder):
        return "ignored"
    if is_folder:
        return "excluded" if filters.skips_folder(path) else None
    if not filters.takes(path):
        return "excluded"
    return skip_by_name(path)


def _text(folder: Folder, name: str) -> str | None:
    try:
        return folder.read(name, _IGNORE_FILE_BYTES).decode("utf-8", errors="replace")
    except SkippedFile:
        return None


def _repository_excludes(folder: Folder) -> str | None:
    """Returns the patterns that a clone keeps to itself, in .git/info/exclude."""
    with contextlib.suppress(SkippedFile):
        return folder.read_path((".git", "info", "exclude"), _IGNORE_FILE_BYTES).decode("utf-8", errors="replace")
    return None
