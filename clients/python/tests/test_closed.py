"""Closing a client ends what it is doing at once, and says so."""

import asyncio

import pytest

from sluice_client import ClientClosedError, SluiceClient, question

from .fake import FakeChat, FakeTasks, script, serving

SPEC = question("why?")


@pytest.mark.parametrize("resume", [True, False])
async def test_a_stream_that_is_read(resume: bool) -> None:
    chat = FakeChat(script("a", "b"))
    chat.gates[3] = asyncio.Event()
    async with serving(chat) as line:
        client = SluiceClient(line.address)
        stream = client.stream_chat(SPEC, resume=resume)
        two = asyncio.Event()

        async def read() -> None:
            async with stream:
                async for item in stream:
                    if item.sequence == 2:
                        two.set()

        reading = asyncio.create_task(read())
        await chat.waiting.wait()
        await two.wait()
        await client.close()
        with pytest.raises(ClientClosedError, match="closed"):
            await reading
        assert stream.last_sequence == 2
        assert stream.reconnects == 0
        # It has no way to cancel any more; the gateway does what was asked for those who leave.
        assert (len(chat.requests), chat.resumed, chat.cancels) == (1, [], [])


async def test_a_task_that_is_watched() -> None:
    tasks = FakeTasks()
    tasks.gates[2] = asyncio.Event()
    async with serving(tasks) as line:
        client = SluiceClient(line.address)
        watching = asyncio.create_task(client.watch_task("tasks/ret-1").result())
        await tasks.waiting.wait()
        await client.close()
        with pytest.raises(ClientClosedError):
            await watching
        assert tasks.watched == [0]


async def test_a_single_call() -> None:
    chat = FakeChat()
    chat.gates[0] = asyncio.Event()
    async with serving(chat) as line:
        client = SluiceClient(line.address)
        asking = asyncio.create_task(client.chat(SPEC))
        await chat.waiting.wait()
        await client.close()
        with pytest.raises(ClientClosedError):
            await asking
        assert len(chat.whole) == 1


async def test_who_cancels_a_call_is_not_told_of_the_client() -> None:
    chat = FakeChat()
    chat.gates[0] = asyncio.Event()
    async with serving(chat) as line, SluiceClient(line.address) as client:
        asking = asyncio.create_task(client.chat(SPEC))
        await chat.waiting.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_what_is_asked_of_it_later() -> None:
    async with serving(FakeChat()) as line:
        client = SluiceClient(line.address)
        await client.close()
        with pytest.raises(ClientClosedError):
            await client.chat(SPEC)
        with pytest.raises(ClientClosedError):
            await client.stream_chat(SPEC).text()
        assert line.connections == 0
