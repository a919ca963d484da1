"""A vendor of the shape of OpenAI's chat completions that misbehaves as told, and records what it sent.

The prompt holds the tag of the answer (`chaos-17`), and by it the behaviour of each request in turn is looked up: the
text it sends is told apart by tag, request and word, so that nothing can be lost, repeated or mixed up unseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from dataclasses import dataclass
from typing import Final

from .history import Sent

_TAG: Final = re.compile(rb"chaos-(\d+)")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Behaviour:
    """What one request meets."""

    words: int = 20
    delay: float = 0.005
    """Seconds between words."""
    fault: str = ""
    """`cut`, `stall`, `slow`, `limited` or `broken`; empty: none."""
    at: int = 0
    """The word before which the fault strikes."""


class Upstream:
    """The server, and the record of what it sent."""

    def __init__(self, plans: dict[str, list[Behaviour]]) -> None:
        """`plans` is by tag; a request beyond the end of its list meets the last behaviour again."""
        self._plans = plans
        self._asked: dict[str, int] = {}
        self.sent: list[Sent] = []
        self.changed = asyncio.Event()
        """Set whenever a stream ends."""

    async def start(self) -> str:
        """Listens on a free port and returns the base URL."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    def close(self) -> None:
        """Stops listening."""
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length is not None else b""
                if not await self._answer(body, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client is gone, which is one of the things that happen here
        finally:
            writer.close()

    async def _answer(self, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; returns whether the connection can be used again."""
        found = _TAG.search(body)
        if found is None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n" + b'{"object":"list","data":[]}')
            return True
        tag = found[1].decode()
        number = self._asked[tag] = self._asked.get(tag, 0) + 1
        plan = self._plans[tag]
        behaviour = plan[min(number, len(plan)) - 1]
        sent = Sent(tag)
        self.sent.append(sent)
        gone = asyncio.ensure_future(reader.read(1))  # nothing is sent while an answer runs: this is its end
        stream = asyncio.ensure_future(self._stream(sent, f"{tag}.{number}", behaviour, writer))
        try:
            await asyncio.wait((gone, stream), return_when=asyncio.FIRST_COMPLETED)
            if not stream.done():
                return False
            stream.result()
        finally:
            sent.open = False
            self.changed.set()
            for task in (stream, gone):
                task.cancel()
            await asyncio.wait((stream, gone))
            for task in (stream, gone):
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    task.result()
        # Whether another request follows on this connection cannot be known without reading it.
        return False

    async def _stream(self, sent: Sent, name: str, behaviour: Behaviour, writer: asyncio.StreamWriter) -> None:
        fault, delay = behaviour.fault, behaviour.delay
        if fault in ("limited", "broken"):
            status = b"429 Too Many Requests\r\nRetry-After: 1" if fault == "limited" else b"503 Service Unavailable"
            writer.write(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
            await writer.drain()
            return
        writer.write(_HEAD)
        for word in range(behaviour.words):
            if fault and word == behaviour.at:
                if fault == "cut":
                    return
                if fault == "stall":
                    await asyncio.Event().wait()
                delay *= 20
            text = f"{name}.{word} "
            sent.text += text
            writer.write(_chunk({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}))
            await writer.drain()
            await asyncio.sleep(delay)
        # From here on the answer may be complete for whoever reads it.
        sent.output_tokens = 1000 + behaviour.words
        sent.completed = True
        usage = {"prompt_tokens": 9, "completion_tokens": sent.output_tokens, "total_tokens": 9 + sent.output_tokens}
        writer.write(_chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        writer.write(_chunk({"choices": [], "usage": usage}))
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()


def _chunk(values: dict[str, object]) -> bytes:
    document = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", **values}
    event = b"data: %s\n\n" % json.dumps(document).encode()
    return b"%x\r\n%s\r\n" % (len(event), event)
