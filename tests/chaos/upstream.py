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
_LATE_SECONDS: Final = 0.8
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Behaviour:
    """What one request meets."""

    words: int = 20
    delay: float = 0.005
    """Seconds between words."""
    fault: str = ""
    """`cut`, `stall`, `slow`, `limited`, `broken`, `late` (long without content) or `wrong` (not of the form that was
    asked for); empty: none."""
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
        # The last: what was said before in a conversation has tags, too.
        found = _TAG.findall(body)
        if not found:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n" + b'{"object":"list","data":[]}')
            return True
        tag = found[-1].decode()
        number = self._asked[tag] = self._asked.get(tag, 0) + 1
        plan = self._plans[tag]
        behaviour = plan[min(number, len(plan)) - 1]
        sent = Sent(tag)
        self.sent.append(sent)
        gone = asyncio.ensure_future(reader.read(1))  # nothing is sent while an answer runs: this is its end
        words = _words(f"{tag}.{number}", behaviour, as_json=b"json_schema" in body)
        answer = self._stream if b'"stream":true' in body.replace(b" ", b"") else self._whole
        stream = asyncio.ensure_future(answer(sent, words, behaviour, writer))
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

    async def _whole(self, sent: Sent, words: list[str], behaviour: Behaviour, writer: asyncio.StreamWriter) -> None:
        """Answers in one piece; what would break a stream breaks that."""
        if await _refused(behaviour.fault, writer):
            return
        if behaviour.fault == "stall":
            await asyncio.Event().wait()
        await asyncio.sleep(behaviour.delay * len(words) * (20 if behaviour.fault in ("slow", "late") else 1))
        message = {"role": "assistant", "content": "".join(words)}
        document = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "usage": _usage(words)}
        document["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
        body = json.dumps(document).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        if behaviour.fault == "cut":
            writer.write(head + body[: len(body) // 2])
            return
        # From here on the answer may be complete for whoever reads it.
        sent.text, sent.output_tokens, sent.completed = "".join(words), 1000 + len(words), True
        writer.write(head + body)
        await writer.drain()

    async def _stream(self, sent: Sent, words: list[str], behaviour: Behaviour, writer: asyncio.StreamWriter) -> None:
        fault, delay = behaviour.fault, behaviour.delay
        if await _refused(fault, writer):
            return
        writer.write(_HEAD)
        if fault == "late":
            await writer.drain()
            await asyncio.sleep(_LATE_SECONDS)
        for word, text in enumerate(words):
            if fault in ("cut", "stall", "slow") and word == behaviour.at:
                if fault == "cut":
                    return
                if fault == "stall":
                    await asyncio.Event().wait()
                delay *= 20
            sent.text += text
            writer.write(_chunk({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}))
            await writer.drain()
            await asyncio.sleep(delay)
        # From here on the answer may be complete for whoever reads it.
        sent.output_tokens = 1000 + len(words)
        sent.completed = True
        writer.write(_chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        writer.write(_chunk({"choices": [], "usage": _usage(words)}))
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()


async def _refused(fault: str, writer: asyncio.StreamWriter) -> bool:
    if fault not in ("limited", "broken"):
        return False
    status = b"429 Too Many Requests\r\nRetry-After: 1" if fault == "limited" else b"503 Service Unavailable"
    writer.write(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
    await writer.drain()
    return True


def _words(name: str, behaviour: Behaviour, *, as_json: bool) -> list[str]:
    """The pieces of an answer, which tell it and themselves apart from all others."""
    names = [f"{name}.{word}" for word in range(behaviour.words)]
    if not as_json:
        return [f"{one} " for one in names]
    field = "others" if behaviour.fault == "wrong" else "words"
    return [f'{{"{field}":["{names[0]}"', *(f',"{one}"' for one in names[1:]), "]}"]


def _usage(words: list[str]) -> dict[str, int]:
    output = 1000 + len(words)
    return {"prompt_tokens": 9, "completion_tokens": output, "total_tokens": 9 + output}


def _chunk(values: dict[str, object]) -> bytes:
    document = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", **values}
    event = b"data: %s\n\n" % json.dumps(document).encode()
    return b"%x\r\n%s\r\n" % (len(event), event)
