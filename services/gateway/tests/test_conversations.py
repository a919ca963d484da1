"""Conversations: what is asked follows on from what was asked, and stays on record. On SQLite and on Postgres."""

import asyncio
import uuid
from typing import Any

from sluice.chat.v1.event_pb2 import NoticeCode
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice.gateway.v1 import conversation_service_pb2 as pb

from .pausing import pausing
from .talking import NAME, Talker, failure

R = ErrorReason


async def test_a_model_is_told_what_was_said(talker: Talker) -> None:
    await talker.create(display_name="A talk", labels={"topic": "trees"})
    assert (await talker.say("one")).text == "one"
    assert (await talker.say("two", "scripted/text?say=2")).text == "2"
    assert (await talker.say("three")).error is None
    assert talker.told.texts == ["one", "one", "two", "2", "three"]
    conversation = await talker.get()
    assert (conversation.display_name, dict(conversation.labels)) == ("A talk", {"topic": "trees"})
    assert conversation.turn_count == 3
    assert conversation.update_time.ToNanoseconds() > conversation.create_time.ToNanoseconds()


async def test_a_turn_holds_all_that_is_known(talker: Talker) -> None:
    await talker.create()
    seen = await talker.say("why", "scripted/reason?tokens=3", labels={"user": "u1"})
    [turn] = await talker.turns()
    completed = seen.last.completed
    assert turn.name == f"{NAME}/turns/1"
    assert turn.state == pb.TURN_STATE_COMPLETED
    assert [part.text for part in turn.question[0].parts] == ["why"]
    assert [part.WhichOneof("kind") for part in turn.answer.parts] == ["reasoning", "text"]
    assert turn.answer.parts[1].text == seen.text
    assert (turn.target.provider, turn.target.model) == ("scripted", "reason?tokens=3")
    assert turn.requested_model == "scripted/reason?tokens=3"
    assert turn.usage == completed.usage
    assert turn.finish_reason == completed.finish_reason
    assert turn.response == seen.response
    assert (turn.subject, dict(turn.labels)) == ("local", {"user": "u1"})
    assert turn.end_time.ToNanoseconds() >= turn.create_time.ToNanoseconds()
    assert {row["conversation"] for row in await talker.client.rows("attempts")} == {NAME}


async def test_whoever_saw_the_end_can_go_on_at_once(talker: Talker) -> None:
    await talker.create()
    for number in range(12):
        if number % 2:
            assert (await talker.say(f"q{number}")).error is None
        else:
            await talker.client.chat.Chat(chat_pb.ChatRequest(spec=talker.spec(f"q{number}")))
    assert [turn.number for turn in await talker.turns()] == list(range(1, 13))


async def test_a_failure_is_on_record_and_is_not_told(talker: Talker) -> None:
    await talker.create()
    await talker.say("one")
    broken = await talker.say("two", "scripted/text?tokens=5&fault=cut@2")
    assert broken.error is not None
    await talker.say("three")
    assert talker.told.texts == ["one", "one", "three"]
    turns = await talker.turns()
    assert [turn.state for turn in turns] == [
        pb.TURN_STATE_COMPLETED,
        pb.TURN_STATE_FAILED,
        pb.TURN_STATE_COMPLETED,
    ]
    assert turns[1].answer.parts[0].text == broken.text
    assert turns[1].error.message == broken.error.message
    assert not turns[1].HasField("usage")


async def test_who_leaves_leaves_no_turn_behind_that_runs(talker: Talker, until: Any) -> None:
    """At whatever moment the client goes, the turn is ended and the place is free."""
    await talker.create()
    spec = talker.spec("hello", "scripted/text?tokens=3&delay_ms=2")
    for number in range(20):
        call = talker.client.chat.StreamChat(chat_pb.StreamChatRequest(spec=spec))
        await asyncio.sleep(number / 2000)  # not to wait for something: to leave at another moment each time
        call.cancel()
        await until(lambda: talker.client.gateway.responses.running == 0)
    states = {turn.state for turn in await talker.turns()}
    assert states <= {pb.TURN_STATE_CANCELLED, pb.TURN_STATE_COMPLETED}
    assert (await talker.say("still there")).error is None


async def test_an_unknown_conversation_is_said_before_anything_is_asked(talker: Talker) -> None:
    seen = await talker.say("hello")
    assert seen.events == []
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_NOT_FOUND
    assert seen.error.metadata["resource"] == NAME
    assert talker.told.requests == []
    assert await talker.client.rows("responses") == []


async def test_a_request_id_that_repeats_writes_no_second_turn(talker: Talker) -> None:
    await talker.create()
    request_id = str(uuid.uuid4())
    spec = talker.spec("hello", "scripted/text?tokens=20&delay_ms=2")
    first, second = await asyncio.gather(
        talker.client.stream(spec, request_id), talker.client.stream(spec, request_id.upper())
    )
    third = await talker.client.stream(spec, request_id)
    assert first.error is None
    assert first.events == second.events == third.events
    assert len(await talker.turns()) == 1
    assert len(talker.told.requests) == 1


async def test_creating_is_idempotent(talker: Talker) -> None:
    request_id = str(uuid.uuid4())
    first = await talker.create(request_id=request_id, labels={"a": "1", "b": "2"})
    assert await talker.create(request_id=request_id.upper(), labels={"b": "2", "a": "1"}) == first
    other = await failure(talker.create(request_id=request_id, labels={"a": "2"}))
    assert other.reason == R.ERROR_REASON_REQUEST_ID_REUSED
    taken = await failure(talker.create())
    assert taken.reason == R.ERROR_REASON_ALREADY_EXISTS
    unnamed = await talker.create(conversation_id=None)
    assert unnamed.name.startswith("conversations/")
    assert unnamed.display_name == unnamed.name.removeprefix("conversations/")


async def test_many_that_create_the_same_make_one(talker: Talker) -> None:
    request_id = str(uuid.uuid4())
    made = await asyncio.gather(*(talker.create(request_id=request_id) for _ in range(8)))
    assert len({one.create_time.ToNanoseconds() for one in made}) == 1


async def test_lists_come_in_pages(talker: Talker) -> None:
    for number in range(5):
        await talker.create(conversation_id=f"c{number}")
    names: list[str] = []
    token = ""
    while True:
        page = await talker.stub.ListConversations(pb.ListConversationsRequest(page_size=2, page_token=token))
        names += [one.name for one in page.conversations]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"conversations/c{number}" for number in range(5)]


async def test_turns_come_in_pages_both_ways(talker: Talker) -> None:
    await talker.create()
    for number in range(5):
        await talker.say(str(number))
    for newest_first in (False, True):
        numbers: list[int] = []
        token = ""
        while True:
            request = pb.ListTurnsRequest(conversation=NAME, page_size=2, page_token=token, newest_first=newest_first)
            page = await talker.stub.ListTurns(request)
            numbers += [turn.number for turn in page.turns]
            token = page.next_page_token
            if not token:
                break
        assert numbers == ([5, 4, 3, 2, 1] if newest_first else [1, 2, 3, 4, 5])
    wrong = await failure(talker.stub.ListTurns(pb.ListTurnsRequest(conversation=NAME, page_token="bm90IGE=")))
    assert wrong.reason == R.ERROR_REASON_INVALID_REQUEST


async def test_clearing_leaves_the_conversation(talker: Talker) -> None:
    await talker.create()
    first = await talker.say("one")
    cleared = (await talker.stub.ClearConversation(pb.ClearConversationRequest(name=NAME))).conversation
    assert (cleared.name, cleared.turn_count) == (NAME, 0)
    assert await talker.turns() == []
    gone = await talker.client.resume(first.response)
    assert gone.error is not None
    assert gone.error.reason == R.ERROR_REASON_NOT_FOUND
    await talker.say("two")
    assert talker.told.texts == ["two"]
    assert [turn.number for turn in await talker.turns()] == [2]


async def test_deleting_takes_turns_and_responses_along(talker: Talker) -> None:
    await talker.create()
    seen = await talker.say("one")
    await talker.stub.DeleteConversation(pb.DeleteConversationRequest(name=NAME))
    for call in (
        talker.get(),
        talker.turns(),
        talker.stub.DeleteConversation(pb.DeleteConversationRequest(name=NAME)),
        talker.stub.ClearConversation(pb.ClearConversationRequest(name=NAME)),
        talker.client.chat.GetResponse(chat_pb.GetResponseRequest(response=seen.response)),
    ):
        assert (await failure(call)).reason == R.ERROR_REASON_NOT_FOUND
    await talker.create()
    await talker.say("anew")
    assert talker.told.texts == ["anew"]
    assert len(await talker.client.rows("attempts")) == 2


async def test_deleting_ends_what_runs(talker: Talker) -> None:
    await talker.create()
    spec = talker.spec("hello", "scripted/text?tokens=1000&delay_ms=20", when_busy=chat_pb.WHEN_BUSY_QUEUE)
    calls = [talker.client.chat.StreamChat(chat_pb.StreamChatRequest(spec=spec)) for _ in range(3)]
    begun = [await talker.client.collect(call, until=lambda seen: bool(seen.events)) for call in calls]
    await talker.stub.DeleteConversation(pb.DeleteConversationRequest(name=NAME))
    ended = [await talker.client.collect(call) for call in calls]
    assert len(begun) == 3
    assert {one.error.reason for one in ended if one.error is not None} == {R.ERROR_REASON_CANCELLED}
    assert all(one.error is not None for one in ended)
    assert talker.client.gateway.responses.running == 0


async def test_texts_that_a_database_may_not_like(talker: Talker) -> None:
    await talker.create(display_name="a\0b", labels={"k": "\N{SNOWMAN}"})
    seen = await talker.say("nul \0 and \N{SNOWMAN}")
    assert seen.error is None
    conversation = await talker.get()
    assert conversation.display_name == "a\N{REPLACEMENT CHARACTER}b"
    assert dict(conversation.labels) == {"k": "\N{SNOWMAN}"}
    [turn] = await talker.turns()
    assert turn.question[0].parts[0].text == "nul \0 and \N{SNOWMAN}"


async def test_the_history_is_cut_to_what_a_model_can_read(start: Any, ask: Any, database: dict[str, Any]) -> None:
    async with start({"conversations": {**database, "context_tokens": 300}}) as client:
        talker = Talker(client, ask)
        await talker.create()
        for number in range(6):
            await talker.say(f"{number}" * 100, "scripted/text?tokens=1")
        seen = await talker.say("last", "scripted/text?tokens=2")
    [notice] = [event.notice for _, event in seen.events if event.WhichOneof("kind") == "notice"]
    assert notice.code == NoticeCode.NOTICE_CODE_HISTORY_CUT
    sent, left_out = int(notice.metadata["turns_sent"]), int(notice.metadata["turns_left_out"])
    assert sent + left_out == 6
    assert 0 < sent < 6
    assert [text[0] for text in talker.told.texts[:-1:2]] == [str(number) for number in range(6 - sent, 6)]


async def test_what_cannot_be_recorded_is_told(start: Any, ask: Any) -> None:
    """The answer is paid for and stays; the next one finds the conversation free."""
    async with start() as client:
        talker = Talker(client, ask)
        await talker.create()
        await talker.say("one")
        database = client.gateway.conversations._database
        pause = pausing(client)
        call = client.chat.StreamChat(chat_pb.StreamChatRequest(spec=talker.spec("two", "scripted/text?tokens=30")))
        begun = await client.collect(call, until=lambda seen: "text_delta" in seen.kinds)
        await database.write(lambda session: session.connection().exec_driver_sql("ALTER TABLE turns RENAME TO away"))
        pause.go_on.set()
        ended = await client.collect(call)
        await database.write(lambda session: session.connection().exec_driver_sql("ALTER TABLE away RENAME TO turns"))
        third = await talker.say("three")
        turns = await talker.turns()
    assert begun.error is None
    assert ended.error is None
    assert ended.kinds[-2:] == ["notice", "completed"]
    assert ended.events[-2][1].notice.code == NoticeCode.NOTICE_CODE_TURN_NOT_RECORDED
    assert third.error is None
    assert talker.told.texts == ["one", "one", "three"]
    assert [turn.state for turn in turns] == [
        pb.TURN_STATE_COMPLETED,
        pb.TURN_STATE_FAILED,
        pb.TURN_STATE_COMPLETED,
    ]


async def test_without_the_database_only_conversations_fail(start: Any, ask: Any, tmp_path: Any) -> None:
    url = f"postgresql://nobody@/none?host={tmp_path}"
    async with start({"conversations": {"url": url}}) as client:
        talker = Talker(client, ask)
        refused = await talker.say("hello")
        unnamed = await client.stream(ask())
        made = await failure(talker.create())
    assert refused.events == []
    assert refused.error is not None
    assert refused.error.reason == made.reason == R.ERROR_REASON_STORE_UNAVAILABLE
    assert unnamed.error is None
