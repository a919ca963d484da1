"""Conversations by the client, against the real gateway."""

import uuid
from datetime import timedelta

import pytest

from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice_client import SluiceClient, question
from sluice_kit.errors import ConflictError, NotFoundError
from sluice_kit.testing import mesh


async def test_a_conversation_from_its_beginning_to_its_end() -> None:
    async with mesh() as running, SluiceClient(running.address) as client:
        made = await client.create_conversation(
            "plans", display_name="Our plans", labels={"team": "a"}, max_age=timedelta(days=1), max_turns=10
        )
        assert made.name == "conversations/plans"
        assert made.retention.max_age.ToTimedelta() == timedelta(days=1)
        for text in ("one", "two", "three"):
            answer = await client.chat(question(text, model="scripted/echo", conversation="plans"))
            assert answer.text == text
        turns = await client.list_turns("plans", page_size=2).all()
        assert [turn.answer.parts[0].text for turn in turns] == ["one", "two", "three"]
        newest = await client.list_turns("conversations/plans", newest_first=True).all()
        assert [turn.number for turn in newest] == [3, 2, 1]
        assert (await client.get_conversation("plans")).turn_count == 3
        assert [one.name for one in await client.list_conversations().all()] == ["conversations/plans"]
        assert (await client.clear_conversation("plans")).turn_count == 0
        await client.delete_conversation("plans")
        with pytest.raises(NotFoundError):
            await client.get_conversation("plans")


async def test_creating_is_repeated_by_its_request_id_alone() -> None:
    request_id = str(uuid.uuid4())
    async with mesh() as running, SluiceClient(running.address) as client:
        first = await client.create_conversation("plans", request_id=request_id)
        assert await client.create_conversation("plans", request_id=request_id) == first
        with pytest.raises(ConflictError):
            await client.create_conversation("plans")


async def test_a_busy_conversation_is_a_conflict() -> None:
    async with mesh() as running, SluiceClient(running.address) as client:
        await client.create_conversation("plans")
        slow = question("one", model="scripted/text?tokens=1000&delay_ms=20", conversation="plans")
        async with client.stream_chat(slow) as stream:
            async for item in stream:
                if item.kind == "text_delta":
                    break
            with pytest.raises(ConflictError, match="busy"):
                await client.chat(question("two", model="scripted/echo", conversation="plans"))
            waiting = question("three", model="scripted/echo", conversation="plans")
            waiting.when_busy = chat_pb.WHEN_BUSY_QUEUE
            async with client.stream_chat(waiting) as queued:
                async for item in queued:
                    if item.kind == "accepted":
                        await client.cancel_chat(stream.response or "")
                assert item.kind == "completed"
