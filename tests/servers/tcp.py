"""A TCP server of a test, which is really gone when its block ends."""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

CLOSING_SECONDS = 20.0
"""How long connections may take to end, once a test is over: far more than it takes on a busy machine."""

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


@asynccontextmanager
async def listening(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Listens on a free port of loopback for the length of the block, which gets the port.

    A connection whose end was not awaited is found by the garbage collector later, inside another test, which then
    fails by a ResourceWarning that is not its own. So the block's end breaks what is still open, as the pools of some
    SDKs leave it, and waits for every connection, those too whose handshake failed and that no handler ever saw.
    """
    writers: set[asyncio.StreamWriter] = set()
    over = False

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if over:
            writer.transport.abort()
            return
        writers.add(writer)
        if inspect.isawaitable(ended := handler(reader, writer)):
            await ended

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        over = True
        for writer in writers:
            writer.transport.abort()
        await close(server)


async def close(server: asyncio.Server) -> None:
    """Ends a server and waits until its connections are closed, which somebody else has to bring about.

    Raises:
        TimeoutError: one is still open.
    """
    # A connection that was just taken gets its transport in the loop's next turn, which fails if the server is closed by
    # then. So none is taken any more, and those that were come first.
    for listener in server.sockets:
        asyncio.get_running_loop().remove_reader(listener.fileno())
    await asyncio.sleep(0)
    # Before Python 3.12, wait_closed() waits for connections only if it is called while the server is still open.
    waiting = asyncio.ensure_future(server.wait_closed())
    await asyncio.sleep(0)
    server.close()
    await asyncio.wait_for(waiting, CLOSING_SECONDS)
