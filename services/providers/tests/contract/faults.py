"""What a server may do wrong at the level of HTTP, or right in an unusual way; each for streams and whole replies."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from .upstream import Connection, Play, Request, head_of
from .wire_format import Format

UNAVAILABLE: Final = "UPSTREAM_UNAVAILABLE"
PROTOCOL_ERROR: Final = "UPSTREAM_PROTOCOL_ERROR"
FINE: Final = ""


@dataclass(frozen=True)
class Body:
    """A good reply of a format, and what is there of it when it breaks off."""

    kind: str
    data: bytes
    cut: bytes

    @classmethod
    def of(cls, wire: Format, *, whole: bool) -> Body:
        """Returns the reply "Hello there"."""
        if whole:
            return cls("application/json", wire.whole, wire.whole[:-5])
        return cls(wire.media_type, b"".join(wire.text("Hello ", "there")), b"".join(wire.unfinished))


Script = Callable[[Connection, Body], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """A way to answer, and what it means: a reason, or FINE if the answer comes all the same."""

    script: Script
    reason: str

    def play(self, body: Body) -> Play:
        """Returns it as what the upstream answers."""

        async def play(connection: Connection, _: Request) -> None:
            await self.script(connection, body)

        return play


def raw(make: Callable[[Body], bytes], *, close: bool = True) -> Script:
    """Sends bytes, and closes the connection behind them."""

    async def script(connection: Connection, body: Body) -> None:
        await connection.send(make(body))
        if close:
            await connection.finish()

    return script


def framed(make: Callable[[Body], bytes], **headers: str) -> Script:
    """Sends the head of a chunked reply, and then bytes that stand for its chunks."""

    def all_of(body: Body) -> bytes:
        rows = {"Content-Type": body.kind, "Transfer-Encoding": "chunked", **_dashed(headers)}
        return head_of(200, rows) + make(body)

    return raw(all_of)


def sized(make: Callable[[Body], bytes], more: int = 0, *, close: bool = True, **headers: str) -> Script:
    """Sends a reply whose length is told, with `more` bytes than there are."""

    def all_of(body: Body) -> bytes:
        data = make(body)
        rows = {"Content-Type": body.kind, "Content-Length": str(len(data) + more), **_dashed(headers)}
        return head_of(200, rows) + data

    return raw(all_of, close=close)


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def chunk(data: bytes, size: bytes = b"") -> bytes:
    """Returns a chunk, whose size may be a lie."""
    return (size or b"%x" % len(data)) + b"\r\n" + data + b"\r\n"


def _http_1_0(body: Body, data: bytes) -> bytes:
    return b"HTTP/1.0 200 OK\r\nContent-Type: " + body.kind.encode() + b"\r\n\r\n" + data


async def _drip(connection: Connection, body: Body) -> None:
    await connection.head(body.kind)
    for index in range(len(body.data)):
        await connection.drip(chunk(body.data[index : index + 1]))
    await connection.end()


async def _drip_head(connection: Connection, body: Body) -> None:
    await connection.drip(head_of(200, {"Content-Type": body.kind, "Content-Length": str(len(body.data))}))
    await connection.send(body.data)


async def _reset_in_head(connection: Connection, body: Body) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: te")
    connection.reset()


GOOD_END: Final = b"0\r\n\r\n"

FAULTS: Final[Mapping[str, Fault]] = {
    # Unusual, and right.
    "body_in_single_bytes": Fault(_drip, FINE),
    "head_in_single_bytes": Fault(_drip_head, FINE),
    "continue_first": Fault(raw(lambda b: b"HTTP/1.1 100 Continue\r\n\r\n" + _http_1_0(b, b.data)), FINE),
    "early_hints_first": Fault(
        raw(lambda b: b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" + _http_1_0(b, b.data)), FINE
    ),
    "http_1_0": Fault(raw(lambda b: _http_1_0(b, b.data)), FINE),
    "known_length": Fault(sized(lambda b: b.data, close=False), FINE),
    "chunk_extensions_and_trailers": Fault(
        framed(lambda b: chunk(b.data, b"%x;name=value" % len(b.data)) + b"0\r\nX-Sum: 1\r\n\r\n"), FINE
    ),
    "gzip": Fault(sized(lambda b: gzip.compress(b.data), content_encoding="gzip"), FINE),
    # Without a whole head.
    "nothing": Fault(raw(lambda b: b""), UNAVAILABLE),
    "status_line_cut": Fault(raw(lambda b: b"HTTP/1.1 20"), UNAVAILABLE),
    "headers_cut": Fault(raw(lambda b: b"HTTP/1.1 200 OK\r\nContent-Type: te"), UNAVAILABLE),
    "headers_reset": Fault(_reset_in_head, UNAVAILABLE),
    "no_http": Fault(raw(lambda b: b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), PROTOCOL_ERROR),
    "header_without_name": Fault(raw(lambda b: b"HTTP/1.1 200 OK\r\n: x\r\n\r\n"), PROTOCOL_ERROR),
    "header_too_long": Fault(raw(lambda b: head_of(200, {"X-Long": "x" * 100_000})), PROTOCOL_ERROR),
    "too_many_headers": Fault(raw(lambda b: head_of(200, {f"X-{n}": "x" for n in range(5000)})), PROTOCOL_ERROR),
    # With a head that says something else than the body.
    "another_type": Fault(raw(lambda b: head_of(200, {"Content-Type": "text/html"}) + b"<p>Hi"), PROTOCOL_ERROR),
    "no_type": Fault(raw(lambda b: b"HTTP/1.0 200 OK\r\n\r\n" + b.data), PROTOCOL_ERROR),
    "no_content": Fault(raw(lambda b: head_of(204, {"Content-Type": b.kind})), PROTOCOL_ERROR),
    "false_gzip": Fault(sized(lambda b: b.data, content_encoding="gzip"), PROTOCOL_ERROR),
    "gzip_cut": Fault(sized(lambda b: gzip.compress(b.data)[:-20], content_encoding="gzip"), PROTOCOL_ERROR),
    "unknown_encoding": Fault(sized(lambda b: b"\x1b\x00\x80", content_encoding="br"), PROTOCOL_ERROR),
    "length_of_no_number": Fault(
        raw(lambda b: head_of(200, {"Content-Type": b.kind, "Content-Length": "many"}) + b.data), PROTOCOL_ERROR
    ),
    # With a body that ends too early, or is framed badly.
    "http_1_0_cut": Fault(raw(lambda b: _http_1_0(b, b.cut)), PROTOCOL_ERROR),
    "length_too_long": Fault(sized(lambda b: b.cut, 1000), PROTOCOL_ERROR),
    "length_too_short": Fault(sized(lambda b: b.cut + b"x" * 5, -5), PROTOCOL_ERROR),
    "no_body": Fault(sized(lambda b: b""), PROTOCOL_ERROR),
    "chunk_size_of_no_number": Fault(framed(lambda b: chunk(b.cut) + chunk(b"x", b"zz")), PROTOCOL_ERROR),
    "chunk_size_negative": Fault(framed(lambda b: chunk(b.cut) + chunk(b"x", b"-1")), PROTOCOL_ERROR),
    "chunk_longer_than_its_size": Fault(
        framed(lambda b: chunk(b.cut, b"%x" % (len(b.cut) - 5)) + GOOD_END), PROTOCOL_ERROR
    ),
    "chunk_shorter_than_its_size": Fault(framed(lambda b: chunk(b.cut, b"%x" % (len(b.cut) + 500))), PROTOCOL_ERROR),
    "last_chunk_missing": Fault(framed(lambda b: chunk(b.cut)), PROTOCOL_ERROR),
    "stream_cut": Fault(framed(lambda b: chunk(b.cut) + GOOD_END), PROTOCOL_ERROR),
}
