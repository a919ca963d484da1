"""Time limits, admission, slow readers, shutdown."""

import asyncio
from typing import Any

import grpc
import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_kit.channels import open_channel
from sluice_kit.errors import from_rpc_error
from sluice_kit.server import shut_down

R = ErrorReason
STUCK = "scripted/text?tokens=5&fault=stall@2"


@pytest.mark.parametrize(
    ("limits", "model", "limit"),
    [
        ({"ttft_seconds": 0.2}, "scripted/text?ttft_ms=20000", "ttft"),
        ({"idle_seconds": 0.2}, STUCK, "idle"),
        # The first content comes later than the idle limit is long.
        ({"ttft_seconds": 1000, "idle_seconds": 0.2}, f"{STUCK}&ttft_ms=500", "idle"),
    ],
)
async def test_a_silent_upstream_is_given_up(
    start: Any, ask: Any, until: Any, placement: str, limits: dict[str, float], model: str, limit: str
) -> None:
    async with start({"limits": limits}, placement) as client:
        seen = await client.stream(ask(model))
        assert seen.error is not None
        assert seen.error.reason == R.ERROR_REASON_UPSTREAM_TIMEOUT
        assert seen.error.metadata["limit"] == limit
        if placement == "process":
            await until(lambda: client.mesh.servers["scripted"].dispatcher.in_flight == 0)
        [attempt] = await client.rows("attempts")
        assert (attempt["outcome"], attempt["reason"]) == ("failed", "UPSTREAM_TIMEOUT")


async def test_in_the_background_nobody_waits_for_the_first_token(start: Any, ask: Any, placement: str) -> None:
    """It may stand in a vendor's queue; a vendor that gives no sign of life is given up all the same."""
    async with start({"limits": {"ttft_seconds": 0.1, "idle_seconds": 60}}, placement) as client:
        seen = await client.stream(ask("scripted/text?tokens=2&ttft_ms=400", background=True))
        assert seen.error is None
    async with start({"limits": {"ttft_seconds": 0.1, "idle_seconds": 0.3}}, placement) as client:
        seen = await client.stream(ask("scripted/text?tokens=2&ttft_ms=20000", background=True))
        assert seen.error is not None
        assert seen.error.metadata["limit"] == "idle"


async def test_max_duration_bounds_the_whole_response(start: Any, ask: Any, until: Any, placement: str) -> None:
    async with start(placement=placement) as client:
        for milliseconds in (200, 2000, 20_000):  # time enough to begin an attempt, on any machine
            duration = {"seconds": milliseconds // 1000, "nanos": milliseconds % 1000 * 1_000_000}
            seen = await client.stream(ask(STUCK, max_duration=duration))
            assert seen.error is not None
            assert seen.error.reason == R.ERROR_REASON_DEADLINE_EXCEEDED
            await until(lambda: client.gateway.responses.running == 0)
            if attempts := await client.rows("attempts"):
                break
        [attempt] = attempts
        assert attempt["outcome"] in ("cancelled", "failed")


async def test_the_deadline_of_the_call_bounds_it_too(client: Any, ask: Any, until: Any) -> None:
    seen = await client.stream(ask(STUCK), timeout=0.2)
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_DEADLINE_EXCEEDED
    await until(lambda: client.gateway.responses.running == 0)
    await until(lambda: client.mesh.servers["scripted"].dispatcher.in_flight == 0)


async def test_above_the_limit_is_refused_at_once(start: Any, ask: Any, until: Any) -> None:
    async with start({"admission": {"in_flight": 2}}) as client:
        calls = [client.chat.StreamChat(pb.StreamChatRequest(spec=ask(STUCK))) for _ in range(2)]
        await until(lambda: client.gateway.responses.running == 2)
        refused = await client.stream(ask())
        assert refused.error is not None
        assert refused.error.reason == R.ERROR_REASON_TOO_MANY_IN_FLIGHT
        assert refused.error.retry_after
        assert "may: 2 (gateway.admission.in_flight)" in refused.error.message
        assert refused.error.metadata == {"rule": "gateway.admission.in_flight", "limit": "2"}
        for call in calls:
            call.cancel()
        await until(lambda: client.gateway.responses.running == 0)
        assert (await client.stream(ask())).error is None


async def test_silence_is_filled_with_heartbeats(start: Any, ask: Any) -> None:
    async with start({"watchers": {"heartbeat_seconds": 0.1}}) as client:
        call = client.chat.StreamChat(pb.StreamChatRequest(spec=ask(STUCK)))
        seen = await client.collect(call, until=lambda seen: seen.heartbeats >= 1)
        assert seen.numbers == list(range(1, len(seen.events) + 1))  # a heartbeat has no number
        call.cancel()


async def test_a_client_that_stops_reading_is_ended_and_can_resume(start: Any, ask: Any, until: Any) -> None:
    watchers = {"stall_seconds": 0.5, "queue_bytes": 65536}
    async with start({"watchers": watchers, "log": {"response_bytes": 32 * 1024 * 1024}}) as client:
        # A small window, and no reading: what grpc buffers is soon full.
        options = {"grpc.http2.lookahead_bytes": 65536, "grpc.http2.bdp_probe": 0}
        async with open_channel(client.mesh.address, options) as slow:
            spec = ask("scripted/text?tokens=60000&batch=500", detach_grace={"seconds": 60})
            call: Any = slow.unary_stream(
                "/sluice.gateway.v1.ChatService/StreamChat",
                pb.StreamChatRequest.SerializeToString,
                pb.StreamChatResponse.FromString,
            )(pb.StreamChatRequest(spec=spec))
            first = await call.read()
            name = first.events[0].accepted.response
            response = await client.gateway.responses.get(name, "local")
            # The upstream was held back while the client was behind: nothing near the whole answer is in the log.
            await until(lambda: not response.watchers)
            seen = await client.resume(name)
            assert seen.error is None
            assert seen.numbers == list(range(1, len(seen.events) + 1))
            assert len(seen.text.split()) == 60000
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while await call.read() is not grpc.aio.EOF:
                    pass
            assert from_rpc_error(caught.value).reason == R.ERROR_REASON_WATCHER_STALLED


async def test_a_slow_client_holds_the_upstream_back(start: Any, ask: Any, until: Any) -> None:
    async with start({"watchers": {"queue_bytes": 65536}, "log": {"response_bytes": 32 * 1024 * 1024}}) as client:
        options = {"grpc.http2.lookahead_bytes": 65536, "grpc.http2.bdp_probe": 0}
        async with open_channel(client.mesh.address, options) as slow:
            call: Any = slow.unary_stream(
                "/sluice.gateway.v1.ChatService/StreamChat",
                pb.StreamChatRequest.SerializeToString,
                pb.StreamChatResponse.FromString,
            )(pb.StreamChatRequest(spec=ask("scripted/text?tokens=200000&batch=500")))
            name = (await call.read()).events[0].accepted.response
            response = await client.gateway.responses.get(name, "local")
            # The queue fills, and stays full: no more is read from the adapter than fits. Else all of it would be soon.
            held = 0
            while held <= 65536 or response.log.written > held:
                held = response.log.written
                await asyncio.sleep(0.3)
            assert response.log.last_sequence < 200_000
            call.cancel()
        await until(lambda: client.gateway.responses.running == 0)


async def test_shutdown_is_announced_and_ends_what_remains(start: Any, ask: Any) -> None:
    async with start() as client:
        call = client.chat.StreamChat(
            pb.StreamChatRequest(spec=ask("scripted/text?tokens=1000&delay_ms=10", detach_grace={"seconds": 5}))
        )
        await client.collect(call, until=lambda seen: "text_delta" in seen.kinds)
        stopping = asyncio.create_task(shut_down(client.gateway, client.mesh.servers["gateway"], 0.5))
        seen = await client.collect(call)
        await stopping
        assert seen.going_away == 1
        assert seen.error is not None
        assert client.gateway.responses.running == 0
