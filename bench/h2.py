"""A gRPC client for loads: just enough HTTP/2 on an asyncio protocol to be cheaper than what it measures.

Calls carry a deadline and metadata as any client's do. It offers no flow control of its own (it always grants plenty),
no retries, no TLS, and requests must be small.
"""

import asyncio
import struct
from collections.abc import Iterable
from typing import Final, cast

import hpack

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM: Final = 0x1
_END_HEADERS: Final = 0x4
_ACK: Final = 0x1
_HEAD: Final = struct.Struct(">BHBBI")
_WINDOW_BYTES: Final = 1 << 30
_WINDOW_REFILL: Final = 1 << 28
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW, _MAX_FRAME = 1, 2, 4, 5
_MAX_REQUEST: Final = 16_000
_CACHED_BLOCKS: Final = 256
_SERVING: Final = b"\x08\x01"
"""A HealthCheckResponse with the status SERVING."""


class CallError(Exception):
    """A call failed; the message is its status code and text."""


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field that neither side indexes. Names and values are below 127 bytes."""
    if len(name) > 126 or len(value) > 126:
        raise ValueError("a header is too long for this client")
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


class Call:
    """One call: `read` its messages until there are none."""

    __slots__ = ("_messages", "_part", "_waiter", "ended", "status", "text")

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._part = b""
        self._waiter: asyncio.Future[None] | None = None
        self.ended = False
        self.status = ""
        self.text = ""

    def feed(self, data: bytes) -> None:
        """Takes the bytes of a DATA frame."""
        if self._part:
            data = self._part + data
        position, size = 0, len(data)
        while size - position >= 5:
            length = int.from_bytes(data[position + 1 : position + 5], "big")
            end = position + 5 + length
            if end > size:
                break
            self._messages.append(data[position + 5 : end])
            position = end
        self._part = data[position:]

    def end(self, status: str, text: str) -> None:
        """Marks the end."""
        if not self.ended:
            self.ended, self.status, self.text = True, status, text

    def wake(self) -> None:
        """Wakes whoever reads."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def read(self) -> list[bytes]:
        """Returns all messages that have come, waiting for at least one; an empty list is the end of a good call.

        Raises CallError if the call failed.
        """
        while not self._messages:
            if self.ended:
                if self.status != "0":
                    raise CallError(f"status {self.status or 'missing'}: {self.text}")
                if self._part:
                    raise CallError("the last message is not whole")
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        messages, self._messages = self._messages, []
        return messages


class Connection(asyncio.Protocol):
    """One connection; make it by `connect`."""

    def __init__(self, metadata: Iterable[tuple[str, str]] = (), timeout: float = 60.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._buffer = b""
        self._calls: dict[int, Call] = {}
        self._next = 1
        self._decoder = hpack.Decoder()
        self._statuses: dict[bytes, tuple[str, str]] = {}
        self._paths: dict[bytes, bytes] = {}
        self._received = 0
        self._out: list[bytes] = []
        self._common = b"".join(
            (
                _literal(b":authority", b"localhost"),
                _literal(b"te", b"trailers"),
                _literal(b"content-type", b"application/grpc"),
                _literal(b"grpc-timeout", b"%dm" % round(timeout * 1000)),
                *(_literal(name.encode(), value.encode()) for name, value in metadata),
            )
        )
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # Without a table each block of headers means the same wherever it stands, so their meaning can be remembered.
        settings = struct.pack(
            ">HIHIHI", _HEADER_TABLE_SIZE, 0, _ENABLE_PUSH, 0, _INITIAL_WINDOW, _WINDOW_BYTES
        ) + struct.pack(">HI", _MAX_FRAME, 1 << 20)
        self._transport.write(
            _PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW, 0, 0, struct.pack(">I", _WINDOW_BYTES))
        )

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        for call in self._calls.values():
            call.end("14", "the connection was lost")
            call.wake()
        self._calls.clear()

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def call(self, path: str, message: bytes) -> Call:
        """Starts a call and returns it."""
        if self._lost:
            raise CallError("status 14: the connection was lost")
        if len(message) > _MAX_REQUEST:
            raise ValueError("a request is too long for this client")
        key = path.encode()
        block = self._paths.get(key)
        if block is None:
            # :method POST and :scheme http stand in the static table.
            block = self._paths[key] = b"\x83\x86" + _literal(b":path", key) + self._common
        number = self._next
        self._next += 2
        call = self._calls[number] = Call()
        body = b"\x00" + len(message).to_bytes(4, "big") + message
        self._send(_frame(_HEADERS, _END_HEADERS, number, block) + _frame(_DATA, _END_STREAM, number, body))
        return call

    def _send(self, data: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        position, size = 0, len(buffer)
        woken: list[Call] = []
        while size - position >= 9:
            high, low, kind, flags, number = _HEAD.unpack_from(buffer, position)
            start = position + 9
            end = start + (high << 16 | low)
            if end > size:
                break
            position = end
            if kind in (_DATA, _HEADERS, _RESET):
                call = self._calls.get(number)
                if kind == _DATA:
                    self._received += end - start
                    if call is not None:
                        call.feed(buffer[start:end])
                if call is not None and self._ends(call, kind, flags, buffer[start:end]):
                    del self._calls[number]
                if call is not None:
                    woken.append(call)
            else:
                self._control(kind, flags, buffer[start:end])
        self._buffer = buffer[position:]
        if self._received > _WINDOW_REFILL:
            self._send(_frame(_WINDOW, 0, 0, struct.pack(">I", self._received)))
            self._received = 0
        for call in woken:
            call.wake()

    def _ends(self, call: Call, kind: int, flags: int, payload: bytes) -> bool:
        """Returns whether a frame ends the call, after noting how."""
        if kind == _RESET:
            call.end("13", f"the stream was reset ({int.from_bytes(payload, 'big')})")
            return True
        if kind == _HEADERS:
            status, text = self._status(payload)
            if flags & _END_STREAM:
                call.end(status, text)
        elif flags & _END_STREAM:
            call.end("", "the stream ended without a status")
        return bool(flags & _END_STREAM)

    def _control(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._send(_frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self._send(_frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            self._transport.close()

    def _status(self, block: bytes) -> tuple[str, str]:
        """Returns the status and its text in a block of headers, empty where it has none."""
        found = self._statuses.get(block)
        if found is None:
            headers = dict(self._decoder.decode(block, raw=True))
            found = (headers.get(b"grpc-status", b"").decode(), headers.get(b"grpc-message", b"").decode())
            if len(self._statuses) < _CACHED_BLOCKS and not self._decoder.header_table_size:
                self._statuses[block] = found
        return found


async def connect(address: str, metadata: Iterable[tuple[str, str]] = (), timeout: float = 60.0) -> Connection:
    """Opens a connection to `host:port` or `unix:/path` whose calls carry the given metadata and deadline, in seconds."""
    loop = asyncio.get_running_loop()

    def make() -> Connection:
        return Connection(metadata, timeout)

    if address.startswith("unix:"):
        return (await loop.create_unix_connection(make, address.removeprefix("unix:")))[1]
    host, _, port = address.rpartition(":")
    return (await loop.create_connection(make, host, int(port)))[1]


async def is_serving(address: str) -> bool:
    """Asks the standard health service. A server that is not there, or has no such service, is not serving."""
    try:
        connection = await connect(address, timeout=1.0)
    except OSError:
        return False
    try:
        async with asyncio.timeout(1.0):
            return await connection.call("/grpc.health.v1.Health/Check", b"").read() == [_SERVING]
    except (CallError, TimeoutError):
        return False
    finally:
        connection.close()
