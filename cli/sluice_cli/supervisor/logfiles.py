"""The services' logs: files that the processes write themselves, so that a stopped supervisor holds nobody up."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

_MAX_BYTES: Final = 16 * 1024 * 1024
_ROTATE_SECONDS: Final = 5.0
_TAIL_SECONDS: Final = 0.2


class LogFile:
    """The log of one service. The log of the run before is kept as `NAME.log.1`."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = folder / f"{name}.log"
        self._read = 0
        if self.path.exists():
            self.path.replace(self._old())

    def open(self) -> int:
        """Opens it for a new process and returns the descriptor. The caller closes it."""
        # Appending is what makes cutting the file safe while a process writes to it.
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def size(self) -> int:
        """Returns its bytes so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def since(self, offset: int) -> str:
        """Returns what was written after an offset."""
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")

    def rotate_if_large(self) -> None:
        """Moves the contents to `NAME.log.1` once they are large. What is written in that instant may be lost."""
        if self.size() > _MAX_BYTES:
            shutil.copyfile(self.path, self._old())
            os.truncate(self.path, 0)
            self._read = 0

    def new_lines(self) -> list[str]:
        """Returns the complete lines that came since the last call."""
        if self.size() < self._read:
            self._read = 0
        text = self.since(self._read)
        complete = text[: text.rfind("\n") + 1]
        self._read += len(complete.encode(errors="replace"))
        return complete.splitlines()

    def _old(self) -> Path:
        return self.path.with_name(self.path.name + ".1")


async def keep_small(logs: list[LogFile]) -> None:
    """Rotates large logs until it is cancelled."""
    while True:
        await asyncio.sleep(_ROTATE_SECONDS)
        for log in logs:
            log.rotate_if_large()


async def stream(logs: dict[str, LogFile], show: Callable[[str, str], None]) -> None:
    """Hands each new line to `show`, with the service's name, until it is cancelled."""
    while True:
        for name, log in logs.items():
            for line in log.new_lines():
                show(name, line)
        await asyncio.sleep(_TAIL_SECONDS)
