"""What a real mesh cannot be made to do on demand: lines that break at a byte, and a gateway that plays a script."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from sluice.chat.v1 import event_pb2, usage_pb2
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_kit.auth import LocalAuthenticator
from sluice_kit.call import Call
from sluice_kit.config import ServerConfig
from sluice_kit.errors import SluiceError
from sluice_kit.rpc import SendMessage
from sluice_kit.server import Server
from tests.servers.tcp import listening

RESPONSE: Final = "responses/conformance"
ACCEPTED: Final = event_pb2.Event(accepted=event_pb2.Accepted(response=RESPONSE))
COMPLETED: Final = event_pb2.Event(completed=event_pb2.Completed(finish_reason=usage_pb2.FINISH_REASON_STOP))
UNKNOWN: Final = event_pb2.Event.FromString(b"\xfa\x07\x00")
"""An event of a kind from the future: field 127, empty."""

_REQUEST_BYTES: Final = 1500
"""Once a client sent so much, its request is on the way: cases that need to know send a request that is longer."""
_ANSWER_BYTES: Final = 60
"""The first piece of an answer is longer than this; what HTTP/2 says to itself is shorter."""


def text(words: str) -> event_pb2.Event:
    """Returns an event of text."""
    return event_pb2.Event(text_delta=event_pb2.TextDelta(text=words))


class Line:
    """A TCP line to a server."""

    def __init__(self, target: str, *, cuts: Sequence[int] = (), lose_first: bool = False, hold: bool = False) -> None:
        """Connection number i breaks after `cuts[i]` bytes for the client; those behind the last of `cuts` hold.

        With `lose_first` the first answer is lost together with its connection, once its request has passed; with `hold`
        answers wait until `release` is set.
        """
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._cuts = list(cuts)
        self._lose = lose_first
        self.answered = asyncio.Event()
        """Set when the first answer was lost or held."""
        self.release = asyncio.Event()
        if not hold:
            self.release.set()
        self.connections = 0
        self.received = 0
        """Bytes that went to the client."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Line]:
        """Takes connections for the length of the block."""
        async with listening(self._connect) as port:
            self.address = f"127.0.0.1:{port}"
            try:
                yield self
            finally:
                for task in self._tasks:
                    task.cancel()
                if self._tasks:
                    await asyncio.wait(self._tasks)

    def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        budget = self._cuts.pop(0) if self._cuts else None
        task = asyncio.create_task(self._serve(reader, writer, budget))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None) -> None:
        asked = [0]
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._upward(reader, upstream_writer, asked))
                    group.create_task(self._downward(upstream_reader, writer, asked, budget))
            except* (ConnectionError, _CutError):
                pass  # either side left, or it was time to break: both sides see it below
            finally:
                upstream_writer.transport.abort()
        finally:
            writer.transport.abort()

    async def _upward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, asked: list[int]) -> None:
        while data := await source.read(65536):
            asked[0] += len(data)
            sink.write(data)
            await sink.drain()
        raise _CutError

    async def _downward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, asked: list[int], budget: int | None
    ) -> None:
        while data := await source.read(65536):
            if asked[0] > _REQUEST_BYTES and len(data) > _ANSWER_BYTES:
                self.answered.set()
                if self._lose:
                    self._lose = False
                    raise _CutError
                await self.release.wait()
            if budget is not None and len(data) >= budget:
                sink.write(data[:budget])
                await sink.drain()
                raise _CutError
            budget = None if budget is None else budget - len(data)
            self.received += len(data)
            sink.write(data)
            await sink.drain()
        raise _CutError


class _CutError(Exception):
    """This connection ends now."""


Act = Sequence[event_pb2.Event] | SluiceError | pb.GoingAway | None
"""A batch of events (none: a heartbeat), a failure, or a word of leaving; None ends the call with status OK."""


class Script:
    """A gateway that plays what a case wants: one list of acts for each call of StreamChat or ResumeChat."""

    def __init__(self, *calls: Sequence[Act]) -> None:
        self._calls = list(calls)
        self.asked: list[pb.StreamChatRequest] = []
        self.resumed: list[int] = []
        self.cancelled: list[str] = []
        self.gap_after = 0
        """After this event one number is left out; 0: never."""

    async def StreamChat(self, request: pb.StreamChatRequest, call: Call, send: SendMessage) -> None:
        self.asked.append(request)
        await self._play(0, pb.StreamChatResponse, send)

    async def ResumeChat(self, request: pb.ResumeChatRequest, call: Call, send: SendMessage) -> None:
        self.resumed.append(request.after_sequence)
        await self._play(request.after_sequence, pb.ResumeChatResponse, send)

    async def Chat(self, request: pb.ChatRequest, call: Call) -> pb.ChatResponse:
        raise NotImplementedError

    async def CancelChat(self, request: pb.CancelChatRequest, call: Call) -> pb.CancelChatResponse:
        self.cancelled.append(request.response)
        return pb.CancelChatResponse(state=pb.RESPONSE_STATE_CANCELLED)

    async def GetResponse(self, request: pb.GetResponseRequest, call: Call) -> pb.GetResponseResponse:
        raise NotImplementedError

    async def _play(
        self, sent: int, message: Callable[..., pb.StreamChatResponse | pb.ResumeChatResponse], send: SendMessage
    ) -> None:
        for act in self._calls.pop(0):
            if act is None:
                return
            if isinstance(act, SluiceError):
                raise act
            if isinstance(act, pb.GoingAway):
                await send(message(going_away=act))
                continue
            await send(message(first_sequence=sent + 1 if act else 0, events=act))
            sent += len(act) + (0 < self.gap_after == sent + len(act))

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Serves it for the length of the block, and yields its address."""
        server = Server("script", "127.0.0.1:0", None, LocalAuthenticator(), ServerConfig())
        server.add(pb.DESCRIPTOR.services_by_name["ChatService"], self)
        await server.bind()
        await server.ready()
        try:
            yield server.address
        finally:
            server.refuse_new()
            await server.stop(0)
