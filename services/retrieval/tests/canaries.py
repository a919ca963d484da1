"""Files that nobody is to touch, and a witness who did."""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

CANARY = "canary of the kettle: nobody reads this\n"
_LIBC = ctypes.CDLL(None, use_errno=True)
_IN_ACCESS, _IN_MODIFY, _IN_OPEN = 0x1, 0x2, 0x20
_EVENT = struct.Struct("iIII")


class Witness:
    """Sees every opening and reading of files, by any process, from inotify (on Linux)."""

    def __init__(self, descriptor: int, names: dict[int, str]) -> None:
        self._descriptor = descriptor
        self._names = names

    def seen(self) -> list[str]:
        """Returns the paths that were touched since the last call."""
        found: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._descriptor, 65536):
                at = 0
                while at < len(data):
                    watch, _, _, length = _EVENT.unpack_from(data, at)
                    name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0").decode()
                    found.append(f"{self._names[watch]}/{name}".rstrip("/"))
                    at += _EVENT.size + length
        return found


@contextlib.contextmanager
def watching(*folders: Path) -> Iterator[Witness]:
    """Watches folders, what is in them, and their files for the length of the block."""
    descriptor = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert descriptor >= 0
    names: dict[int, str] = {}
    for folder in folders:
        # Listed before the first of them is watched: to list them is to open them.
        for path in [path for path, _, _ in os.walk(folder)]:
            watch = _LIBC.inotify_add_watch(descriptor, os.fsencode(path), _IN_ACCESS | _IN_MODIFY | _IN_OPEN)
            assert watch >= 0
            names[watch] = path
    witness = Witness(descriptor, names)
    try:
        yield witness
    finally:
        os.close(descriptor)
