"""The load's own clients, against real servers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from bench import h2, http_load, stamps
from bench.grpc_load import StreamCheck, Wrong
from bench.load import Load, Target
from bench.tally import Tally
from sluice.chat.v1.event_pb2 import Accepted, Completed, Event, TextDelta
from sluice.gateway.v1.chat_service_pb2 import StreamChatResponse

BIG = 300_000


async def _stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number
    yield b"x" * BIG


async def _fail(request: bytes, context: Any) -> bytes:
    await context.abort(grpc.StatusCode.NOT_FOUND, "nothing here")
    return b""


@pytest.fixture
async def address() -> AsyncIterator[str]:
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Stream": grpc.unary_stream_rpc_method_handler(_stream),
        "Fail": grpc.unary_unary_rpc_method_handler(_fail),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def _all(call: h2.Call) -> list[bytes]:
    found: list[bytes] = []
    while messages := await call.read():
        found += messages
    return found


async def test_many_calls_share_a_connection(address: str) -> None:
    connection = await h2.connect(address, {"x-test": "1"}.items())
    counts = range(20)
    results = await asyncio.gather(*(_all(connection.call("/test.Test/Stream", b"%d" % n)) for n in counts))
    for count, messages in zip(counts, results, strict=True):
        assert messages == [*(b"%d" % n for n in range(count)), b"x" * BIG]
    connection.close()


async def test_a_failed_call_says_why(address: str) -> None:
    connection = await h2.connect(address)
    with pytest.raises(h2.CallError, match="status 5: nothing here"):
        await connection.call("/test.Test/Fail", b"").read()
    with pytest.raises(h2.CallError, match="status 12"):
        await connection.call("/test.Test/None", b"").read()
    connection.close()


async def test_a_server_without_health_is_not_serving(address: str) -> None:
    assert not await h2.is_serving(address)
    assert not await h2.is_serving("unix:/nowhere/at.all")


def _batch(first: int, *events: Event) -> bytes:
    return StreamChatResponse(first_sequence=first, events=events).SerializeToString()


ACCEPTED = Event(accepted=Accepted(response="responses/1"))
TEXT = Event(text_delta=TextDelta(text="x"))
COMPLETED = Event(completed=Completed())


def test_a_good_stream_passes() -> None:
    check = StreamCheck()
    for data in (_batch(1, ACCEPTED), b"", _batch(2, TEXT, TEXT), _batch(4, COMPLETED)):
        check.message(data)
    check.end()


@pytest.mark.parametrize(
    "batches",
    [
        [_batch(1, TEXT, COMPLETED)],
        [_batch(1, ACCEPTED), _batch(3, COMPLETED)],
        [_batch(1, ACCEPTED, COMPLETED, COMPLETED)],
        [_batch(1, ACCEPTED, TEXT)],
    ],
    ids=["not accepted", "a gap", "completed twice", "not completed"],
)
def test_a_bad_stream_is_found(batches: list[bytes]) -> None:
    check = StreamCheck()

    def read() -> None:
        for data in batches:
            check.message(data)
        check.end()

    with pytest.raises(Wrong):
        read()


async def _run(reply: bytes, *, stream: bool) -> Tally:
    served: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.current_task())
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readuntil(b"}]")
                # In pieces, so that heads, tokens and ends are cut.
                for start in range(0, len(reply), 7):
                    writer.write(reply[start : start + 7])
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            # The client has left.
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    load = Load(
        target=Target(protocol="http", port=server.sockets[0].getsockname()[1]),
        model="m",
        stream=stream,
        concurrency=1,
        count=3,
        seconds=10,
    )
    tally = Tally(load.count, load.seconds)
    async with http_load.workers(load, tally) as work:
        await work()
    server.close()
    await asyncio.gather(*(task for task in served if task is not None))
    return tally


async def test_http_streams_are_counted_whole() -> None:
    tokens = b"".join(stamps.TEMPLATE % stamps.now_us() + b" w " for _ in range(5))
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(tokens), tokens)
    tally = await _run(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body, stream=True)
    outcome = tally.outcome(1.0, 0.0)
    assert (outcome.done, outcome.failed, outcome.tokens) == (3, 0, 15), outcome.error


async def test_http_answers_have_a_length() -> None:
    tally = await _run(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + b"y" * 20, stream=False)
    outcome = tally.outcome(1.0, 0.0)
    assert (outcome.done, outcome.failed) == (3, 0), outcome.error


async def test_http_refusals_are_failures() -> None:
    tally = await _run(b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno", stream=False)
    outcome = tally.outcome(1.0, 0.0)
    assert (outcome.done, outcome.failed) == (0, 3)
    assert outcome.error.startswith("HTTP/1.1 500 Oops")
