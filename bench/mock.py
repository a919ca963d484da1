"""A cheap upstream of the shape of OpenAI's chat completions: prebuilt bytes, no parsing to speak of.

The model's name carries what to do, so that it survives every gateway in between: `m-n200-d20-t50-k4` is 200 tokens,
20 ms between writes, 50 ms to the first token, 4 tokens a write. Left out, they are 200, 0, 0 and 1. `m-e503` is
refused with that status, and `m-x5` breaks off after 5 tokens. Every token carries the time it was written (see
`stamps`). Requests that do not ask for a stream get one fixed answer, those for embeddings one fixed vector.

    python -m bench.mock PORT
"""

import asyncio
import json
import re
import sys
from typing import Any, Final, cast

import uvloop

from bench import stamps

_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"]*)"')
_STREAM: Final = re.compile(rb'"stream"\s*:\s*true')
_USAGE: Final = re.compile(rb'"include_usage"\s*:\s*true')
_LENGTH: Final = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_PARAMETER: Final = re.compile(rb"-([ndtkex])(\d+(?:\.\d+)?)")
_DISTINCT: Final = 1000
ANSWER: Final = "Hello there, how may I help you today?"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(delta: str, finish: str = "null") -> bytes:
    text = (
        '{"id":"chatcmpl-mock0001","object":"chat.completion.chunk","created":1700000000,"model":"mock",'
        '"system_fingerprint":null,"choices":[{"index":0,"delta":'
        f'{delta},"logprobs":null,"finish_reason":{finish}}}]}}'
    )
    return b"data: %s\n\n" % text.encode()


def _usage(tokens: int) -> bytes:
    text = (
        '{"id":"chatcmpl-mock0001","object":"chat.completion.chunk","created":1700000000,"model":"mock","choices":[],'
        f'"usage":{{"prompt_tokens":9,"completion_tokens":{tokens},"total_tokens":{tokens + 9}}}}}'
    )
    return b"data: %s\n\n" % text.encode()


def _document(value: object, status: bytes = b"200 OK") -> bytes:
    body = json.dumps(value, separators=(",", ":")).encode()
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)
# The time has a fixed width, so the framing around it can be built ahead.
_TOKENS: Final = [
    _chunk(_event(json.dumps({"content": stamps.TEXT % i}, separators=(",", ":")))).replace(
        stamps.PLACE, stamps.TEMPLATE
    )
    for i in range(_DISTINCT)
]
_FIRST: Final = _chunk(_event('{"role":"assistant","content":""}'))
_STOP: Final = _chunk(_event("{}", '"stop"'))
_DONE: Final = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_WHOLE: Final = _document(
    {
        "id": "chatcmpl-mock0001",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "mock",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": ANSWER},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
    }
)
_MODELS: Final = _document({"object": "list", "data": []})
_VECTORS: Final = _document(
    {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5, 0.125, 1.0]}],
        "model": "mock",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
)
_REFUSAL: Final = {"error": {"message": "as the model's name asks", "type": "mock", "code": None, "param": None}}


class _Answer:
    """A stream that is being written."""

    __slots__ = ("breaks", "burst", "delay", "left", "next", "tail")

    def __init__(self, parameters: dict[bytes, float], usage: bool) -> None:
        self.breaks = b"x" in parameters
        self.left = int(parameters.get(b"x" if self.breaks else b"n", 200))
        self.delay = parameters.get(b"d", 0.0) / 1e3
        self.burst = max(1, int(parameters.get(b"k", 1)))
        self.next = 0
        self.tail = _STOP + (_chunk(_usage(self.left)) if usage else b"") + _DONE

    def take(self) -> bytes:
        """Returns the bytes of the next write, stamped."""
        count = min(self.burst, self.left) if self.delay else self.left
        template = b"".join([_TOKENS[(self.next + i) % _DISTINCT] for i in range(count)])
        self.next += count
        self.left -= count
        now = stamps.now_us()
        return template % ((now,) * count)


class _Connection(asyncio.Protocol):
    """One connection of a client that sends one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._closed = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True

    def data_received(self, data: bytes) -> None:
        request = self._buffer = self._buffer + data if self._buffer else data
        head = request.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(request, 0, head)
        if length is not None:
            if len(request) < head + 4 + int(length[1]):
                return
        elif request.startswith(b"POST") and not request.endswith(b"0\r\n\r\n"):
            return
        self._buffer = b""
        self._answer(request, head)

    def _answer(self, request: bytes, head: int) -> None:
        if request.startswith(b"GET"):
            self._transport.write(_MODELS)
            return
        model = _MODEL.search(request, head)
        parameters = {key: float(value) for key, value in _PARAMETER.findall(model[1] if model else b"")}
        wait = parameters.get(b"t", 0.0) / 1e3
        if b"e" in parameters:
            self._later(wait, self._transport.write, _document(_REFUSAL, b"%d Refused" % int(parameters[b"e"])))
            return
        if b"/embeddings " in request[:64]:
            self._later(wait, self._transport.write, _VECTORS)
            return
        if not _STREAM.search(request, head):
            self._later(wait, self._transport.write, _WHOLE)
            return
        answer = _Answer(parameters, usage=_USAGE.search(request, head) is not None)
        self._transport.write(_HEAD)
        self._later(wait or answer.delay, self._write, answer, _FIRST)

    def _later(self, wait: float, function: Any, *arguments: Any) -> None:
        if wait:
            self._loop.call_later(wait, function, *arguments)
        else:
            function(*arguments)

    def _write(self, answer: _Answer, before: bytes = b"") -> None:
        if self._closed:
            return
        data = before + answer.take()
        if answer.left:
            self._transport.write(data)
            self._loop.call_later(answer.delay, self._write, answer)
        elif answer.breaks:
            self._transport.write(data)
            self._transport.close()
        else:
            self._transport.write(data + answer.tail)


async def serve(port: int) -> None:
    """Serves until it is cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
