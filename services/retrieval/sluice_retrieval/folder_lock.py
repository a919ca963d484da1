"""Keeps a second process out of a folder that belongs to one."""

import fcntl
import os
from pathlib import Path

from sluice_kit.server import BindError


class FolderLock:
    """A lock on a folder, which the system releases when this process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock, making the folder. Raises BindError if another process has it, or it cannot be made."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BindError(f"cannot keep anything in {self._folder}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise BindError(f"another retrieval process works in {self._folder}") from None
        self._descriptor = descriptor

    def release(self) -> None:
        """Gives the lock back, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
