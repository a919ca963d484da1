"""A folder that is read without ever leaving it.

Every step opens one name relative to the folder that is open already, and no step follows a symbolic link. So whatever
is swapped under our feet, what is read lies below the root.
"""

import errno
import itertools
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class SkippedFile(Exception):
    """A file that is not read; the argument says why: `symlink`, `special`, `too_large`, `unreadable`, `missing`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Folder:
    """An open folder. Blocking: use it from threads and children."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def root(cls, path: Path) -> Self:
        """Opens a folder by its path. Raises OSError."""
        return cls(os.open(path, _FOLDER_FLAGS))

    def folder(self, name: str) -> "Folder":
        """Opens a folder in it. Raises OSError: ELOOP or ENOTDIR for a symbolic link."""
        return Folder(os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=self._descriptor))

    def entries(self, most: int) -> list[os.DirEntry[str]]:
        """Returns what is in it, by name; of more than `most` entries, any one more than that. Raises OSError."""
        with os.scandir(self._descriptor) as found:
            return sorted(itertools.islice(found, most + 1), key=lambda entry: entry.name)

    def read(self, name: str, limit: int) -> bytes:
        """Reads a file in it. Raises SkippedFile."""
        try:
            descriptor = os.open(name, _FILE_FLAGS, dir_fd=self._descriptor)
        except OSError as error:
            raise SkippedFile(_reason(error)) from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SkippedFile("special")
            if status.st_size > limit:
                raise SkippedFile("too_large")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                # It may grow while it is read.
                data = file.read(limit + 1)
        except OSError:
            raise SkippedFile("unreadable") from None
        finally:
            os.close(descriptor)
        if len(data) > limit:
            raise SkippedFile("too_large")
        return data

    def read_path(self, parts: Sequence[str], limit: int) -> bytes:
        """Reads a file below it, by the parts of its path. Raises SkippedFile."""
        if not parts or any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise SkippedFile("missing")
        at = self
        try:
            for part in parts[:-1]:
                try:
                    deeper = at.folder(part)
                except OSError as error:
                    raise SkippedFile(_reason(error)) from None
                if at is not self:
                    at.close()
                at = deeper
            return at.read(parts[-1], limit)
        finally:
            if at is not self:
                at.close()

    def close(self) -> None:
        """Closes it."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "symlink"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "missing"
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return "special"
    return "unreadable"
