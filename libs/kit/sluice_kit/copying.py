"""Copies a folder of large files with holes, without filling them and without passing the bytes through this process."""

import errno
import os
from pathlib import Path
from typing import Final

_CHUNK: Final = 1 << 30
_MODE: Final = 0o777
_UNSUPPORTED: Final = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP)


def copy_folder(source: Path, target: Path) -> None:
    """Copies a folder with everything below it, and who may read it. `target` must not exist. Raises OSError."""
    target.mkdir(parents=True, mode=0o700)
    target.chmod(source.stat().st_mode & _MODE)
    for entry in os.scandir(source):
        if entry.is_dir(follow_symlinks=False):
            copy_folder(Path(entry.path), target / entry.name)
        elif entry.is_file(follow_symlinks=False):
            _copy_file(entry.path, target / entry.name)


def _copy_file(source: str, target: Path) -> None:
    with open(source, "rb", buffering=0) as read, open(target, "xb", buffering=0) as write:  # noqa: PTH123 - unbuffered
        found = os.fstat(read.fileno())
        os.fchmod(write.fileno(), found.st_mode & _MODE)
        size = found.st_size
        at = 0
        while at < size:
            start, end = _next_data(read.fileno(), at, size)
            while start < end:
                start += _copy_range(read.fileno(), write.fileno(), start, min(end - start, _CHUNK))
            at = end
        os.truncate(write.fileno(), size)


def _next_data(descriptor: int, at: int, size: int) -> tuple[int, int]:
    """Returns where the next bytes that are no hole begin and end; `size` twice if none follow."""
    if not hasattr(os, "SEEK_DATA"):
        return at, size
    try:
        start = os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        raise
    return start, os.lseek(descriptor, start, os.SEEK_HOLE)


def _copy_range(source: int, target: int, at: int, count: int) -> int:
    """Copies some bytes and returns how many. Inside the kernel where the system can, shared where the disk can."""
    if hasattr(os, "copy_file_range"):
        try:
            done = os.copy_file_range(source, target, count, at, at)
            if done:
                return done
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    data = os.pread(source, min(count, 1 << 20), at)
    if not data:
        raise OSError(errno.EIO, "the file became shorter while it was copied")
    return os.pwrite(target, data, at)
