"""The load over gRPC: `Chat` and `StreamChat` of the gateway's contract."""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from bench import h2, stamps
from bench.tally import Tally
from sluice.chat.v1.message_pb2 import Message, MessageRole, Part
from sluice.gateway.v1 import chat_service_pb2 as pb

if TYPE_CHECKING:
    from bench.load import Load, Worker

_CHAT: Final = "/sluice.gateway.v1.ChatService/Chat"
_STREAM: Final = "/sluice.gateway.v1.ChatService/StreamChat"


class Wrong(Exception):
    """An answer that breaks the contract."""


class StreamCheck:
    """Checks one stream: numbers without a gap, exactly one `Completed`, at the end."""

    def __init__(self) -> None:
        self._last = 0
        self._completed = False

    def message(self, data: bytes) -> None:
        """Takes the next message. Raises Wrong."""
        batch = pb.StreamChatResponse.FromString(data)
        if not batch.events:
            return
        if batch.first_sequence != self._last + 1:
            raise Wrong(f"number {batch.first_sequence} after {self._last}")
        for event in batch.events:
            if self._completed:
                raise Wrong("an event after Completed")
            if not self._last and not event.HasField("accepted"):
                raise Wrong("the first event is not Accepted")
            self._last += 1
            self._completed = event.HasField("completed")

    def end(self) -> None:
        """Is called at the end of a call with status OK. Raises Wrong."""
        if not self._completed:
            raise Wrong("an end without Completed")


@contextlib.asynccontextmanager
async def workers(load: "Load", tally: Tally) -> AsyncIterator["Worker"]:
    """Yields what each worker runs."""
    connections = [
        await h2.connect(f"127.0.0.1:{load.target.port}", load.target.headers.items())
        for _ in range(min(load.connections, load.concurrency))
    ]
    begun = 0
    request = _request(load)
    one = _stream if load.stream else _whole

    async def work() -> None:
        nonlocal begun
        connection = connections[begun % len(connections)]
        begun += 1
        while tally.more():
            began = time.monotonic()
            try:
                await one(connection, request, tally, verify=load.verify)
            except (h2.CallError, Wrong) as error:
                tally.failed(str(error))
            else:
                tally.finished(began)

    try:
        yield work
    finally:
        for connection in connections:
            connection.close()


async def _whole(connection: h2.Connection, request: bytes, tally: Tally, *, verify: bool) -> None:
    call = connection.call(_CHAT, request)
    messages: list[bytes] = []
    while more := await call.read():
        messages += more
    tally.messages += len(messages)
    if len(messages) != 1:
        raise Wrong(f"{len(messages)} messages for one answer")
    if verify:
        answer = pb.ChatResponse.FromString(messages[0]).answer
        if not answer.text or not answer.completed.finish_reason:
            raise Wrong("an answer without text or finish")


async def _stream(connection: h2.Connection, request: bytes, tally: Tally, *, verify: bool) -> None:
    began = time.monotonic()
    check = StreamCheck() if verify else None
    call = connection.call(_STREAM, request)
    tokens = 0
    while messages := await call.read():
        for message in messages:
            tally.messages += 1
            times = stamps.find(message)
            if times:
                if not tokens:
                    tally.first_token(began)
                tokens += tally.arrived(times)
            if check is not None:
                check.message(message)
    if check is not None:
        check.end()
    if not tokens:
        raise Wrong("a stream without tokens")


def _request(load: "Load") -> bytes:
    spec = pb.ChatSpec(
        model=load.target.model.format(load.model),
        messages=[Message(role=MessageRole.MESSAGE_ROLE_USER, parts=[Part(text="Say hello, please.")])],
    )
    if load.stream:
        return pb.StreamChatRequest(spec=spec).SerializeToString()
    return pb.ChatRequest(spec=spec).SerializeToString()
