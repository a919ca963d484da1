"""The log in Redis: several gateways serve one response, and nobody is left waiting for one that died."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis.asyncio as redis

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_gateway.responses.store import StoreUnavailableError

from .pausing import pausing

R = ErrorReason
GRACE = {"detach_grace": {"seconds": 30}}
SLOW = "scripted/text?tokens=10000&delay_ms=10"


@pytest.fixture
async def gateways(start: Any, redis_url: str, postgres_url: str) -> AsyncIterator[Any]:
    """Returns the function that starts another gateway on the same Redis and the same records."""
    async with AsyncExitStack() as stack:

        async def another(**settings: Any) -> Any:
            log = {"redis": {"url": redis_url, **settings}}
            section = {"replicas": 2, "log": log, "records": {"url": postgres_url}}
            return await stack.enter_async_context(start(section))

        yield another


def silenced(client: Any) -> asyncio.Event:
    """As if the gateway's process had stopped: it renews no lease, looks for nothing and writes nothing.

    Setting the event lets it go on.
    """
    store, going_on = client.gateway.responses._store, asyncio.Event()
    for task in store._tasks:
        task.cancel()
    append = store.append

    async def later(*arguments: Any) -> Any:
        await going_on.wait()
        return await append(*arguments)

    store.append = later
    return going_on


async def test_another_gateway_resumes_what_runs_and_what_ended(gateways: Any, ask: Any) -> None:
    one, two = await gateways(), await gateways()
    call = one.chat.StreamChat(pb.StreamChatRequest(spec=ask("scripted/text?tokens=60&delay_ms=10", **GRACE)))
    begun = await one.collect(call, until=lambda seen: len(seen.events) >= 5)
    there = asyncio.create_task(two.resume(begun.response, 2))
    rest = await one.collect(call)
    whole = begun.events + rest.events
    resumed = await there
    assert (resumed.error, resumed.events) == (None, whole[2:])
    for client in (one, two):
        for after in (0, 7, len(whole)):
            again = await client.resume(begun.response, after)
            assert (again.error, again.events) == (None, whole[after:])
    described = [await client.chat.GetResponse(pb.GetResponseRequest(response=begun.response)) for client in (one, two)]
    assert described[0] == described[1]
    assert described[0].answer.text == begun.text + rest.text


async def test_a_failure_is_the_same_everywhere(gateways: Any, ask: Any) -> None:
    one, two = await gateways(), await gateways()
    seen = await one.stream(ask("scripted/text?fault=cut@4"))
    again = await two.resume(seen.response, 1)
    assert again.events == seen.events[1:]
    assert (again.error.reason, again.error.message) == (seen.error.reason, seen.error.message)


async def test_another_gateway_cancels(gateways: Any, ask: Any, until: Any) -> None:
    one, two = await gateways(), await gateways()
    call = one.chat.StreamChat(pb.StreamChatRequest(spec=ask(SLOW, **GRACE)))
    seen = await one.collect(call, until=lambda seen: "text_delta" in seen.kinds)
    answer = await two.chat.CancelChat(pb.CancelChatRequest(response=seen.response))
    assert answer.state == pb.ResponseState.RESPONSE_STATE_CANCELLED
    assert (await one.collect(call)).error.reason == R.ERROR_REASON_CANCELLED
    await until(lambda: one.gateway.responses.running == 0)


async def test_a_request_id_is_one_for_all_gateways(gateways: Any, ask: Any) -> None:
    one, two = await gateways(), await gateways()
    spec, request_id = ask("scripted/text?tokens=20&delay_ms=5", **GRACE), str(uuid.uuid4())
    seen = await asyncio.gather(*(client.stream(spec, request_id) for client in (one, two, one, two)))
    assert all(view.error is None and view.events == seen[0].events for view in seen)
    assert len(await one.rows("responses")) == 1
    names = [[row["id"] for row in await client.rows("responses")] for client in (one, two)]
    assert names[0] == names[1]
    other = await two.stream(ask(text="other"), request_id)
    assert other.error.reason == R.ERROR_REASON_REQUEST_ID_REUSED
    folded = str(uuid.uuid4())
    answers = [await client.chat.Chat(pb.ChatRequest(spec=spec, request_id=folded)) for client in (one, two)]
    assert answers[0] == answers[1]


async def test_a_survivor_ends_what_a_dead_gateway_left(gateways: Any, ask: Any) -> None:
    one, two = await gateways(lease_seconds=1), await gateways(lease_seconds=1)
    call = one.chat.StreamChat(pb.StreamChatRequest(spec=ask(SLOW, **GRACE)))
    seen = await one.collect(call, until=lambda seen: len(seen.events) > 5)
    going_on = silenced(one)
    rest = await two.resume(seen.response)
    assert rest.error.reason == R.ERROR_REASON_RESPONSE_LOST
    assert rest.events[: len(seen.events)] == seen.events
    assert rest.numbers == list(range(1, len(rest.events) + 1))
    described = await two.chat.GetResponse(pb.GetResponseRequest(response=seen.response))
    assert described.state == pb.ResponseState.RESPONSE_STATE_FAILED
    assert described.answer.text == rest.text
    # What was given up for dead and was not, writes nothing any more, and tells the same end.
    going_on.set()
    last = await one.collect(call)
    assert seen.events + last.events == rest.events
    assert (last.error.reason, last.error.message) == (rest.error.reason, rest.error.message)


async def test_who_was_only_slow_tells_the_same_end(gateways: Any, ask: Any) -> None:
    one, two = await gateways(lease_seconds=1), await gateways(lease_seconds=1)
    call = one.chat.StreamChat(pb.StreamChatRequest(spec=ask(SLOW, **GRACE)))
    seen = await one.collect(call, until=lambda seen: len(seen.events) > 5)
    await two.gateway.responses._store._redis.delete(
        two.gateway.responses._store._of("lease", seen.response.removeprefix("responses/"))
    )
    mine = await one.collect(call)
    theirs = await two.resume(seen.response, len(seen.events))
    assert mine.error.reason == theirs.error.reason == R.ERROR_REASON_RESPONSE_LOST
    assert mine.error.message == theirs.error.message
    assert mine.events == theirs.events
    [row] = await one.rows("responses")
    assert (row["state"], row["reason"]) == ("failed", "RESPONSE_LOST")


async def test_the_window_is_bounded_in_redis_too(start: Any, redis_url: str, ask: Any) -> None:
    log = {"response_bytes": 2000, "retention_seconds": 600, "redis": {"url": redis_url}}
    async with start({"log": log}) as one, start({"log": log}) as two:
        seen = await one.stream(ask("scripted/text?tokens=400"))
        early = await two.resume(seen.response)
        assert early.error.reason == R.ERROR_REASON_RESUME_WINDOW_EXPIRED
        oldest = int(early.error.metadata["first_sequence"])
        late = await two.resume(seen.response, oldest - 1)
        assert late.events == seen.events[oldest - 1 :]
        key = two.gateway.responses._store._of("events", seen.response.removeprefix("responses/"))
        async with redis.Redis.from_url(redis_url) as client:
            assert 0 < await client.pttl(key) <= 600_000
            await client.delete(key)  # as Redis will by itself
        gone = await two.resume(seen.response, oldest - 1)
        assert gone.error.reason == R.ERROR_REASON_RESUME_WINDOW_EXPIRED
        described = await two.chat.GetResponse(pb.GetResponseRequest(response=seen.response))
        assert described.answer.text == seen.text
        assert described.last_sequence == len(seen.events)


@pytest.mark.parametrize("on_loss", ["fail", "unlogged"])
async def test_without_redis_running_ones_end_or_go_on_and_new_ones_are_refused(
    gateways: Any, own_redis: Any, ask: Any, on_loss: str
) -> None:
    client = await gateways(on_loss=on_loss, url=own_redis.url)
    pause, spec = pausing(client), ask("scripted/text?tokens=60&delay_ms=5", **GRACE)
    call = client.chat.StreamChat(pb.StreamChatRequest(spec=spec))
    begun = await client.collect(call, until=lambda seen: "text_delta" in seen.kinds)
    own_redis.kill()
    pause.go_on.set()
    rest = await client.collect(call)
    assert begun.numbers + rest.numbers == list(range(1, len(begun.events) + len(rest.events) + 1))
    if on_loss == "fail":
        assert rest.error.reason == R.ERROR_REASON_RESPONSE_LOST
    else:
        assert rest.error is None
        assert len((begun.text + rest.text).split()) == 60
    refused, request_id = await client.stream(spec), str(uuid.uuid4())
    named = await client.stream(spec, request_id)
    for one in (refused, named):
        assert one.events == []
        assert one.error.reason == R.ERROR_REASON_STORE_UNAVAILABLE
        assert one.error.retryable
    assert len(await client.rows("attempts")) == 1
    own_redis.start()
    assert (await client.stream(spec, request_id)).error is None


async def test_while_redis_is_away_one_at_a_time_asks_for_it(
    gateways: Any, own_redis: Any, ask: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await gateways(url=own_redis.url)
    store = client.gateway.responses._store
    own_redis.kill()
    assert (await client.stream(ask())).error.reason == R.ERROR_REASON_STORE_UNAVAILABLE
    gate = asyncio.Event()

    async def hang(command: Any) -> Any:
        command.close()
        await gate.wait()
        raise StoreUnavailableError("hangs")

    with monkeypatch.context() as patched:
        patched.setattr(store, "_ask", hang)
        asking = asyncio.create_task(client.stream(ask()))
        await until(lambda: store._opening == 1)
        # It would wait for the gate, too, if it asked.
        assert (await client.stream(ask())).error.reason == R.ERROR_REASON_STORE_UNAVAILABLE
        gate.set()
        assert (await asking).error.reason == R.ERROR_REASON_STORE_UNAVAILABLE
    assert store._opening == 0
    own_redis.start()
    assert (await client.stream(ask())).error is None


async def test_of_another_tenant_nothing_is_found(gateways: Any, ask: Any) -> None:
    one, two = await gateways(), await gateways()
    seen = await one.stream(ask())
    store = two.gateway.responses._store
    assert await store.find(seen.response.removeprefix("responses/"), "other") is None
    assert await store.find(seen.response.removeprefix("responses/"), "local") is not None


async def test_what_is_left_in_redis_goes_away_by_itself(gateways: Any, redis_url: str, ask: Any) -> None:
    one = await gateways()
    await one.stream(ask(), str(uuid.uuid4()))
    await one.stream(ask("scripted/text?fault=UPSTREAM_OVERLOADED"))
    async with redis.Redis.from_url(redis_url) as client:
        keys: list[Any] = await client.keys("*")
        assert keys
        assert all([await client.pttl(key) > 0 for key in keys])
        assert not [key for key in keys if key.endswith(b":lease")]


async def test_a_restart_counts_what_redis_has_yet_to_take(gateways: Any, ask: Any) -> None:
    one, two = await gateways(), await gateways()
    policy = pb.MidstreamPolicy.MIDSTREAM_POLICY_RESTART
    seen = await one.stream(ask("scripted/text?tokens=30&fault=cut@12&times=1", midstream_policy=policy))
    assert seen.error is None
    [restarted] = [event.restarted for _, event in seen.events if event.HasField("restarted")]
    first = min(number for number, event in seen.events if event.HasField("text_delta"))
    assert 1 < restarted.discard_from <= first
    request = pb.GetResponseRequest(response=seen.response)
    described = [await client.chat.GetResponse(request) for client in (one, two)]
    assert described[0] == described[1]
    assert len(described[0].answer.text.split()) == 30


async def test_many_commands_at_once_take_turns(gateways: Any) -> None:
    store = (await gateways()).gateway.responses._store
    asked = [asyncio.ensure_future(store.ping()) for _ in range(300)]
    await asyncio.sleep(0)
    for one in asked[200:]:
        one.cancel()
    done = await asyncio.gather(*asked, return_exceptions=True)
    assert done[:200] == [None] * 200
    assert {type(one) for one in done[200:]} == {asyncio.CancelledError}
    await store.ping()
