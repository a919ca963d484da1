"""A Redis of the test's own, from the `redis-server` on PATH."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio as redis

BINARY = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(
    BINARY is None, reason="needs redis-server on PATH (Debian: apt-get install redis-server)"
)


class RedisServer:
    """A server that can be killed and started again on the same port, with what it held."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Starts it and waits until it answers."""
        assert BINARY is not None
        arguments = ["--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        self._process = subprocess.Popen(  # noqa: ASYNC220  # starting takes no time; being ready is awaited
            [BINARY, *arguments, "--save", "", "--appendonly", "yes", "--appendfsync", "always"],
            stdout=subprocess.DEVNULL,
        )
        async with self.client() as client:
            while True:
                with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
                    await client.ping()
                    return
                await asyncio.sleep(0.02)  # another process begins to listen

    def kill(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> "redis.Redis":
        """Returns a client of the test's own."""
        return redis.Redis.from_url(self.url)


@contextlib.asynccontextmanager
async def redis_server(folder: Path) -> AsyncIterator[RedisServer]:
    """Runs one for the length of the block."""
    server = RedisServer(folder)
    await server.start()
    try:
        yield server
    finally:
        server.kill()
