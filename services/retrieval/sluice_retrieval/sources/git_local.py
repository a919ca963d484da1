"""Looks at a repository on this machine before git does: none of its parts may lie beside the allowed roots.

A repository can point elsewhere: by a `.git` file, a symbolic link, the folder that its worktrees share, or a list of
other repositories whose objects it borrows. Git follows all of them.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_POINTERS: Final = 4096
"""Bytes of a file that names a path."""
_LISTS: Final = 64 * 1024
_MAX_DEPTH: Final = 5
_MAX_ENTRIES: Final = 1_000_000


class LeadsElsewhere(Exception):
    """A repository of which a part lies elsewhere, or cannot be told."""


def check_repository(folder: Path, roots: Sequence[Path]) -> None:
    """Raises LeadsElsewhere. `folder` is a work tree or a bare repository; `roots` are real paths.

    What is no repository is not refused here: git does that.
    """
    _Walk(roots).repository(folder)


class _Walk:
    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = roots
        self._seen: set[Path] = set()
        self._entries = 0

    def repository(self, folder: Path) -> None:
        inner = folder / ".git"
        if inner.is_symlink() or inner.is_dir():
            return self._git_folder(self._inside(inner))
        if inner.is_file():
            text = _read(inner, _POINTERS).strip()
            if not text.startswith("gitdir:"):
                raise LeadsElsewhere
            return self._git_folder(self._inside(folder / text.removeprefix("gitdir:").strip()))
        return self._git_folder(self._inside(folder))

    def _git_folder(self, folder: Path) -> None:
        if folder in self._seen:
            return
        self._seen.add(folder)
        if not folder.is_dir():
            return
        self._links(folder)
        common = folder / "commondir"
        if common.is_file():
            self._git_folder(self._inside(folder / _read(common, _POINTERS).strip()))
        self._borrowed(folder / "objects", _MAX_DEPTH)

    def _borrowed(self, objects: Path, depth: int) -> None:
        """Follows the lists of other folders of objects."""
        listed = objects / "info" / "alternates"
        if not listed.is_file():
            return
        if not depth:
            raise LeadsElsewhere
        for line in _read(listed, _LISTS).splitlines():
            if not line or line.startswith("#"):
                continue
            if line.startswith('"'):  # a form with escapes, which nobody writes by hand
                raise LeadsElsewhere
            other = self._inside(objects / line)
            if other.is_dir() and other not in self._seen:
                self._seen.add(other)
                self._links(other)
                self._borrowed(other, depth - 1)

    def _links(self, folder: Path) -> None:
        """Looks where every link below a folder leads, and below the folders that they lead to."""
        for entry in self._every(folder):
            if entry.is_symlink():
                real = self._inside(Path(entry.path))
                if real.is_dir() and real not in self._seen:
                    self._seen.add(real)
                    self._links(real)

    def _every(self, folder: Path) -> Iterator[os.DirEntry[str]]:
        """Yields all below a folder, without entering links."""
        try:
            found = os.scandir(folder)
        except OSError:
            return
        with found:
            for entry in found:
                self._entries += 1
                if self._entries > _MAX_ENTRIES:
                    raise LeadsElsewhere
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    yield from self._every(Path(entry.path))

    def _inside(self, path: Path) -> Path:
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):
            raise LeadsElsewhere from None
        if not any(real.is_relative_to(root) for root in self._roots):
            raise LeadsElsewhere
        return real


def _read(path: Path, most: int) -> str:
    """Returns the text of a small file."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError:
        raise LeadsElsewhere from None
    if len(data) > most:
        raise LeadsElsewhere
    return data.decode("utf-8", errors="surrogateescape")
