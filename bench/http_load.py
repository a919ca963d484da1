"""The load over HTTP/1.1: peers, and the upstream itself. A protocol of its own, to be cheaper than what it measures."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, cast

from bench import stamps
from bench.tally import Tally

if TYPE_CHECKING:
    from bench.load import Load, Worker

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)")
_KEEP: Final = 24
"""A token may be cut between two reads; so many bytes hold what was cut."""
_END: Final = b"0\r\n\r\n"


class Refused(Exception):
    """An answer that is none; the message shows its beginning."""


class _Connection(asyncio.Protocol):
    """One connection that is used for one request after another."""

    def __init__(self, tally: Tally, *, stream: bool) -> None:
        self._tally = tally
        self._stream = stream
        self._transport: asyncio.Transport
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    async def ask(self, request: bytes) -> None:
        """Sends a request and reads its answer. Raises Refused or ConnectionError."""
        self._began = time.monotonic()
        self._head = True
        self._tail = b""
        self._need: int | None = None
        self._tokens = 0
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._done
        if self._stream and not self._tokens:
            raise Refused("a stream without tokens")

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("the connection was lost"))

    def data_received(self, data: bytes) -> None:
        self._tally.messages += 1
        if self._head:
            data = self._tail + data
            head = data.find(b"\r\n\r\n")
            if head < 0:
                self._tail = data
                return
            self._head, self._tail = False, b""
            if data[9:12] != b"200":
                self._end(Refused(data[:400].decode(errors="replace")))
                return
            length = _LENGTH.search(data[:head].lower())
            self._need = int(length[1]) if length else None
            data = data[head + 4 :]
        if self._need is not None:
            self._need -= len(data)
        if self._stream:
            self._scan(data)
        else:
            self._tail = data[-_KEEP:]
        if self._need <= 0 if self._need is not None else self._tail.endswith(_END):
            self._end(None)

    def _scan(self, data: bytes) -> None:
        data = self._tail + data
        matches = list(stamps.find_iter(data))
        if matches:
            if not self._tokens:
                self._tally.first_token(self._began)
            self._tokens += self._tally.arrived([match[1] for match in matches])
        self._tail = data[max(matches[-1].end() if matches else 0, len(data) - _KEEP) :]

    def _end(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            if error is None:
                self._done.set_result(None)
            else:
                self._done.set_exception(error)
                self._transport.close()


@contextlib.asynccontextmanager
async def workers(load: "Load", tally: Tally) -> AsyncIterator["Worker"]:
    """Yields what each worker runs."""
    loop = asyncio.get_running_loop()
    request = _request(load)
    connections: list[_Connection] = []

    async def work() -> None:
        connection: _Connection | None = None
        while tally.more():
            try:
                if connection is None:
                    _, connection = await loop.create_connection(
                        lambda: _Connection(tally, stream=load.stream), "127.0.0.1", load.target.port
                    )
                    connections.append(connection)
                began = time.monotonic()
                await connection.ask(request)
            except (Refused, OSError) as error:
                tally.failed(str(error))
                connection = None
            else:
                tally.finished(began)

    try:
        yield work
    finally:
        for connection in connections:
            connection.close()


def _request(load: "Load") -> bytes:
    target = load.target
    content: dict[str, object] = {
        "model": target.model.format(load.model),
        "messages": [{"role": "user", "content": "Say hello, please."}],
    }
    if load.stream:
        content["stream"] = True
    body = json.dumps(content).encode()
    headers = {
        "Host": f"127.0.0.1:{target.port}",
        "Content-Type": "application/json",
        **target.headers,
        "Content-Length": str(len(body)),
    }
    lines = [f"POST {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
