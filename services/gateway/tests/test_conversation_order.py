"""One answer at a time in a conversation: refused or queued, in order, and nothing left behind by whoever goes."""

import asyncio
from pathlib import Path
from typing import Any

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice.gateway.v1 import conversation_service_pb2 as pb

from .pausing import pausing
from .talking import NAME, Talker, failure

R = ErrorReason
SLOW = "scripted/text?tokens=10000&delay_ms=20"
QUEUE = chat_pb.WHEN_BUSY_QUEUE


def begin(talker: Talker, spec: chat_pb.ChatSpec, **options: Any) -> Any:
    return talker.client.chat.StreamChat(chat_pb.StreamChatRequest(spec=spec), **options)


async def speaks(talker: Talker, spec: chat_pb.ChatSpec) -> Any:
    """Begins an answer and returns its call when the model speaks."""
    call = begin(talker, spec)
    seen = await talker.client.collect(call, until=lambda seen: "text_delta" in seen.kinds)
    assert seen.error is None
    return call


async def waits(talker: Talker, spec: chat_pb.ChatSpec, **options: Any) -> Any:
    """Begins an answer and returns its call when it is accepted."""
    call = begin(talker, spec, **options)
    seen = await talker.client.collect(call, until=lambda seen: bool(seen.events))
    assert seen.kinds == ["accepted"]
    return call


async def test_a_second_answer_at_the_same_time_is_refused(talker: Talker) -> None:
    await talker.create()
    running = await speaks(talker, talker.spec("one", SLOW))
    refused = await talker.say("two")
    assert refused.events == []
    assert refused.error is not None
    assert refused.error.reason == R.ERROR_REASON_CONVERSATION_BUSY
    assert refused.error.metadata["resource"] == NAME
    assert refused.error.retry_after is not None
    cleared = await failure(talker.stub.ClearConversation(pb.ClearConversationRequest(name=NAME)))
    assert cleared.reason == R.ERROR_REASON_CONVERSATION_BUSY
    await talker.create(conversation_id="other")
    assert (await talker.say("elsewhere", conversation="conversations/other")).error is None
    running.cancel()
    assert (await talker.say("three", when_busy=QUEUE)).error is None
    assert [turn.question[0].parts[0].text for turn in await talker.turns()] == ["one", "three"]


async def test_who_waits_keeps_the_order_of_arrival(talker: Talker, until: Any) -> None:
    await talker.create()
    pause = pausing(talker.client)
    first = await speaks(talker, talker.spec("q0", "scripted/text?tokens=40"))
    calls = [await waits(talker, talker.spec(f"q{number}", when_busy=QUEUE)) for number in range(1, 9)]
    assert len(talker.told.requests) == 1
    pause.go_on.set()
    ended = await asyncio.gather(*(talker.client.collect(call) for call in [first, *calls]))
    assert all(seen.error is None for seen in ended)
    assert [turn.question[0].parts[0].text for turn in await talker.turns()] == [f"q{n}" for n in range(9)]
    # Each was told all that was said before it, the one that it waited for included.
    assert [len(request.messages) for request in talker.told.requests] == [2 * number + 1 for number in range(9)]
    await until(lambda: talker.client.gateway.conversations._order.idle)


async def test_many_at_once_keep_one_order(talker: Talker) -> None:
    await talker.create()
    asked = [f"q{number}" for number in range(16)]
    seen = await asyncio.gather(*(talker.say(text, when_busy=QUEUE) for text in asked))
    assert all(one.error is None for one in seen)
    turns = await talker.turns()
    assert sorted(turn.question[0].parts[0].text for turn in turns) == sorted(asked)
    for position, turn in enumerate(turns):
        request = talker.told.requests[position]
        assert request.messages[-1] == turn.question[0]
        assert len(request.messages) == 2 * position + 1


async def test_the_queue_is_bounded(start: Any, ask: Any) -> None:
    async with start({"conversations": {"max_waiting": 2}}) as client:
        talker = Talker(client, ask)
        await talker.create()
        running = await speaks(talker, talker.spec("one", SLOW))
        calls = [await waits(talker, talker.spec("more", SLOW, when_busy=QUEUE)) for _ in range(2)]
        refused = await talker.say("too many", when_busy=QUEUE)
        calls[0].cancel()
        third = await _eventually(talker, talker.spec("room again", when_busy=QUEUE))
        for call in (running, *calls):
            call.cancel()
        assert (await client.collect(third)).error is None
    assert refused.error is not None
    assert refused.error.reason == R.ERROR_REASON_CONVERSATION_BUSY


async def _eventually(talker: Talker, spec: chat_pb.ChatSpec) -> Any:
    """Asks until the gateway has noticed that somebody left."""
    while True:
        call = begin(talker, spec)
        seen = await talker.client.collect(call, until=lambda seen: bool(seen.events))
        if seen.error is None:
            return call


async def test_who_leaves_the_queue_holds_up_nobody(talker: Talker) -> None:
    await talker.create()
    first = await speaks(talker, talker.spec("one", SLOW))
    calls = [await waits(talker, talker.spec(f"q{number}", when_busy=QUEUE)) for number in range(4)]
    for call in (calls[0], calls[2], first):
        call.cancel()
    for call in (calls[1], calls[3]):
        assert (await talker.client.collect(call)).error is None
    said = [(turn.question[0].parts[0].text, turn.state) for turn in await talker.turns()]
    assert said == [
        ("one", pb.TURN_STATE_CANCELLED),
        ("q1", pb.TURN_STATE_COMPLETED),
        ("q3", pb.TURN_STATE_COMPLETED),
    ]


async def test_who_waits_has_no_more_time_than_it_asked_for(talker: Talker) -> None:
    await talker.create()
    running = await speaks(talker, talker.spec("one", SLOW))
    spec = talker.spec("two", when_busy=QUEUE)
    for milliseconds in (50, 1000, 20_000):  # time enough to be accepted, on any machine
        spec.max_duration.FromMilliseconds(milliseconds)
        late = await talker.client.stream(spec)
        if late.events:
            break
    assert late.kinds == ["accepted"]
    assert late.error is not None
    assert late.error.reason == R.ERROR_REASON_DEADLINE_EXCEEDED
    running.cancel()
    assert (await talker.say("three", when_busy=QUEUE)).error is None
    # What never had its turn is none.
    assert [turn.question[0].parts[0].text for turn in await talker.turns()] == ["one", "three"]


async def test_a_crash_leaves_no_lock_and_no_half_turn(start: Any, ask: Any, tmp_path: Path) -> None:
    """The files as they stand in the middle of an answer are what a kill -9 leaves behind."""
    async with start() as client:
        talker = Talker(client, ask)
        await talker.create()
        await talker.say("one")
        call = await speaks(talker, talker.spec("two", SLOW))
        source = client.mesh.document.state_dir() / "gateway"
        target = tmp_path / "gateway"
        target.mkdir()
        for file in source.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        call.cancel()
    async with start(state_dir=str(tmp_path)) as client:
        talker = Talker(client, ask)
        lost = (await talker.turns())[1]
        seen = await talker.say("three")
    assert lost.state == pb.TURN_STATE_FAILED
    assert lost.HasField("end_time")
    assert "RESPONSE_LOST" in str(lost.error)
    assert seen.error is None
    assert talker.told.texts == ["one", "one", "three"]


async def test_two_gateways_that_share_a_database_keep_one_order(start: Any, ask: Any, postgres: Any) -> None:
    settings = {"conversations": {"url": postgres.new_database()}}
    async with start(settings) as one, start(settings) as two:
        here, there = Talker(one, ask), Talker(two, ask)
        await here.create()
        pause = pausing(one)
        running = await speaks(here, here.spec("one", "scripted/text?tokens=60"))
        refused = await there.say("two")
        pause.go_on.set()
        seen, last = await asyncio.gather(one.collect(running), there.say("three", when_busy=QUEUE))
        turns = await there.turns()
    assert refused.events == []
    assert refused.error is not None
    assert refused.error.reason == R.ERROR_REASON_CONVERSATION_BUSY
    assert seen.error is None
    assert last.error is None
    assert [turn.question[0].parts[0].text for turn in turns] == ["one", "three"]
    assert there.told.texts[0] == "one"
    assert len(there.told.requests[-1].messages) == 3


async def test_a_gateway_that_died_is_outlived_by_its_lease_alone(start: Any, ask: Any, postgres: Any) -> None:
    """Another gateway goes on as soon as the lease is over, and what the dead one still writes counts no more."""
    url = postgres.new_database()
    async with (
        start({"conversations": {"url": url, "lease_seconds": 600}}) as one,
        start({"conversations": {"url": url}}) as two,
    ):
        here, there = Talker(one, ask), Talker(two, ask)
        await here.create()
        pause = pausing(one)
        running = await speaks(here, here.spec("one", "scripted/text?tokens=60"))
        database = one.gateway.conversations._database
        await database.write(lambda session: session.connection().exec_driver_sql("UPDATE turns SET lease_ns = 1"))
        taken = await there.say("two")
        pause.go_on.set()
        ended = await one.collect(running)
        turns = await there.turns()
    assert taken.error is None
    assert ended.error is None
    assert [turn.state for turn in turns] == [pb.TURN_STATE_FAILED, pb.TURN_STATE_COMPLETED]


async def test_a_gateway_that_comes_back_ends_what_it_left(start: Any, ask: Any, postgres: Any, tmp_path: Path) -> None:
    """Its state folder says who it is, so it need not wait for its own lease."""
    settings = {"conversations": {"url": postgres.new_database(), "lease_seconds": 600}}
    async with start(settings, state_dir=str(tmp_path)) as client:
        talker = Talker(client, ask)
        await talker.create()
        await talker.say("one")
        database = client.gateway.conversations._database
        half = "UPDATE turns SET state = 'running', answer = NULL, end_ns = NULL"
        await database.write(lambda session: session.connection().exec_driver_sql(half))
    async with start(settings, state_dir=str(tmp_path)) as client:
        talker = Talker(client, ask)
        [turn] = await talker.turns()
        assert turn.state == pb.TURN_STATE_FAILED
        assert (await talker.say("two")).error is None


async def test_the_database_may_be_restarted(start: Any, ask: Any, postgres: Any) -> None:
    async with start({"conversations": {"url": postgres.new_database()}}) as client:
        talker = Talker(client, ask)
        await talker.create()
        await talker.say("one")
        postgres.stop()
        away = await talker.say("two")
        postgres.start()
        back = await talker.say("three")
    assert away.error is not None
    assert away.error.reason == R.ERROR_REASON_STORE_UNAVAILABLE
    assert back.error is None
    assert talker.told.texts == ["one", "one", "three"]


async def test_a_shared_log_forgets_with_the_conversation(
    start: Any, ask: Any, postgres_url: str, redis_url: str, until: Any
) -> None:
    """With a log in Redis and turns in Postgres any gateway serves, cancels and forgets what another one made."""
    settings = {
        "replicas": 2,
        "log": {"redis": {"url": redis_url}},
        "records": {"url": postgres_url},  # and so the conversations', too
    }
    async with start(settings) as one, start(settings) as two:
        here, there = Talker(one, ask), Talker(two, ask)
        await here.create()
        ended = await here.say("one")
        running = await speaks(here, here.spec("two", SLOW))
        resumed = await two.resume(ended.response)
        turns = await there.turns()
        await there.stub.DeleteConversation(pb.DeleteConversationRequest(name=NAME))
        cancelled = await one.collect(running)
        await until(lambda: one.gateway.responses.running == 0)
        while (gone := await two.resume(ended.response)).error is None:
            pass  # forgetting goes on after the answer
    assert resumed.events == ended.events
    assert [part.text for part in turns[0].answer.parts] == [ended.text]
    assert cancelled.error is not None
    assert cancelled.error.reason == R.ERROR_REASON_CANCELLED
    assert gone.error.reason == R.ERROR_REASON_NOT_FOUND
