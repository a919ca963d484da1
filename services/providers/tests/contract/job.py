"""A background job at the vendor of the Responses format, as a play: its streams, its state, its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .format_responses import ID, response
from .upstream import Connection, Play, Request, plain


def state(status: str, output: list[Any] | None = None, **more: Any) -> Play:
    """Answers with the state of the job."""
    return plain(json.dumps(response(status, output or [], **more)).encode())


async def close(connection: Connection) -> None:
    connection.writer.close()


async def properly(connection: Connection) -> None:
    await connection.end()


async def hold(connection: Connection) -> None:
    await connection.hold()


async def nothing(connection: Connection, _: Request) -> None:
    await close(connection)


async def head_alone(connection: Connection, _: Request) -> None:
    await connection.head()
    await close(connection)


class Job:
    """A job at the vendor: what its streams send before they break, and what asking for its state gets."""

    def __init__(self, events: list[bytes], *cuts: int) -> None:
        self.events = events
        self.cuts = [*cuts]
        """How many events each stream sends, the first ones first; those after the last send all."""
        self.part = b""
        """What a stream that breaks sends of the event after."""
        self.breaks: Callable[[Connection], Any] = close
        self.attaching: Play | None = None
        """Answers who wants to attach. None: the rest of the stream."""
        self.states: list[Play] = []
        """What asking for the state gets, in order."""
        self.cancelling: Play = state("cancelled")
        self.cancelled = asyncio.Event()
        self.journal: list[str] = []

    async def __call__(self, connection: Connection, request: Request) -> None:
        url = urlsplit(request.path)
        query = parse_qs(url.query)
        if request.method == "POST" and url.path == f"/v1/responses/{ID}/cancel":
            self.journal.append("cancel")
            self.cancelled.set()
            await self.cancelling(connection, request)
        elif request.method == "POST":
            assert url.path == "/v1/responses"
            self.journal.append("start")
            if request.json.get("stream"):
                await self.send(connection, 0)
            else:
                await state("queued")(connection, request)
        else:
            assert (request.method, url.path) == ("GET", f"/v1/responses/{ID}")
            if "stream" not in query:
                self.journal.append("ask")
                await self.states.pop(0)(connection, request)
                return
            assert query["stream"] == ["true"]
            self.journal.append("attach")
            if self.attaching is not None:
                await self.attaching(connection, request)
            else:
                await self.send(connection, int(query["starting_after"][0]) + 1)

    async def send(self, connection: Connection, first: int) -> None:
        count = self.cuts.pop(0) if self.cuts else None
        await connection.head()
        rest = self.events[first:]
        for event in rest[:count]:
            await connection.chunk(event)
        if count is None:
            await connection.end()
        else:
            if self.part:
                await connection.chunk(self.part)
            await self.breaks(connection)
