"""A scripted HTTP upstream on a real socket: what it received, what it answers, and when its peer closed."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.servers.tcp import listening


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
        await self.send(head_of(200, rows))

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.send(b"0\r\n\r\n")

    async def drip(self, data: bytes) -> None:
        """Sends every byte on its own, each after the peer had its turn."""
        for index in range(len(data)):
            await self.send(data[index : index + 1])
            await asyncio.sleep(0)

    async def finish(self) -> None:
        """Ends this side, and waits until the peer has ended its own."""
        self.writer.write_eof()
        while await self.reader.read(65536):
            pass  # what the peer still sends is not wanted any more

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
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    held: asyncio.Event = field(default_factory=asyncio.Event)
    peer_closed: asyncio.Event = field(default_factory=asyncio.Event)
    peer_closed_at: float = 0.0
    play: Play | None = None
    early: Play | None = None
    """Answers when a request's head is there, and its body is not read. The connection ends with it."""
    broken: list[BaseException] = field(default_factory=list)
    answering: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no request is being answered."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

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
            while (request := await _read(reader, number, whole=self.early is None)) is not None:
                self.requests.append(request)
                play = self.early or self.play
                assert play is not None, "the test did not say what to answer"
                self.answering += 1
                self.idle.clear()
                try:
                    await play(connection, request)
                finally:
                    self.answering -= 1
                    if not self.answering:
                        self.idle.set()
                if self.early is not None or writer.transport.is_closing():
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the peer is gone, as some tests want it
        except Exception as error:  # noqa: BLE001 - kept for the test, which fails by it at its end
            self.broken.append(error)
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader, connection: int, *, whole: bool) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *rows = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (row.partition(":") for row in rows if row)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0"))) if whole else b""
    return Request(method, path, headers, body, connection)


def head_of(status: int, headers: Mapping[str, str]) -> bytes:
    """Returns a status line, headers, and the empty line behind them."""
    rows = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} X\r\n{rows}\r\n".encode("latin-1")


@asynccontextmanager
async def running_upstream(tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """Runs the server for the length of the block."""
    upstream = Upstream(scheme="https" if tls else "http")
    try:
        async with listening(upstream.serve, tls) as upstream.port:
            yield upstream
    finally:
        assert not upstream.broken, upstream.broken


def plain(body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> Play:
    """Answers with one body of known length."""

    async def play(connection: Connection, _: Request) -> None:
        rows = {"Content-Type": kind, "Content-Length": str(len(body))} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        await connection.send(head_of(status, rows) + body)

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
