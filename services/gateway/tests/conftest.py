"""A mesh with a gateway and scripted adapters, and a client that collects what it sees."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import pytest

from sluice.chat.v1.event_pb2 import Event
from sluice.chat.v1.message_pb2 import Message, MessageRole, Part
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.gateway.v1 import chat_service_pb2_grpc as pb_grpc
from sluice_gateway.service import Gateway
from sluice_kit.channels import open_channel
from sluice_kit.errors import SluiceError, from_rpc_error
from sluice_kit.testing import Mesh, mesh

from .talking import Talker

SCRIPTED = {"providers": {"scripted": {"adapter": "scripted"}}}


class Seen:
    """What a client saw of a stream: events by number, and how it ended."""

    def __init__(self) -> None:
        self.events: list[tuple[int, Event]] = []
        self.heartbeats = 0
        self.going_away = 0
        self.error: SluiceError | None = None

    def add(self, batch: pb.StreamChatResponse | pb.ResumeChatResponse) -> None:
        if batch.HasField("going_away"):
            self.going_away += 1
        elif not batch.events:
            self.heartbeats += 1
        for offset, event in enumerate(batch.events):
            self.events.append((batch.first_sequence + offset, event))

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.events]

    @property
    def kinds(self) -> list[str]:
        return [str(event.WhichOneof("kind")) for _, event in self.events]

    @property
    def text(self) -> str:
        return "".join(event.text_delta.text for _, event in self.events)

    @property
    def response(self) -> str:
        return self.events[0][1].accepted.response

    @property
    def last(self) -> Event:
        return self.events[-1][1]


def question(model: str = "scripted/text?tokens=5", text: str = "hello", **fields: Any) -> pb.ChatSpec:
    """Returns what to answer."""
    return pb.ChatSpec(
        model=model, messages=[Message(role=MessageRole.MESSAGE_ROLE_USER, parts=[Part(text=text)])], **fields
    )


class Client:
    """Calls the gateway and collects what comes."""

    def __init__(self, running: Mesh, channel: grpc.aio.Channel) -> None:
        self.mesh = running
        self.channel = channel
        self.chat: Any = pb_grpc.ChatServiceStub(channel)

    @property
    def gateway(self) -> Gateway:
        service = self.mesh.services["gateway"]
        assert isinstance(service, Gateway)
        return service

    async def stream(self, spec: pb.ChatSpec, request_id: str = "", **options: Any) -> Seen:
        """Asks, reads to the end, and notes how it ended."""
        return await self.collect(
            self.chat.StreamChat(pb.StreamChatRequest(spec=spec, request_id=request_id), **options)
        )

    async def resume(self, response: str, after: int = 0) -> Seen:
        return await self.collect(self.chat.ResumeChat(pb.ResumeChatRequest(response=response, after_sequence=after)))

    async def collect(self, call: Any, until: Callable[[Seen], bool] | None = None) -> Seen:
        seen = Seen()
        try:
            async for batch in call:
                seen.add(batch)
                if until is not None and until(seen):
                    break
        except grpc.aio.AioRpcError as error:
            seen.error = from_rpc_error(error)
        return seen

    async def rows(self, table: str) -> list[dict[str, Any]]:
        """Returns what the ledger holds."""
        return await self.gateway._ledger.rows(table)


Start = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture(params=["process", "colocated"])
def placement(request: pytest.FixtureRequest) -> str:
    """Both ways to reach an adapter."""
    return str(request.param)


@contextlib.asynccontextmanager
async def started(
    gateway: Mapping[str, Any] | None = None, placement: str = "process", **sections: Any
) -> AsyncIterator[Client]:
    """Runs a mesh and a client of it."""
    settings: dict[str, Any] = {**SCRIPTED, **sections, "gateway": dict(gateway or {})}
    if placement == "colocated":
        settings["gateway"]["integrations"] = {name: {"colocate": True} for name in settings["providers"]}
    async with mesh(settings) as running, open_channel(running.address) as channel:
        yield Client(running, channel)


@pytest.fixture
def start() -> Start:
    """Returns the function that runs a mesh with settings of the gateway's section."""
    return started


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """A client of a mesh with defaults."""
    async with started() as running:
        yield running


@pytest.fixture
def ask() -> Callable[..., pb.ChatSpec]:
    """Returns the function that writes down what to answer."""
    return question


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Returns the function that waits until a condition holds; the test's own time-out is the limit."""

    async def wait(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110  # what is waited for happens in a server that knows no test
            await asyncio.sleep(0.005)

    return wait


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of `gateway.conversations` for each kind of database, an empty one."""
    if request.param == "sqlite":
        return {}
    return {"url": request.getfixturevalue("postgres_url")}


@pytest.fixture(params=["sqlite", "postgres"])
def records(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of `gateway.records` for each kind of database, an empty one."""
    return {} if request.param == "sqlite" else {"url": request.getfixturevalue("postgres_url")}


@pytest.fixture
def start_recorded(records: dict[str, Any]) -> Start:
    """As `start`, with the records in each kind of database."""
    return lambda gateway=None, *arguments, **sections: started(
        {"records": records, **(gateway or {})}, *arguments, **sections
    )


@pytest.fixture
async def talker(database: dict[str, Any]) -> AsyncIterator[Talker]:
    """A client that talks in a conversation, which is still to be made."""
    async with started({"conversations": database}) as client:
        yield Talker(client, question)
