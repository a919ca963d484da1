"""Following the health of integrations: what is seen, by whom, and that nothing of it stays behind."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import integration_service_pb2 as pb
from sluice.gateway.v1 import integration_service_pb2_grpc as pb_grpc
from sluice_gateway import health
from sluice_kit.errors import SluiceError, from_rpc_error
from sluice_kit.server import shut_down

from .adapter import Adapter

R = ErrorReason
AVAILABLE = pb.HealthState.HEALTH_STATE_AVAILABLE
MISCONFIGURED = pb.HealthState.HEALTH_STATE_MISCONFIGURED
UNAVAILABLE = pb.HealthState.HEALTH_STATE_UNAVAILABLE
UNREACHABLE = pb.HealthState.HEALTH_STATE_UNREACHABLE
QUICK = {"poll_seconds": 0.01, "probe_seconds": 0.02, "background_seconds": 0.0}


@pytest.fixture
def address(tmp_path: Path) -> str:
    """Where a test's adapter listens."""
    return f"unix:{tmp_path}/fake.sock"


@pytest.fixture
async def adapter(address: str) -> AsyncIterator[Adapter]:
    adapter = Adapter()
    async with adapter.serving(address):
        yield adapter


def settings(address: str, **health_settings: float) -> dict[str, Any]:
    """Settings of a gateway that knows the test's adapter, beside `scripted`."""
    return {"integrations": {"fake": {"address": address}}, "health": QUICK | health_settings}


class Watch:
    """A watch and what it has shown."""

    def __init__(self, client: Any, integration: str = "") -> None:
        stub: Any = pb_grpc.IntegrationServiceStub(client.channel)
        self.call = stub.WatchIntegrationHealth(pb.WatchIntegrationHealthRequest(integration=integration))
        self.heartbeats = 0

    async def next(self) -> pb.Integration:
        """Returns the next state."""
        while True:
            message = await self.call.read()
            assert message is not grpc.aio.EOF
            if message.HasField("integration"):
                found: pb.Integration = message.integration
                return found
            self.heartbeats += 1

    async def until(self, integration: str, state: "pb.HealthState.ValueType") -> pb.IntegrationHealth:
        """Returns the first health of an integration that is in a state."""
        while True:
            one = await self.next()
            if one.id == integration and one.health.state == state:
                return one.health

    async def failure(self) -> SluiceError:
        """Reads to the end and returns what it ended with."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while await self.call.read() is not grpc.aio.EOF:
                pass
        return from_rpc_error(caught.value)


async def test_the_present_comes_first_and_then_each_change(start: Any, address: str, adapter: Adapter) -> None:
    async with start(settings(address)) as client:
        watch = Watch(client)
        first = [await watch.next() for _ in range(2)]
        assert [(one.id, one.adapter, one.health.state) for one in first] == [
            ("fake", "fake", AVAILABLE),
            ("scripted", "scripted", AVAILABLE),
        ]
        if first[0].health.version != "1.0":  # seen before its probe had ended
            assert (await watch.next()).health.version == "1.0"
        # Many looks with another latency and time each, and nothing that changed.
        probes = adapter.probes
        while adapter.probes < probes + 3:
            adapter.asked.clear()
            await adapter.asked.wait()
        adapter.status.available = False
        adapter.status.missing_settings.append("FAKE_KEY")
        changed = await watch.next()
        assert (changed.id, changed.health.state) == ("fake", MISCONFIGURED)
        assert list(changed.health.missing_settings) == ["FAKE_KEY"]
        assert changed.health.detail == "set FAKE_KEY"
        assert changed.health.reason == R.ERROR_REASON_INTEGRATION_MISCONFIGURED
        adapter.status.missing_settings.append("FAKE_URL")
        assert list((await watch.next()).health.missing_settings) == ["FAKE_KEY", "FAKE_URL"]
        del adapter.status.missing_settings[:]
        adapter.status.last_error = R.ERROR_REASON_UPSTREAM_OVERLOADED
        adapter.status.detail = "busy"
        changed = await watch.next()
        assert (changed.health.state, changed.health.reason, changed.health.detail) == (
            UNAVAILABLE,
            R.ERROR_REASON_UPSTREAM_OVERLOADED,
            "busy",
        )
        adapter.status.available = True
        assert (await watch.next()).health.state == AVAILABLE
        adapter.version = "2.0"
        assert (await watch.next()).health.version == "2.0"
        watch.call.cancel()


async def test_one_integration_alone(start: Any, address: str, adapter: Adapter) -> None:
    async with start(settings(address, probe_seconds=1000.0)) as client:
        watch = Watch(client, "scripted")
        assert (await watch.next()).id == "scripted"
        assert not adapter.polls
        assert client.gateway.monitor.running == 1
        watch.call.cancel()
        failure = await Watch(client, "nobody").failure()
        assert failure.reason == R.ERROR_REASON_MODEL_NOT_FOUND
        assert "fake, scripted" in failure.message


async def test_a_restart_of_an_adapter_is_seen(start: Any, address: str) -> None:
    adapter = Adapter()
    async with contextlib.AsyncExitStack() as running, start(settings(address)) as client:
        await running.enter_async_context(adapter.serving(address))
        watch = Watch(client)
        await watch.until("fake", AVAILABLE)
        await running.aclose()
        gone = await watch.until("fake", UNREACHABLE)
        # Which of the two is seen first depends on when it is asked.
        assert gone.reason in (R.ERROR_REASON_DRAINING, R.ERROR_REASON_SERVICE_UNREACHABLE)
        assert gone.detail
        assert not gone.version
        adapter.version = "1.1"
        async with adapter.serving(address):
            await watch.until("fake", AVAILABLE)
            watch.call.cancel()


async def test_an_adapter_that_ends_in_the_midst_of_a_question_is_unreachable(start: Any, address: str) -> None:
    adapter = Adapter()
    async with contextlib.AsyncExitStack() as running, start(settings(address)) as client:
        await running.enter_async_context(adapter.serving(address))
        watch = Watch(client)
        await watch.until("fake", AVAILABLE)
        adapter.hangs = True
        adapter.asked.clear()
        await adapter.asked.wait()
        await running.aclose()
        gone = await watch.until("fake", UNREACHABLE)
        assert gone.reason == R.ERROR_REASON_SERVICE_UNREACHABLE
        assert "fake" in gone.detail
        watch.call.cancel()


async def test_a_slow_adapter_delays_no_other(start: Any, address: str, adapter: Adapter) -> None:
    adapter.hangs = True
    async with start(settings(address)) as client:
        watch = Watch(client)
        first = [await watch.next() for _ in range(2)]
        assert [one.id for one in first] == ["fake", "scripted"]
        assert not first[0].HasField("health")
        assert first[1].health.state == AVAILABLE
        silent = await watch.until("fake", UNREACHABLE)
        assert silent.detail == "the adapter fake does not answer"
        adapter.hangs = False
        await watch.until("fake", AVAILABLE)
        watch.call.cancel()


async def test_a_silent_vendor_is_not_a_silent_adapter(
    start: Any, address: str, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_PROBE_SECONDS", 0.2)
    adapter.vendor_hangs = True
    async with start(settings(address)) as client:
        stub: Any = pb_grpc.IntegrationServiceStub(client.channel)
        probed = await stub.GetIntegrationHealth(pb.GetIntegrationHealthRequest(integration="fake"))
        assert (probed.health.state, probed.health.reason) == (UNAVAILABLE, R.ERROR_REASON_UPSTREAM_TIMEOUT)
        watch = Watch(client, "fake")
        await watch.until("fake", UNAVAILABLE)
        # What the adapter says between two probes does not take back what a probe found.
        polls = adapter.polls
        while adapter.polls < polls + 3:
            adapter.asked.clear()
            await adapter.asked.wait()
        adapter.vendor_hangs = False
        back = await watch.next()
        assert (back.health.state, back.health.version) == (AVAILABLE, "1.0")
        watch.call.cancel()


async def test_what_a_probe_told_is_listed(start: Any, address: str, adapter: Adapter) -> None:
    async with start(settings(address)) as client:
        stub: Any = pb_grpc.IntegrationServiceStub(client.channel)

        async def listed() -> pb.IntegrationHealth:
            answer = await stub.ListIntegrations(pb.ListIntegrationsRequest())
            found: pb.IntegrationHealth = next(one.health for one in answer.integrations if one.id == "fake")
            return found

        assert not (await listed()).HasField("latency")
        await stub.GetIntegrationHealth(pb.GetIntegrationHealthRequest(integration="fake"))
        after = await listed()
        assert (after.version, after.latency.ToMilliseconds()) == ("1.0", 1)
        assert adapter.probes == 1


async def test_nothing_runs_while_nobody_watches(start: Any, address: str, adapter: Adapter, until: Any) -> None:
    async with start(settings(address)) as client:
        monitor = client.gateway.monitor
        assert monitor.running == 0
        watches = [Watch(client), Watch(client), Watch(client, "fake")]
        for watch in watches:
            await watch.next()
        assert monitor.running == 2
        for watch in watches[:2]:
            watch.call.cancel()
        await until(lambda: monitor.running == 1)
        watches[2].call.cancel()
        await until(lambda: monitor.running == 0)
        # And again from the start.
        watch = Watch(client, "fake")
        assert (await watch.next()).health.state == AVAILABLE
        assert monitor.running == 1


async def test_in_the_background_each_is_probed_now_and_then(
    start: Any, address: str, adapter: Adapter, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    quick = {"background_seconds": 0.02, "probe_seconds": 1000.0, "poll_seconds": 1000.0}
    with caplog.at_level(logging.INFO):
        async with start(settings(address, **quick)) as client:
            monitor = client.gateway.monitor
            await until(lambda: adapter.probes > 2)
            adapter.status.available = False
            await until(lambda: "an integration changed" in caplog.text)
            assert monitor.running == 2


async def test_who_comes_to_watch_is_told_how_it_is_now(start: Any, address: str, adapter: Adapter, until: Any) -> None:
    async with start(settings(address, background_seconds=1000.0)) as client:
        for available in (True, False, True):
            adapter.status.available = available
            watch = Watch(client, "fake")
            assert (await watch.next()).health.state == (AVAILABLE if available else UNAVAILABLE)
            watch.call.cancel()
            await until(lambda: not client.gateway.monitor._watchers)
            assert client.gateway.monitor.running == 2


async def test_a_watcher_that_does_not_read_is_owed_the_newest_state_alone(
    start: Any, address: str, adapter: Adapter
) -> None:
    async with start(settings(address)) as client:
        got: list[pb.Integration] = []
        room = asyncio.Event()
        first, all_read = asyncio.Event(), asyncio.Event()

        async def send(message: Any) -> None:
            got.append(message.integration)
            first.set()
            await room.wait()
            if got[-1].health.detail == "number 19":
                all_read.set()

        watching = asyncio.create_task(client.gateway.monitor.watch("fake", send))
        await first.wait()
        other = Watch(client, "fake")
        await other.next()
        adapter.status.available = False
        adapter.status.last_error = R.ERROR_REASON_UPSTREAM_OVERLOADED
        for number in range(20):
            adapter.status.detail = f"number {number}"
            while (await other.next()).health.detail != adapter.status.detail:
                pass
        [watcher] = [one for one in client.gateway.monitor._watchers if one.pending]
        assert list(watcher.pending) == ["fake"]
        room.set()
        await all_read.wait()
        assert len(got) == 2
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching


async def test_silence_is_filled_with_heartbeats(start: Any) -> None:
    async with start({"watchers": {"heartbeat_seconds": 0.02}}) as client:
        watch = Watch(client)
        await watch.next()
        for _ in range(3):
            assert await watch.call.read() == pb.WatchIntegrationHealthResponse()
        watch.call.cancel()


async def test_a_watch_holds_no_shutdown_up(start: Any) -> None:
    async with start() as client:
        watch = Watch(client)
        await watch.next()
        stuck = asyncio.Event()

        async def send(_: Any) -> None:
            stuck.set()
            await asyncio.Event().wait()

        unread = asyncio.create_task(client.gateway.monitor.watch("", send))
        await stuck.wait()
        # Were it held up, it would be for much longer than a test may take.
        await shut_down(client.gateway, client.mesh.servers["gateway"], 3600)
        failure = await watch.failure()
        assert failure.reason == R.ERROR_REASON_DRAINING
        assert failure.retry_after
        with pytest.raises(SluiceError, match="shutting down"):
            await unread
        assert client.gateway.monitor.running == 0


async def test_a_defect_is_told_and_logged(
    start: Any, placement: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with start(placement=placement) as client:

        async def broken(*_: object) -> None:
            raise ValueError("boom")

        [integration] = client.gateway._integrations
        monkeypatch.setattr(integration.generator, "get_status", broken)
        one = await Watch(client).next()
        assert (one.health.state, one.health.reason) == (UNREACHABLE, R.ERROR_REASON_INTERNAL)
        assert "boom" not in one.health.detail
        assert "cannot follow an integration" in caplog.text
