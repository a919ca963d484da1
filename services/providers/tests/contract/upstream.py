"""A scripted HTTP upstream on a real socket: what it received, what it answers, and when its peer closed."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Play = Callable[["Connection", Request], Awaitable[None]]


class Connection:
    """The upstream's end of one connection."""

    def __init__(self, upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.upstream = upstream
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, media_type: str = "text/event-stream", **headers: str) -> None:
        """Begins a chunked stream of events."""
        rows = {"Content-Type": media_type, "Transfer-Encoding": "chunked"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        await self.send(_head(200, rows))

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.send(b"0\r\n\r\n")

    def reset(self) -> None:
        """Ends the connection with RST."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def hold(self) -> None:
        """Says nothing more, and notes when the peer closes."""
        self.upstream.held.set()
        try:
            await self.reader.read()
        except ConnectionError:
            pass  # closed by RST, which is closed as well
        self.upstream.peer_closed_at = asyncio.get_running_loop().time()
        self.upstream.peer_closed.set()


@dataclass
class Upstream:
    """What a test tells the server to do, and what it saw."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    held: asyncio.Event = field(default_factory=asyncio.Event)
    peer_closed: asyncio.Event = field(default_factory=asyncio.Event)
    peer_closed_at: float = 0.0
    play: Play | None = None
    broken: list[BaseException] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def last(self) -> Request:
        return self.requests[-1]

    def answer(self, play: Play) -> None:
        """Sets what the next requests get."""
        self.play = play

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        connection = Connection(self, reader, writer)
        try:
            while (request := await _read(reader, number)) is not None:
                self.requests.append(request)
                assert self.play is not None, "the test did not say what to answer"
                await self.play(connection, request)
                if writer.transport.is_closing():
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the peer is gone, as some tests want it
        except Exception as error:  # noqa: BLE001 - kept for the test, which fails by it at its end
            self.broken.append(error)
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader, connection: int) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *rows = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (row.partition(":") for row in rows if row)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body, connection)


def _head(status: int, headers: dict[str, str]) -> bytes:
    rows = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} X\r\n{rows}\r\n".encode("latin-1")


@asynccontextmanager
async def running_upstream() -> AsyncIterator[Upstream]:
    """Runs the server for the length of the block."""
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        await server.wait_closed()
        assert not upstream.broken, upstream.broken


def plain(body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> Play:
    """Answers with one body of known length."""

    async def play(connection: Connection, _: Request) -> None:
        rows = {"Content-Type": kind, "Content-Length": str(len(body))} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        await connection.send(_head(status, rows) + body)

    return play


def stream(events: Iterable[bytes], media_type: str = "text/event-stream", **headers: str) -> Play:
    """Answers with a whole stream, each event in a chunk and a write of its own."""
    events = list(events)

    async def play(connection: Connection, _: Request) -> None:
        await connection.head(media_type, **headers)
        for event in events:
            await connection.chunk(event)
        await connection.end()

    return play
