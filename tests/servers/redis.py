"""A Redis server for tests, with append-only files, so that it can be killed and come back with what it held."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import redis
import redis.asyncio

from scripts.servers import Programs

from .kept import Kept
from .ports import free_port

_DATABASES: Final = 10_000
_TRIES: Final = 5


class Redis:
    """A server on a loopback port, which it keeps when it is started again."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._port = 0
        self._process: Kept | None = None
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        """The URL of its first database, for a test that has the server to itself."""
        return f"redis://127.0.0.1:{self._port}/0"

    def new_database(self) -> str:
        """Returns the URL of an empty database. Its keys are its own; channels are the whole server's."""
        number = next(self._numbers)
        assert number < _DATABASES
        return f"redis://127.0.0.1:{self._port}/{number}"

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        assert self._process is None
        for left in reversed(range(_TRIES)):
            port = self._port or free_port()
            try:
                self._start(port)
            except RuntimeError:
                # The port was free a moment ago, and one that it had already must be its own again.
                if self._port or not left:
                    raise
            else:
                self._port = port
                return

    def _start(self, port: int) -> None:
        options = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "databases": str(_DATABASES),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "no",  # what was written outlives the process, which is all that is killed here
        }
        command = [str(self._programs.folder / "redis-server")]
        command += [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = Kept(command, self._folder, self._programs.environment)
        with redis.Redis(port=port, socket_timeout=5.0) as client:
            try:
                self._process.wait_for(lambda: _answers(client, self._pid))
            except RuntimeError:
                self._process = None
                raise

    @property
    def _pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Ends it at once, if it runs."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def client(self, url: str | None = None) -> redis.asyncio.Redis:
        """Returns a client of the test's own."""
        return redis.asyncio.Redis.from_url(url or self.url)


def _answers(client: redis.Redis, pid: int) -> bool:
    """Tells whether this server answers, and not another one that took the port before."""
    with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
        return bool(client.info("server")["process_id"] == pid)
    return False


@contextlib.contextmanager
def running(programs: Programs) -> Iterator[Redis]:
    """Runs a server for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = Redis(programs, Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()
