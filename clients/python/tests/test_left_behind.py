"""A closed client has no connection left, however its streams ended: none waits for garbage collection."""

import gc

import grpc
import pytest

from sluice_client import RetryPolicy, SluiceClient, question
from sluice_kit.errors import NotFoundError, SluiceError

from .fake import FakeChat, Line, script, serving

SPEC = question("why?")
IMPATIENT = RetryPolicy(initial=0.001, maximum=0.001, patience=0.001)


def _calls() -> int:
    """Returns how many calls of streams there are, running or not: while there is one, its connection is, too."""
    return sum(isinstance(one, grpc.aio.UnaryStreamCall) for one in gc.get_objects())


async def _read(line: Line, end: str) -> None:
    async with SluiceClient(line.address, retry=IMPATIENT) as client:
        stream = client.stream_chat(SPEC, resume=end != "fails")
        try:
            async with stream:
                async for _ in stream:
                    if end in ("left", "detached", "cancelled"):
                        break
                    if end == "cut":
                        line.cut()
                if end == "detached":
                    stream.detach()
                if end == "cancelled":
                    await stream.cancel()
        except SluiceError:
            assert end in ("fails", "cut")


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("end", ["completed", "left", "detached", "cancelled", "fails", "cut"])
async def test_no_call_outlives_its_client(end: str) -> None:
    chat = FakeChat(script("a", "b", "c"))
    if end == "fails":
        chat.ends = [(2, NotFoundError("gone"))] * 3
    async with serving(chat) as line:
        before = _calls()
        for _ in range(3):
            await _read(line, end)
        assert _calls() == before
