"""The pump and the queue behind every relay."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable

import pytest
from grpc.aio import EOF

from sluice_kit.pump import ByteQueue, Pump


class FakeCall:
    """A stream whose messages the test supplies; cancelling it ends a pending read as grpc does."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[object] = asyncio.Queue()
        self.reads = 0
        self.cancelled = False
        self._pending: asyncio.Task[object] | None = None

    async def read(self) -> object:
        self.reads += 1
        self._pending = asyncio.ensure_future(self.messages.get())
        message = await self._pending
        self._pending = None
        if isinstance(message, Exception):
            try:
                raise message
            finally:
                del message  # it holds this frame
        return message

    def cancel(self) -> bool:
        self.cancelled = True
        if self._pending is not None:
            self._pending.cancel()
        return True


async def test_everything_in_order_until_the_end() -> None:
    call, got = FakeCall(), []

    def deliver(message: object) -> None:
        got.append(message)

    for message in (1, 2, 3, EOF):
        call.messages.put_nowait(message)
    async with Pump(call, deliver) as pump:
        await pump.wait()
    assert got == [1, 2, 3]
    assert not call.cancelled


async def test_the_sink_holds_the_source_back() -> None:
    call, room = FakeCall(), asyncio.Event()

    def deliver(message: object) -> Awaitable[None]:
        async def wait() -> None:
            await room.wait()

        return wait()

    for message in (1, 2, EOF):
        call.messages.put_nowait(message)
    async with Pump(call, deliver) as pump:
        for _ in range(10):
            await asyncio.sleep(0)
        assert call.reads == 1
        room.set()
        await pump.wait()
    assert call.reads == 3


async def test_leaving_the_block_cancels_the_call_and_awaits_the_task() -> None:
    call = FakeCall()
    async with Pump[object](call, lambda message: None) as pump:
        await asyncio.sleep(0)
    assert call.cancelled
    assert pump.cancelled


async def test_leaving_while_the_sink_is_full_ends_the_task_too() -> None:
    call = FakeCall()
    call.messages.put_nowait(1)
    never = asyncio.Event()

    async def wait() -> None:
        await never.wait()

    async with Pump[object](call, lambda message: wait()) as pump:
        for _ in range(3):
            await asyncio.sleep(0)
    assert pump.cancelled


@pytest.mark.parametrize("culprit", ["call", "sink"])
async def test_what_either_side_raises_comes_out(culprit: str) -> None:
    call = FakeCall()
    call.messages.put_nowait(OSError("broken") if culprit == "call" else 1)

    def deliver(message: object) -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        async with Pump(call, deliver) as pump:
            await pump.wait()


async def test_a_queue_gives_all_there_is_and_then_ends() -> None:
    queue = ByteQueue(10)
    assert queue.put(b"12345") is None
    full = queue.put(b"123456")
    assert full is not None
    waiting = asyncio.ensure_future(full)
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await queue.take() == [b"12345", b"123456"]
    await waiting
    queue.close()
    assert await queue.take() == []


async def test_a_queue_wakes_its_reader() -> None:
    queue = ByteQueue(10)
    reader = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.put(b"x")
    assert await reader == [b"x"]


@pytest.mark.parametrize("end", ["left", "call", "sink", "cancelled"])
async def test_an_ended_pump_waits_for_no_garbage_collection(end: str) -> None:
    class Sink:
        def deliver(self, message: object) -> None:
            if end == "sink":
                raise OSError("broken")

    call, sink = FakeCall(), Sink()
    gone = weakref.ref(sink)

    async def relay(deliver: Callable[[object], None]) -> None:
        with contextlib.suppress(OSError):
            async with Pump(call, deliver) as pump:
                if end != "left":
                    await pump.wait()

    if end in ("call", "sink"):
        call.messages.put_nowait(OSError("broken") if end == "call" else 1)
    gc.collect()
    gc.disable()
    try:
        task = asyncio.create_task(relay(sink.deliver))
        if end == "cancelled":
            for _ in range(3):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait((task,))
        with contextlib.suppress(asyncio.CancelledError):
            task.result()
        del task, sink
        assert gone() is None
    finally:
        gc.enable()
