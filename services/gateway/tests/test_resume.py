"""Resuming: the same events with the same numbers, and the same end."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_kit.errors import from_rpc_error

from .pausing import pausing

R = ErrorReason
GRACE = {"detach_grace": {"seconds": 30}}


async def test_from_every_number_the_rest_is_the_same(client: Any, ask: Any) -> None:
    whole = await client.stream(ask("scripted/text?tokens=12&batch=5", **GRACE))
    for after in range(len(whole.events) + 1):
        rest = await client.resume(whole.response, after)
        assert rest.error is None
        assert rest.events == whole.events[after:]


async def test_a_client_that_left_finds_the_rest(client: Any, ask: Any) -> None:
    call = client.chat.StreamChat(pb.StreamChatRequest(spec=ask("scripted/text?tokens=40&delay_ms=5", **GRACE)))
    first = await client.collect(call, until=lambda seen: len(seen.events) >= 6)
    call.cancel()
    rest = await client.resume(first.response, first.numbers[-1])
    assert first.numbers + rest.numbers == list(range(1, len(first.events) + len(rest.events) + 1))
    assert len((first.text + rest.text).split()) == 40
    assert rest.kinds[-1] == "completed"


async def test_two_watchers_see_the_same(client: Any, ask: Any) -> None:
    call = client.chat.StreamChat(pb.StreamChatRequest(spec=ask("scripted/text?tokens=30&delay_ms=5", **GRACE)))
    first = await client.collect(call, until=lambda seen: bool(seen.events))
    second = asyncio.create_task(client.resume(first.response))
    rest = await client.collect(call)
    assert first.events + rest.events == (await second).events


async def test_a_failure_is_resumed_as_the_same_failure(client: Any, ask: Any) -> None:
    seen = await client.stream(ask("scripted/text?fault=cut@4"))
    again = await client.resume(seen.response, 2)
    assert again.events == seen.events[2:]
    assert again.error is not None
    assert seen.error is not None
    assert (again.error.reason, again.error.message) == (seen.error.reason, seen.error.message)


async def test_without_grace_leaving_cancels(client: Any, ask: Any, until: Any) -> None:
    call = client.chat.StreamChat(pb.StreamChatRequest(spec=ask("scripted/text?tokens=1000&delay_ms=20")))
    seen = await client.collect(call, until=lambda seen: "text_delta" in seen.kinds)
    call.cancel()
    await until(lambda: client.gateway.responses.running == 0)
    await until(lambda: client.mesh.servers["scripted"].dispatcher.in_flight == 0)
    described = await client.chat.GetResponse(pb.GetResponseRequest(response=seen.response))
    assert described.state == pb.ResponseState.RESPONSE_STATE_CANCELLED
    [attempt] = await client.rows("attempts")
    assert attempt["outcome"] == "cancelled"
    assert attempt["output_tokens"] > 0


async def test_the_grace_ends(client: Any, ask: Any, until: Any) -> None:
    spec = ask("scripted/text?tokens=1000&delay_ms=20", detach_grace={"nanos": 100_000_000})
    call = client.chat.StreamChat(pb.StreamChatRequest(spec=spec))
    seen = await client.collect(call, until=lambda seen: bool(seen.events))
    call.cancel()
    await until(lambda: client.gateway.responses.running == 0)
    described = await client.chat.GetResponse(pb.GetResponseRequest(response=seen.response))
    assert described.state == pb.ResponseState.RESPONSE_STATE_CANCELLED


async def test_in_the_background_it_ends_by_itself(client: Any, ask: Any, until: Any) -> None:
    spec = ask("scripted/text?tokens=20&delay_ms=5", background=True)
    call = client.chat.StreamChat(pb.StreamChatRequest(spec=spec), timeout=60)
    seen = await client.collect(call, until=lambda seen: bool(seen.events))
    call.cancel()
    await until(lambda: client.gateway.responses.running == 0)
    described = await client.chat.GetResponse(pb.GetResponseRequest(response=seen.response))
    assert described.state == pb.ResponseState.RESPONSE_STATE_COMPLETED
    assert len(described.answer.text.split()) == 20


async def test_a_deadline_only_detaches_where_there_is_a_grace(client: Any, ask: Any) -> None:
    pause, spec = pausing(client), ask("scripted/text?tokens=40", **GRACE)
    for seconds in (0.15, 2.0, 20.0):  # time enough to be accepted, on any machine
        seen = await client.collect(client.chat.StreamChat(pb.StreamChatRequest(spec=spec), timeout=seconds))
        if seen.events:
            break
    pause.go_on.set()
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_DEADLINE_EXCEEDED
    rest = await client.resume(seen.response, seen.numbers[-1])
    assert rest.kinds[-1] == "completed"


async def test_cancel_chat_ends_it_for_every_watcher(client: Any, ask: Any, until: Any) -> None:
    call = client.chat.StreamChat(pb.StreamChatRequest(spec=ask("scripted/text?tokens=1000&delay_ms=20", **GRACE)))
    seen = await client.collect(call, until=lambda seen: "text_delta" in seen.kinds)
    answer = await client.chat.CancelChat(pb.CancelChatRequest(response=seen.response))
    assert answer.state == pb.ResponseState.RESPONSE_STATE_CANCELLED
    rest = await client.collect(call)
    assert rest.error is not None
    assert rest.error.reason == R.ERROR_REASON_CANCELLED
    again = await client.chat.CancelChat(pb.CancelChatRequest(response=seen.response))
    assert again.state == pb.ResponseState.RESPONSE_STATE_CANCELLED
    await until(lambda: client.mesh.servers["scripted"].dispatcher.in_flight == 0)


async def test_events_that_are_no_longer_kept(start: Any, ask: Any) -> None:
    async with start({"log": {"response_bytes": 2000}}) as client:
        seen = await client.stream(ask("scripted/text?tokens=400"))
        assert seen.error is None
        early = await client.resume(seen.response)
        assert early.error is not None
        assert early.error.reason == R.ERROR_REASON_RESUME_WINDOW_EXPIRED
        oldest = int(early.error.metadata["first_sequence"])
        late = await client.resume(seen.response, oldest - 1)
        assert late.events == seen.events[oldest - 1 :]
        described = await client.chat.GetResponse(pb.GetResponseRequest(response=seen.response))
        assert described.answer.text == seen.text  # whole, although its beginning is no longer in the log
        assert described.last_sequence == len(seen.events)


async def test_after_the_window_the_finished_answer_is_left(start: Any, ask: Any, until: Any) -> None:
    request_id = str(uuid.uuid4())
    async with start({"log": {"retention_seconds": 0.05}}) as client:
        spec = ask("scripted/text?tokens=30")
        seen = await client.stream(spec, request_id)
        folded = (await client.chat.Chat(pb.ChatRequest(spec=spec, request_id=request_id))).answer
        response = await client.gateway.responses.get(seen.response, "local")
        await until(lambda: not response.log.batches())
        kept = client.gateway.responses.kept_bytes
        repeated, early = await client.stream(spec, request_id), await client.resume(seen.response, 3)
        for expired in (repeated, early):
            assert expired.events == []
            assert expired.error is not None
            assert expired.error.reason == R.ERROR_REASON_RESUME_WINDOW_EXPIRED
            assert expired.error.metadata["resource"] == seen.response
        last = await client.resume(seen.response, len(seen.events))
        assert (last.events, last.error) == ([], None)
        described = await client.chat.GetResponse(pb.GetResponseRequest(response=seen.response))
        assert described.state == pb.ResponseState.RESPONSE_STATE_COMPLETED
        assert described.answer.text == seen.text
        assert described.last_sequence == len(seen.events)
        again = (await client.chat.Chat(pb.ChatRequest(spec=spec, request_id=request_id))).answer
        assert again == folded
        assert client.gateway.responses.kept_bytes == kept


async def test_a_number_that_no_event_has_had_is_refused(client: Any, ask: Any) -> None:
    """Else a resume beyond the end of an answer would look like an answer that ended well."""
    call = client.chat.StreamChat(pb.StreamChatRequest(spec=ask("scripted/text?tokens=9&delay_ms=20", **GRACE)))
    seen = await client.collect(call, until=lambda seen: bool(seen.events))
    running = await client.resume(seen.response, 1000)
    whole = await client.collect(call)
    ended = await client.resume(seen.response, whole.numbers[-1] + 1)
    for refused in (running, ended):
        assert refused.error is not None
        assert refused.error.reason == R.ERROR_REASON_INVALID_REQUEST
        assert refused.error.violations[0].field == "after_sequence"


async def test_a_failure_that_is_kept_holds_no_frames(client: Any, ask: Any) -> None:
    """However often it is told: each telling would add to its traceback, and with it keep a call alive."""
    seen = await client.stream(ask("scripted/text?fault=cut@4"))
    error = (await client.gateway.responses.get(seen.response, "local")).error
    for _ in range(3):
        again = await client.resume(seen.response)
        assert again.error is not None
        assert (again.error.reason, again.error.metadata) == (error.reason, error.metadata)
        assert (error.__traceback__, error.__context__) == (None, None)


async def test_ended_responses_are_forgotten_after_a_while(start: Any, ask: Any, until: Any) -> None:
    async with start({"log": {"retention_seconds": 0.1, "answer_seconds": 0}}) as client:
        seen = await client.stream(ask())
        await until(lambda: client.gateway.responses.kept_bytes == 0)
        gone = await client.resume(seen.response)
    assert gone.error is not None
    assert gone.error.reason == R.ERROR_REASON_NOT_FOUND
    assert "no longer kept" in gone.error.message


async def test_the_oldest_are_forgotten_first_when_there_is_too_much(start: Any, ask: Any) -> None:
    async with start({"log": {"total_bytes": 20_000}}) as client:
        seen = [await client.stream(ask("scripted/text?tokens=50")) for _ in range(5)]
        assert (await client.resume(seen[0].response)).error is not None
        assert (await client.resume(seen[-1].response)).error is None
        assert client.gateway.responses.kept_bytes <= 20_000


@pytest.mark.parametrize("name", ["responses/none", "responses/1f-x", "responses/ffffffffffffffff-x"])
@pytest.mark.parametrize("method", ["ResumeChat", "CancelChat", "GetResponse"])
async def test_a_response_that_does_not_exist(client: Any, method: str, name: str) -> None:
    request = getattr(pb, f"{method}Request")(response=name)
    call = getattr(client.chat, method)(request)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if method == "ResumeChat" else call)
    assert from_rpc_error(caught.value).metadata == {"resource": name}
