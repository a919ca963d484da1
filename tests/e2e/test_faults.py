"""What a whole mesh does when somebody leaves or dies: the vendor's socket, the adapter, the gateway."""

import asyncio
import contextlib
import gc
import operator
import os
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.gateway.v1 import chat_service_pb2_grpc as pb_grpc
from sluice_client import SluiceClient, question
from sluice_kit.channels import open_channel
from sluice_kit.errors import SluiceError, UnavailableError, from_rpc_error
from sluice_kit.testing import mesh
from tests.servers.tcp import listening

from .processes import Up

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'


class Vendor:
    """A vendor that streams without end, and notes when its connections are closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.streaming = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        gone = asyncio.create_task(self._gone(reader))
        try:
            while not gone.done():
                writer.write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
                await writer.drain()
                self.streaming.set()
                await asyncio.sleep(0.01)
        except ConnectionError:
            pass  # the other way to learn that the client closed
        self.closed.set()
        gone.cancel()
        writer.close()

    async def _gone(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                pass


@pytest.fixture
async def vendor() -> AsyncIterator[tuple[Vendor, str]]:
    made = Vendor()
    async with listening(made.serve) as port:
        yield made, f"http://127.0.0.1:{port}/v1"


@pytest.mark.parametrize("placement", ["process", "colocated"])
@pytest.mark.parametrize("how", ["leave", "cancel", "deadline", "folded"])
async def test_who_leaves_closes_the_vendors_socket(vendor: tuple[Vendor, str], placement: str, how: str) -> None:
    upstream, url = vendor
    settings: dict[str, Any] = {
        "providers": {"openai": {"adapter": "openai", "base_url": url, "api_key": "x"}},
        "gateway": {"integrations": {"openai": {"colocate": True}}} if placement == "colocated" else {},
    }
    async with mesh(settings) as running, open_channel(running.address) as channel:
        chat: Any = pb_grpc.ChatServiceStub(channel)
        spec = question("hello", model="openai/any")
        if how == "folded":
            waiting = asyncio.create_task(_folded(chat, spec))
            await asyncio.wait_for(upstream.streaming.wait(), 60)
            waiting.cancel()
            await asyncio.wait((waiting,))
        elif how == "deadline":
            for seconds in (0.5, 5.0, 50.0):  # time enough to reach the vendor, on any machine
                call = chat.StreamChat(pb.StreamChatRequest(spec=spec), timeout=seconds)
                with pytest.raises(grpc.aio.AioRpcError):
                    while await call.read() is not grpc.aio.EOF:
                        pass
                if upstream.streaming.is_set():
                    break
        else:
            call = chat.StreamChat(pb.StreamChatRequest(spec=spec))
            name = (await call.read()).events[0].accepted.response
            await asyncio.wait_for(upstream.streaming.wait(), 60)
            if how == "leave":
                call.cancel()
            elif how == "cancel":
                await chat.CancelChat(pb.CancelChatRequest(response=name))
        await asyncio.wait_for(upstream.closed.wait(), 60)


async def _folded(chat: Any, spec: pb.ChatSpec) -> None:
    await chat.Chat(pb.ChatRequest(spec=spec))


def _scripted(model: str) -> pb.ChatSpec:
    return question("hello", model=f"scripted/{model}")


async def _until_reachable(client: SluiceClient) -> pb.Answer:
    """Asks until the gateway has found the restarted adapter again, which takes it a second at most."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await client.chat(_scripted("text?tokens=3"))
            except UnavailableError:
                await asyncio.sleep(0.05)


async def test_a_killed_adapter_is_a_typed_failure(tmp_path: Path) -> None:
    up = Up(tmp_path, {"providers": {"scripted": {"adapter": "scripted"}}, "gateway": {}})
    try:
        async with SluiceClient(up.address) as client:
            pid, said = up.service("scripted", "up")["pid"], len(up.said)
            with pytest.raises(SluiceError) as caught:
                async with client.stream_chat(_scripted("text?tokens=2000&delay_ms=10")) as stream:
                    async for item in stream:
                        if item.kind == "text_delta" and pid:
                            os.kill(pid, signal.SIGKILL)
                            pid = 0
            assert caught.value.reason == ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE
            assert caught.value.metadata["service"] == "scripted"
            up.service("scripted", "up", after=said)
            answer = await _until_reachable(client)
            assert len(answer.text.split()) == 3
    finally:
        assert up.end() == 0


async def test_a_killed_gateway_never_bills_a_request_twice(tmp_path: Path) -> None:
    up = Up(tmp_path, {"providers": {"scripted": {"adapter": "scripted"}}, "gateway": {}})
    request = pb.StreamChatRequest(spec=_scripted("text?tokens=2000&delay_ms=10"), request_id=str(uuid.uuid4()))
    try:
        async with open_channel(up.address) as channel:
            chat: Any = pb_grpc.ChatServiceStub(channel)
            call = chat.StreamChat(request)
            await call.read()
            said = len(up.said)
            os.kill(up.service("gateway", "up")["pid"], signal.SIGKILL)
            with pytest.raises(grpc.aio.AioRpcError) as broken:
                while await call.read() is not grpc.aio.EOF:
                    pass
            assert broken.value.code() == grpc.StatusCode.UNAVAILABLE
        up.service("gateway", "up", after=said)
        async with open_channel(up.address) as channel:
            again: Any = pb_grpc.ChatServiceStub(channel).StreamChat(request)
            with pytest.raises(grpc.aio.AioRpcError) as lost:
                await again.read()
            assert from_rpc_error(lost.value).reason == ErrorReason.ERROR_REASON_RESPONSE_LOST
    finally:
        assert up.end() == 0


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_after_the_load_everything_is_as_before() -> None:
    """Finished, failed, cancelled and abandoned streams leave no task, no file and no call behind."""
    settings = {
        "providers": {"scripted": {"adapter": "scripted"}},
        "gateway": {"log": {"retention_seconds": 0.05, "answer_seconds": 0}},
    }
    models = ("text?tokens=20", "text?tokens=500&delay_ms=5", "text?fault=cut@3", "text?fault=UPSTREAM_OVERLOADED")
    async with mesh(settings) as running, open_channel(running.address) as channel:
        chat: Any = pb_grpc.ChatServiceStub(channel)

        async def one(number: int) -> None:
            call = chat.StreamChat(pb.StreamChatRequest(spec=_scripted(models[number % len(models)])))
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                await call.read()
                if number % 3 == 0:
                    call.cancel()
                while number % 8 != 5 and await call.read() is not grpc.aio.EOF:
                    pass
            call.cancel()

        async def settled() -> tuple[int, int]:
            servers = running.servers.values()
            gateway: Any = running.services["gateway"]
            while any(server.dispatcher.in_flight for server in servers) or gateway.responses.kept_bytes:  # noqa: ASYNC110  # servers know no test
                await asyncio.sleep(0.02)
            gc.collect()
            return len(asyncio.all_tasks()), _open_files()

        await asyncio.gather(*(one(number) for number in range(24)))
        tasks, files = await settled()
        for _ in range(4):
            await asyncio.gather(*(one(number) for number in range(48)))
        while not all(map(operator.le, await settled(), (tasks, files))):  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.05)  # what is closed may still be on its way
