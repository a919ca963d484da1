"""Starts processes, waits until they serve, and accounts for their CPU and memory, children included."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench import h2

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_STOP_SECONDS: Final = 10.0


class StartError(Exception):
    """A process did not start; the message holds the end of its output."""


def free_port() -> int:
    """Returns a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A process in a session of its own, so that it can be ended with all its children."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        folder: Path,
        port: int | None = None,
        health: str | None = None,
        file: Path | None = None,
        environ: Mapping[str, str] | None = None,
        seconds: float = 60.0,
    ) -> None:
        """Starts it.

        It is ready when it listens on `port`, says at the address `health` that it is SERVING, or has made `file`;
        `seconds` is how long that may take.
        """
        self.name = name
        self._port = port
        self._health = health
        self._file = file
        self._seconds = seconds
        self._log = folder / f"{name}.log"
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environ or {})},
                start_new_session=True,
            )

    async def ready(self) -> None:
        """Waits until it serves. Raises StartError."""
        end = time.monotonic() + self._seconds
        while not await self._serves():
            if self._popen.poll() is not None or time.monotonic() > end:
                text = self._log.read_text(errors="replace")[-1500:]
                raise StartError(f"{self.name} did not start: {text}")
            # There is no event to wait for: another process begins to listen.
            await asyncio.sleep(0.05)

    async def _serves(self) -> bool:
        if self._file is not None:
            return self._file.exists()
        if self._health is not None:
            return await h2.is_serving(self._health)
        if self._port is None:
            return True
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _tree(self, pid: int) -> Iterator[int]:
        yield pid
        try:
            threads = list(Path(f"/proc/{pid}/task").iterdir())
        except OSError:
            return
        for thread in threads:
            for child in _read(thread / "children").split():
                yield from self._tree(int(child))

    def tree(self) -> list[int]:
        """Returns the ids of all its processes that run now."""
        return list(self._tree(self._popen.pid))

    def cpu(self) -> float:
        """Returns the seconds of CPU used so far, user and system, of all its processes that still run."""
        ticks = 0
        for pid in self._tree(self._popen.pid):
            fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
            if len(fields) > 12:
                ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICKS

    def memory(self) -> int:
        """Returns the resident bytes of all its processes."""
        pages = 0
        for pid in self._tree(self._popen.pid):
            fields = _read(Path(f"/proc/{pid}/statm")).split()
            if len(fields) > 1:
                pages += int(fields[1])
        return pages * _PAGE

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process itself."""
        self._popen.send_signal(number)

    def stop(self) -> None:
        """Ends it and its children; returns when it is gone."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._popen.pid, number)
            except ProcessLookupError:
                break
            try:
                self._popen.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            break
        self._popen.wait()


def _read(path: Path) -> str:
    """Returns what a file of /proc holds; nothing if its process is gone."""
    try:
        return path.read_text()
    except OSError:
        return ""
