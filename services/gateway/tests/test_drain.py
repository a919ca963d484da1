"""What becomes of answers when the gateway is told to stop, or an adapter does."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import grpc
import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.gateway.v1 import chat_service_pb2_grpc as pb_grpc
from sluice_client import question
from sluice_kit.channels import open_channel
from sluice_kit.errors import from_rpc_error
from sluice_kit.server import shut_down
from sluice_kit.testing import mesh

R = ErrorReason
SHORT, LONG = "scripted/text?tokens=40&delay_ms=10", "scripted/text?tokens=5000&delay_ms=10"


def _spec(model: str, **more: Any) -> pb.ChatSpec:
    spec = question("hello", model=model)
    spec.background = more.get("background", False)
    return spec


async def _read(call: Any) -> tuple[str, ErrorReason.ValueType | None]:
    """Reads a stream to its end; returns its text, and the reason why it failed."""
    text = ""
    try:
        while (batch := await call.read()) is not grpc.aio.EOF:
            text += _text(batch)
    except grpc.aio.AioRpcError as error:
        return text, from_rpc_error(error).reason
    return text, None


def _states(folder: Path) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(folder / "gateway" / "records.db")) as connection:
        return connection.execute("SELECT state, reason FROM responses").fetchall()


async def _stopped_amid(folder: Path, spec: pb.ChatSpec, grace: float, *, leave: bool) -> tuple[str, Any]:
    """Stops a mesh while it answers; returns what the client saw."""
    async with mesh({"state_dir": str(folder)}, grace=grace) as running:
        channel = open_channel(running.address)
        call: Any = pb_grpc.ChatServiceStub(channel).StreamChat(pb.StreamChatRequest(spec=spec))
        text = ""
        while not text:
            text = _text(await call.read())
        if leave:
            call.cancel()
    rest, reason = ("", None) if leave else await _read(call)
    await channel.close()
    return text + rest, reason


def _text(batch: pb.StreamChatResponse) -> str:
    return "".join(event.text_delta.text for event in batch.events)


async def test_a_stream_ends_before_the_gateway_does(tmp_path: Path) -> None:
    text, reason = await _stopped_amid(tmp_path, _spec(SHORT), 60.0, leave=False)
    assert (len(text.split()), reason) == (40, None)
    assert _states(tmp_path) == [("completed", "")]


async def test_so_does_what_nobody_watches(tmp_path: Path) -> None:
    await _stopped_amid(tmp_path, _spec(SHORT, background=True), 60.0, leave=True)
    assert _states(tmp_path) == [("completed", "")]


async def test_what_takes_longer_than_the_grace_ends_typed(tmp_path: Path) -> None:
    text, reason = await _stopped_amid(tmp_path, _spec(LONG), 0.1, leave=False)
    assert text
    assert reason == R.ERROR_REASON_RESPONSE_LOST
    assert _states(tmp_path) == [("failed", "RESPONSE_LOST")]


@pytest.mark.parametrize("whole", [False, True], ids=["stream", "whole"])
async def test_an_adapter_that_stops_is_not_taken_for_a_client_that_cancels(whole: bool) -> None:
    async with mesh() as running, open_channel(running.address) as channel:
        stub: Any = pb_grpc.ChatServiceStub(channel)
        # Its attempts are over when its grace is; what then remains is the mesh's to stop, which finds it stopped.
        call = stub.Chat(pb.ChatRequest(spec=_spec(LONG))) if whole else None
        stream = stub.StreamChat(pb.StreamChatRequest(spec=_spec(LONG)))
        while not (batch := await stream.read()).events or not batch.events[-1].HasField("text_delta"):
            pass
        await shut_down(running.services["scripted"], running.servers["scripted"], 0.01)
        assert (await _read(stream))[1] == R.ERROR_REASON_SERVICE_UNREACHABLE
        if call is not None:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert from_rpc_error(caught.value).reason == R.ERROR_REASON_SERVICE_UNREACHABLE
