"""Hedges: two attempts at one answer. The first content wins, the other is cancelled, and both are accounted for."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.chat.v1 import event_pb2 as ev
from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.provider.v1.provider_service_pb2 import GenerateResponse
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_gateway.pipeline.budget import Budget
from sluice_gateway.pipeline.hedge import Race
from sluice_gateway.pipeline.relay import Relay
from sluice_gateway.responses.log import unpack
from sluice_gateway.responses.response import Response
from sluice_kit.errors import make_error
from sluice_kit.identity import LOCAL_IDENTITY

from .pausing import pausing

R = ErrorReason
SLOW = "scripted/text?tokens=2&ttft_ms=60000"
FAST = "scripted/text?tokens=3"


def hedge(milliseconds: int) -> dict[str, Any]:
    return {"delay": {"seconds": milliseconds // 1000, "nanos": milliseconds % 1000 * 1_000_000}}


async def test_the_second_target_wins(start: Any, ask: Any, until: Any, placement: str) -> None:
    async with start(placement=placement) as client:
        seen = await client.stream(ask(SLOW, fallbacks=[FAST], hedge=hedge(20)))
        rows = await client.rows("attempts")
        if placement == "process":
            await until(lambda: client.mesh.servers["scripted"].dispatcher.in_flight == 0)
    assert seen.error is None
    assert seen.text == "the mesh answers"
    assert seen.numbers == list(range(1, len(seen.events) + 1))
    assert seen.kinds[:4] == ["accepted", "notice", "route_changed", "started"]
    notice, changed = seen.events[1][1].notice, seen.events[2][1].route_changed
    assert notice.code == ev.NoticeCode.NOTICE_CODE_HEDGED
    assert notice.metadata["target"] == FAST
    assert changed.attempt_id == notice.metadata["attempt_id"]
    assert changed.reason == R.ERROR_REASON_UPSTREAM_TIMEOUT
    assert changed.previous.model == SLOW.partition("/")[2]
    outcomes = [attempt.outcome for attempt in seen.last.completed.attempts]
    assert outcomes == [
        ev.AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED,
        ev.AttemptOutcome.ATTEMPT_OUTCOME_COMPLETED,
    ]
    assert [(row["number"], row["outcome"]) for row in rows] == [(1, "cancelled"), (2, "completed")]


async def test_the_first_target_wins(start: Any, ask: Any) -> None:
    first = "text?tokens=3&ttft_ms=50"
    routes = {"default": {"targets": [f"scripted/{first}", SLOW], "hedge_seconds": 0.01}}
    async with start({"routes": routes}) as client:
        pause = pausing(client, lambda request: request.target.model == first)
        call = client.chat.StreamChat(pb.StreamChatRequest(spec=ask("")))
        begun = await client.collect(call, until=lambda seen: "notice" in seen.kinds)
        pause.go_on.set()
        seen = await client.collect(call)
        seen.events = begun.events + seen.events
        not_hedged = await client.stream(ask("", hedge=hedge(0)))
        whole = await client.chat.Chat(pb.ChatRequest(spec=ask("")))
        rows = await client.rows("attempts")
    assert seen.error is None
    assert seen.kinds[:3] == ["accepted", "notice", "started"]
    assert "route_changed" not in seen.kinds
    assert "notice" not in not_hedged.kinds
    assert not whole.answer.notices
    outcomes = [row["outcome"] for row in rows]
    assert outcomes == ["completed", "cancelled", "completed", "completed"]


async def test_who_begins_in_time_is_not_hedged(client: Any, ask: Any) -> None:
    seen = await client.stream(ask("scripted/text?tokens=3", fallbacks=[SLOW], hedge=hedge(60_000)))
    assert seen.error is None
    assert "notice" not in seen.kinds
    assert len(await client.rows("attempts")) == 1


async def test_a_failure_before_the_delay_is_a_plain_fallback(start: Any, ask: Any) -> None:
    async with start({"limits": {"retries": 0}}) as client:
        model = "scripted/text?fault=UPSTREAM_OVERLOADED"
        seen = await client.stream(ask(model, fallbacks=[FAST], hedge=hedge(60_000)))
    assert seen.error is None
    assert seen.kinds[:3] == ["accepted", "route_changed", "started"]


async def test_hedges_are_a_share_of_all_answers(start: Any, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    resilience = {"hedge": {"share": 0.25, "reserve": 1}}
    affords, spend = asyncio.Queue[bool](), Budget.spend

    def watched(budget: Budget) -> bool:
        affordable = spend(budget)
        affords.put_nowait(affordable)
        return affordable

    async with start({"resilience": resilience}) as client:
        monkeypatch.setattr(Budget, "spend", watched)
        pause = pausing(client, lambda request: request.target.model == "text?tokens=1")
        notices = 0
        for _ in range(8):
            pause.go_on.clear()
            asked = asyncio.create_task(client.stream(ask("scripted/text?tokens=1", fallbacks=[FAST], hedge=hedge(5))))
            if not await affords.get():
                pause.go_on.set()
            seen = await asked
            assert seen.error is None
            notices += "notice" in seen.kinds
    assert notices == 2 or notices == 3


async def test_leaving_ends_both(client: Any, ask: Any, until: Any) -> None:
    other = "scripted/text?tokens=1&ttft_ms=50000"
    call = client.chat.StreamChat(pb.StreamChatRequest(spec=ask(SLOW, fallbacks=[other], hedge=hedge(5))))
    await client.collect(call, until=lambda seen: "notice" in seen.kinds)
    await until(lambda: client.mesh.servers["scripted"].dispatcher.in_flight == 2)
    call.cancel()
    await until(lambda: client.gateway.responses.running == 0)
    await until(lambda: client.mesh.servers["scripted"].dispatcher.in_flight == 0)
    assert [row["outcome"] for row in await client.rows("attempts")] == ["cancelled", "cancelled"]


async def test_a_winner_that_breaks_off_is_restarted(start: Any, ask: Any) -> None:
    async with start({"resilience": {"retry": {"initial_seconds": 0.001}}}) as client:
        spec = ask(
            SLOW,
            fallbacks=["scripted/text?tokens=4&fault=cut@2&times=1"],
            hedge=hedge(5),
            midstream_policy=pb.MidstreamPolicy.MIDSTREAM_POLICY_RESTART,
        )
        seen = await client.stream(spec)
        rows = await client.rows("attempts")
    assert seen.error is None
    assert seen.kinds.count("restarted") == 1
    assert [row["outcome"] for row in rows] == ["cancelled", "failed", "completed"]


async def test_a_hedge_that_cannot_be_recorded_leaves_the_first_alone(start: Any, ask: Any, until: Any) -> None:
    async with start() as client:
        ledger = client.gateway._ledger
        spec = ask("scripted/text?tokens=2&ttft_ms=200", fallbacks=[FAST], hedge=hedge(40))
        call = client.chat.StreamChat(pb.StreamChatRequest(spec=spec))
        await client.collect(call, until=lambda seen: "accepted" in seen.kinds)
        await ledger._writer.ask(lambda connection: connection.exec_driver_sql("ALTER TABLE attempts RENAME TO away"))
        hedges = client.gateway.pipeline._means.hedges
        await until(lambda: hedges._balance < 10)
        await ledger._writer.ask(lambda connection: connection.exec_driver_sql("ALTER TABLE away RENAME TO attempts"))
        seen = await client.collect(call)
    assert seen.error is None
    assert seen.kinds[-1] == "completed"


# The race alone, with every order of what two attempts may do.

STEPS = ("content", "fail", "refuse", "done")


@given(steps=st.permutations([(who, step) for who in (0, 1) for step in STEPS]), late=st.booleans())
def test_every_order_of_events_has_one_winner_and_ends_both(steps: list[tuple[int, str]], late: bool) -> None:
    asyncio.run(_race(steps, late))


async def _race(steps: list[tuple[int, str]], late: bool) -> None:
    response = Response(
        "r",
        LOCAL_IDENTITY,
        row_key=1,
        log_bytes=1 << 20,
        queue_bytes=1 << 20,
        on_growth=lambda size: None,
        on_end=lambda r: None,
    )
    relays = [Relay(response, AttemptRecord(n + 1, Target(provider="p", model=str(n))), None) for n in (0, 1)]
    orders: list[asyncio.Queue[str]] = [asyncio.Queue(), asyncio.Queue()]
    ended: list[Relay] = []

    async def attempt(relay: Relay) -> None:
        try:
            orders_of = orders[relays.index(relay)]
            relay.deliver(GenerateResponse(events=[ev.Event(started=ev.Started())]))
            while (step := await orders_of.get()) != "done":
                if step == "content":
                    text = ev.TextDelta(text=relay.record.target.model)
                    relay.deliver(GenerateResponse(events=[ev.Event(text_delta=text)]))
                else:
                    reason = R.ERROR_REASON_UPSTREAM_OVERLOADED if step == "fail" else R.ERROR_REASON_CONTENT_FILTERED
                    raise make_error(reason, step)
            relay.deliver(GenerateResponse(events=[ev.Event(completed=ev.Completed())]))
            relay.check_completed()
        finally:
            ended.append(relay)

    async def second(race: Race) -> Relay | None:
        return relays[1] if race.undecided() else None

    race = Race(relays[0], 0, attempt=attempt, second=second, abandon=ended.append)
    running = asyncio.create_task(race.run())
    if not late:
        await asyncio.sleep(0)
    for who, step in steps:
        orders[who].put_nowait(step)
        if late:
            await asyncio.sleep(0)
    relay, failure = await running
    shown = {event.text_delta.text for batch in response.log.batches() for event in unpack(batch)} - {""}
    assert len(shown) <= 1
    if failure is None or relay.committed:
        # A winner, whole or broken off: what is shown is its own.
        assert shown <= {relay.record.target.model}
    else:
        assert not shown
    assert len(ended) == len(set(map(id, ended)))
    assert relay in ended
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    response.done.cancel()
