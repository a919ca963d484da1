"""Test doubles: a gateway that plays a script, and a connection that can be cut."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from sluice.chat.v1 import event_pb2, passage_pb2
from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice.task.v1 import task_service_pb2 as task_pb
from sluice_kit.auth import Authenticator, LocalAuthenticator
from sluice_kit.call import Call
from sluice_kit.config import ServerConfig
from sluice_kit.errors import SluiceError
from sluice_kit.rpc import SendMessage
from sluice_kit.server import Server
from tests.servers.tcp import close

RESPONSE = "responses/r1"
UNKNOWN = event_pb2.Event.FromString(b"\xfa\x07\x00")
"""An event of a kind from the future: field 127, empty."""


def accepted() -> event_pb2.Event:
    return event_pb2.Event(accepted=event_pb2.Accepted(response=RESPONSE))


def text(words: str, block: int = 0) -> event_pb2.Event:
    return event_pb2.Event(text_delta=event_pb2.TextDelta(block_index=block, text=words))


def citation(path: str) -> event_pb2.Event:
    return event_pb2.Event(citation=passage_pb2.Citation(path=path))


def completed() -> event_pb2.Event:
    return event_pb2.Event(completed=event_pb2.Completed())


def script(*words: str) -> list[event_pb2.Event]:
    return [accepted(), *(text(word) for word in words), completed()]


class FakeChat:
    """Plays `events` in batches of `batch`, waiting before number n as long as `gates[n]` is not set.

    `ends` are taken by one call each: the error to end with after the number it names.
    """

    def __init__(self, events: Sequence[event_pb2.Event] = ()) -> None:
        self.events = list(events)
        self.batch = 1
        self.gates: dict[int, asyncio.Event] = {}
        self.ends: list[tuple[int, SluiceError | None]] = []
        self.first_number = 1
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.requests: list[chat_pb.StreamChatRequest] = []
        self.whole: list[chat_pb.ChatRequest] = []
        self.resumed: list[int] = []
        self.cancels: list[str] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.fail_whole: list[SluiceError] = []

    async def StreamChat(self, request: chat_pb.StreamChatRequest, call: Call, send: SendMessage) -> None:
        self.requests.append(request)
        self.metadata.append(dict(call.metadata))
        await self._play(0, chat_pb.StreamChatResponse, send)

    async def ResumeChat(self, request: chat_pb.ResumeChatRequest, call: Call, send: SendMessage) -> None:
        assert request.response == RESPONSE
        self.resumed.append(request.after_sequence)
        await self._play(request.after_sequence, chat_pb.ResumeChatResponse, send)

    async def Chat(self, request: chat_pb.ChatRequest, call: Call) -> chat_pb.ChatResponse:
        self.whole.append(request)
        gate = self.gates.get(0)
        if gate is not None and not gate.is_set():
            self.waiting.set()
            await gate.wait()
        if self.fail_whole:
            raise self.fail_whole.pop(0)
        return chat_pb.ChatResponse(answer=chat_pb.Answer(response=RESPONSE, text="whole"))

    async def CancelChat(self, request: chat_pb.CancelChatRequest, call: Call) -> chat_pb.CancelChatResponse:
        self.cancels.append(request.response)
        self.cancelled.set()
        return chat_pb.CancelChatResponse(state=chat_pb.RESPONSE_STATE_CANCELLED)

    async def GetResponse(self, request: chat_pb.GetResponseRequest, call: Call) -> chat_pb.GetResponseResponse:
        return chat_pb.GetResponseResponse(state=chat_pb.RESPONSE_STATE_COMPLETED)

    async def _play(
        self,
        after: int,
        response: "Callable[..., chat_pb.StreamChatResponse | chat_pb.ResumeChatResponse]",
        send: SendMessage,
    ) -> None:
        end = self.ends.pop(0) if self.ends else None
        at = after
        await send(response())
        while at < len(self.events):
            if end is not None and at >= end[0]:
                if end[1] is None:
                    return
                raise end[1]
            gate = self.gates.get(at + 1)
            if gate is not None and not gate.is_set():
                self.waiting.set()
                await gate.wait()
            piece = self.events[at : at + self.batch]
            await send(response(first_sequence=at + self.first_number, events=piece))
            at += len(piece)


class FakeTasks:
    """One task with five events; the watch breaks where `gates` says."""

    def __init__(self) -> None:
        self.gates: dict[int, asyncio.Event] = {}
        self.waiting = asyncio.Event()
        self.watched: list[int] = []
        self.oldest = 1
        self.listed: list[str] = []

    async def GetTask(self, request: task_pb.GetTaskRequest, call: Call) -> task_pb.GetTaskResponse:
        return task_pb.GetTaskResponse(task=task_pb.Task(name=request.name))

    async def CancelTask(self, request: task_pb.CancelTaskRequest, call: Call) -> task_pb.CancelTaskResponse:
        return task_pb.CancelTaskResponse(task=task_pb.Task(name=request.name, state=task_pb.TASK_STATE_CANCELLED))

    async def ListTasks(self, request: task_pb.ListTasksRequest, call: Call) -> task_pb.ListTasksResponse:
        self.listed.append(request.page_token)
        page = int(request.page_token or 0)
        tasks = [task_pb.Task(name=f"tasks/ret-{page}{index}") for index in (0, 1)]
        return task_pb.ListTasksResponse(
            tasks=tasks, next_page_token=str(page + 1) if page < 2 else "", unreachable=["wf"]
        )

    async def WatchTask(self, request: task_pb.WatchTaskRequest, call: Call, send: SendMessage) -> None:
        self.watched.append(request.after_sequence)
        for number in range(max(request.after_sequence + 1, self.oldest), 6):
            gate = self.gates.get(number)
            if gate is not None and not gate.is_set():
                self.waiting.set()
                await gate.wait()
            state = task_pb.TASK_STATE_SUCCEEDED if number == 5 else task_pb.TASK_STATE_RUNNING
            task = task_pb.Task(name=request.name, state=state, progress=number / 5)
            await send(task_pb.WatchTaskResponse(events=[task_pb.TaskEvent(sequence=number, task=task)]))


class Line:
    """A TCP line to a server that can be cut and mended."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._server: asyncio.Server | None = None
        self._stopped = False
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.address = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Breaks every connection; new ones are taken."""
        for writer in self._open:
            writer.transport.abort()

    async def stop(self) -> None:
        """Breaks every connection and takes no new ones."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.cut()  # also those whose task was cancelled before it began
        if self._server is not None:
            await close(self._server)

    def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._stopped:
            writer.transport.abort()
            return
        self.connections += 1
        self._open.add(writer)
        task = asyncio.create_task(self._join(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
            ends.add(upstream_writer)
            self._open.add(upstream_writer)
            await asyncio.gather(self._copy(reader, upstream_writer), self._copy(upstream_reader, writer))
        except ConnectionError:
            pass  # nobody is there, which the client sees by the end of its own connection
        finally:
            for end in ends:
                end.transport.abort()
            self._open -= ends

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass  # cut: that is what it is for
        finally:
            sink.transport.abort()


@contextlib.asynccontextmanager
async def serving(*implementations: object, authenticator: Authenticator | None = None) -> AsyncIterator[Line]:
    """Serves the doubles, and yields the line that leads to them."""
    server = Server("fake", "127.0.0.1:0", None, authenticator or LocalAuthenticator(), ServerConfig())
    for implementation in implementations:
        if isinstance(implementation, FakeChat):
            server.add(chat_pb.DESCRIPTOR.services_by_name["ChatService"], implementation)
        else:
            server.add(task_pb.DESCRIPTOR.services_by_name["TaskService"], implementation)
    await server.bind()
    await server.ready()
    line = Line(server.address)
    await line.start()
    try:
        yield line
    finally:
        await line.stop()
        server.refuse_new()
        await server.stop(0)
