"""How much of a conversation one model is told: windows, counts of vendors, tools and reasoning, over a gateway."""

import asyncio
from typing import Any

import pytest

from sluice.chat.v1.event_pb2 import NoticeCode
from sluice.chat.v1.message_pb2 import Message, MessageRole, Part, ToolResult
from sluice.chat.v1.tool_pb2 import FunctionTool, Tool
from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice.provider.v1 import provider_service_pb2 as provider_pb
from sluice_kit.errors import UnavailableError

from .talking import NAME, Talker

LONG = "word " * 40
"""About 56 tokens, as estimated."""


@pytest.fixture
async def small(start: Any, ask: Any) -> Any:
    """A talker whose models read 400 tokens, 300 of them for the prompt, after ten turns of about 65 each."""
    async with start({"conversations": {"context_tokens": 400}}) as client:
        talker = Talker(client, ask)
        await talker.create()
        for number in range(10):
            await talker.say(f"{number} {LONG}", "scripted/text?tokens=1")
        talker.told.counted.clear()
        client.gateway.conversations._recall.counter.estimators.clear()  # nothing is known yet of how the adapter counts
        yield talker


def words(request: provider_pb.CountTokensRequest) -> int:
    """Counts as a vendor would: each word is a token."""
    return sum(len(part.text.split()) for message in request.messages for part in message.parts)


def notices(seen: Any) -> list[Any]:
    return [event.notice for _, event in seen.events if event.WhichOneof("kind") == "notice"]


async def test_an_exact_count_decides_where_there_is_one(small: Talker) -> None:
    async def count(request: provider_pb.CountTokensRequest) -> provider_pb.CountTokensResponse:
        return provider_pb.CountTokensResponse(tokens=words(request), kind=provider_pb.TOKEN_COUNT_KIND_EXACT)

    small.told.count = count
    seen = await small.say("last", "scripted/text?tokens=1")
    [notice] = notices(seen)
    # 41 words a question and 1 an answer: seven turns fit into 300, where the estimate with its margin has room for three.
    assert (notice.metadata["turns_sent"], notice.metadata["turns_left_out"]) == ("7", "3")
    assert [text[0] for text in small.told.texts[:-1:2]] == list("3456789")
    assert 1 < len(small.told.counted) <= 3
    assert words(small.told.counted[-1]) <= 300


async def test_an_estimate_is_taken_with_its_margin_and_asked_for_once(small: Talker) -> None:
    seen = await small.say("last", "scripted/text?tokens=1")
    [notice] = notices(seen)
    assert notice.metadata["turns_sent"] == "3"
    assert len(small.told.counted) == 1
    await small.say("more", "scripted/text?tokens=1")
    assert len(small.told.counted) == 1


async def test_a_vendor_that_cannot_count_holds_up_nothing(small: Talker) -> None:
    async def count(_: provider_pb.CountTokensRequest) -> provider_pb.CountTokensResponse:
        raise UnavailableError("down")

    small.told.count = count
    seen = await small.say("last", "scripted/text?tokens=1")
    assert seen.error is None
    assert notices(seen)[0].metadata["turns_sent"] == "3"


async def test_a_count_that_never_comes_is_not_waited_for(small: Talker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def count(_: provider_pb.CountTokensRequest) -> provider_pb.CountTokensResponse:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("sluice_gateway.conversations.recall._COUNT_SECONDS", 0.01)
    small.told.count = count
    seen = await small.say("last", "scripted/text?tokens=1")
    assert notices(seen)[0].metadata["turns_sent"] == "3"


async def test_what_fits_is_not_counted(talker: Talker) -> None:
    await talker.create()
    for number in range(5):
        assert notices(await talker.say(f"{number} {LONG}", "scripted/text?tokens=1")) == []
    assert talker.told.counted == []


async def test_the_window_is_the_models_own_where_it_is_known(start: Any, ask: Any) -> None:
    """`scripted/echo` is listed with a large window; with parameters it is not listed, and the default counts."""
    async with start({"conversations": {"context_tokens": 200}}) as client:
        talker = Talker(client, ask)
        await talker.create()
        for number in range(4):
            await talker.say(f"{number} {LONG}")
        assert len(talker.told.requests[-1].messages) == 7
        spec = talker.spec("last", "scripted/text?tokens=1&fault=UPSTREAM_OVERLOADED")
        spec.fallbacks.append("scripted/echo")
        seen = await client.stream(spec)
    assert seen.error is None
    # Each target is told what it can read.
    assert len(talker.told.requests[-1].messages) == 9
    assert len(talker.told.requests[-2].messages) < 9
    assert [notice.code for notice in notices(seen)] == [NoticeCode.NOTICE_CODE_HISTORY_CUT]


async def test_room_is_kept_for_the_answer_that_is_asked_for(small: Talker) -> None:
    spec = small.spec("last", "scripted/text?tokens=1")
    spec.parameters.max_output_tokens = 10
    more = notices(await small.client.stream(spec))[0].metadata["turns_sent"]
    spec.parameters.max_output_tokens = 390
    none = notices(await small.client.stream(spec))[0].metadata["turns_sent"]
    assert int(more) > 3
    assert none == "0"


async def test_too_much_is_not_even_read(start: Any, ask: Any) -> None:
    async with start({"conversations": {"history_bytes": 1000}}) as client:
        talker = Talker(client, ask)
        await talker.create()
        for number in range(8):
            await talker.say(f"{number} {LONG}", "scripted/text?tokens=1")
        seen = await talker.say("last")
    [notice] = notices(seen)
    assert (notice.metadata["turns_sent"], notice.metadata["turns_left_out"]) == ("4", "4")


async def test_results_of_tools_follow_their_calls(talker: Talker) -> None:
    await talker.create()
    tools = [Tool(function=FunctionTool(name="look"))]
    asked = await talker.say("what is there?", "scripted/tool", tools=tools)
    assert asked.error is None
    [turn] = await talker.turns()
    call = turn.answer.parts[0].tool_call
    result = Message(
        role=MessageRole.MESSAGE_ROLE_TOOL, parts=[Part(tool_result=ToolResult(call_id=call.id, text="a tree"))]
    )
    spec = chat_pb.ChatSpec(model="scripted/text?say=a tree", messages=[result], tools=tools, conversation=NAME)
    assert (await talker.client.stream(spec)).error is None
    expected = ["what is there?", f"call {call.id}", f"result {call.id}"]
    assert talker.told.texts == expected
    await talker.say("thanks")
    assert talker.told.texts == [*expected, "a tree", "thanks"]


async def test_reasoning_goes_back_to_its_provider_alone(start: Any, ask: Any) -> None:
    providers = {"scripted": {"adapter": "scripted"}, "other": {"adapter": "scripted"}}
    async with start(providers=providers) as client:
        talker = Talker(client, ask)
        await talker.create()
        await talker.say("one", "scripted/reason?tokens=2&reasoning=1")
        await talker.say("two", "other/echo")
        await talker.say("three", "scripted/echo")
        turns = await talker.turns()
    assert turns[0].answer.parts[0].reasoning.provider == "scripted"
    kinds = [part.WhichOneof("kind") for part in talker.told.requests[-1].messages[1].parts]
    assert kinds == ["reasoning", "text"]
    assert len(talker.told.requests[-1].messages) == 5
