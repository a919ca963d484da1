"""Reads a local folder: .gitignore honoured, symbolic links never followed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sluice_retrieval.sources.classify import HIDDEN_FOLDERS, VENDORED_FOLDERS, skip_by_content, skip_by_name
from sluice_retrieval.sources.folder import Folder, SkippedFile
from sluice_retrieval.sources.found import Budget, FoundFile, unreadable
from sluice_retrieval.sources.patterns import IgnoreRules, PathFilter

_IGNORE_FILE_BYTES: Final = 256 * 1024


def read_folder(root: Path, filters: PathFilter, budget: Budget) -> Iterator[FoundFile]:
    """Yields the files that count, and counts the others in the budget by reason."""
    try:
        folder = Folder.root(root)
    except FileNotFoundError:
        raise unreadable("there is no such folder") from None
    except NotADirectoryError:
        raise unreadable("the path is not a folder") from None
    except OSError as error:
        raise unreadable(f"the folder cannot be read: {error.strerror}") from None
    with folder:
        rules = IgnoreRules().within("", _repository_excludes(folder))
        yield from _walk(folder, "", rules, filters, budget, 1)


def _walk(
    folder: Folder, path: str, rules: IgnoreRules, filters: PathFilter, budget: Budget, depth: int
) -> Iterator[FoundFile]:
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
        reason = _skip_entry(entry, inner, rules, filters)
        if reason is not None:
            budget.skipped[reason] += 1
        elif entry.is_dir(follow_symlinks=False):
            try:
                deeper = folder.folder(entry.name)
            except OSError:
                budget.skipped["unreadable"] += 1
                continue
            with deeper:
                yield from _walk(deeper, inner, rules, filters, budget, depth + 1)
        else:
            found = _read(folder, entry.name, inner, budget)
            if found is not None:
                yield found


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


def _read(folder: Folder, name: str, path: str, budget: Budget) -> FoundFile | None:
    try:
        data = folder.read(name, budget.max_file_bytes)
    except SkippedFile as skipped:
        budget.skipped[skipped.reason] += 1
        return None
    reason = skip_by_content(path, data)
    if reason is not None:
        budget.skipped[reason] += 1
        return None
    budget.take(data)
    return FoundFile(path, data)


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
