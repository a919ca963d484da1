"""Nothing that callers choose, or that has ended, makes the gateway hold more and more.

What has ended is to be gone when it is given up, not when garbage is collected: a service does that once in hours.
"""

import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from sluice.chat.v1.target_pb2 import Target
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.gateway.v1 import integration_service_pb2 as integration_pb
from sluice.gateway.v1 import integration_service_pb2_grpc as integration_grpc
from sluice_gateway.config import ResilienceConfig
from sluice_gateway.integrations import _MAX_REMOVED, Integrations
from sluice_gateway.pipeline.standing import _MAX_TARGETS, Standings
from sluice_gateway.records import writer as writers
from sluice_gateway.responses.response import Response
from sluice_kit.channels import ChannelPool
from sluice_kit.testing import document_of, make_service, running

GOOD = "scripted/text?tokens=3"
BAD = "scripted/text?tokens=3&fault=UPSTREAM_INVALID_ARGUMENT"
BREAKS = "scripted/text?tokens=9&fault=UPSTREAM_UNAVAILABLE@4"
SLOW = "scripted/text?tokens=2&ttft_ms=60000"
SOON = {"delay": {"nanos": 10_000_000}}
RESTART = pb.MidstreamPolicy.MIDSTREAM_POLICY_RESTART


def _responses() -> int:
    return sum(isinstance(one, Response) for one in gc.get_objects())


async def _completes(client: Any, ask: Any) -> None:
    assert (await client.stream(ask(GOOD))).error is None


async def _fails(client: Any, ask: Any) -> None:
    assert (await client.stream(ask(BAD))).error is not None


async def _fails_whole(client: Any, ask: Any) -> None:
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        await client.chat.Chat(pb.ChatRequest(spec=ask(BAD)))


async def _falls_back(client: Any, ask: Any) -> None:
    assert (await client.stream(ask(BREAKS, fallbacks=[GOOD], midstream_policy=RESTART))).error is None


async def _is_hedged(client: Any, ask: Any) -> None:
    assert (await client.stream(ask(SLOW, fallbacks=[GOOD], hedge=SOON))).error is None


async def _is_left(client: Any, ask: Any) -> None:
    call = client.chat.StreamChat(pb.StreamChatRequest(spec=ask(SLOW)))
    await call.read()
    call.cancel()


async def _is_cancelled(client: Any, ask: Any) -> None:
    call = client.chat.StreamChat(pb.StreamChatRequest(spec=ask(SLOW)))
    first = await call.read()
    await client.chat.CancelChat(pb.CancelChatRequest(response=first.events[0].accepted.response))
    with pytest.raises(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass


async def _runs_out_of_time(client: Any, ask: Any) -> None:
    assert (await client.stream(ask(SLOW, max_duration={"nanos": 20_000_000}))).error is not None


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    "end",
    [_completes, _fails, _fails_whole, _falls_back, _is_hedged, _is_left, _is_cancelled, _runs_out_of_time],
)
async def test_an_ended_response_is_gone_with_its_retention(
    start: Any, ask: Any, until: Any, placement: str, end: Callable[[Any, Any], Awaitable[None]]
) -> None:
    kept = {"retention_seconds": 0.001, "answer_seconds": 0.001}
    async with start({"log": kept}, placement=placement) as client:
        before = _responses()
        for _ in range(3):
            await end(client, ask)
        await until(lambda: not client.gateway.responses.kept_bytes and not client.gateway.responses.running)
        await until(lambda: _responses() == before)


async def test_the_records_write_ahead_log_is_cut_off_when_it_is_long(
    start: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as client:
        writer = client.gateway._ledger._writer
        folder = client.mesh.document.state_dir() / "gateway"
        log = folder / "records.db-wal"
        await client.stream(ask(GOOD))
        await writer.flush()
        writer._run_checkpoint()
        assert log.stat().st_size > 0  # a short one is begun anew by whoever writes next
        monkeypatch.setattr(writers, "_LONG_LOG_PAGES", 0)
        await client.stream(ask(GOOD))
        await writer.flush()
        writer._run_checkpoint()
        assert log.stat().st_size == 0
        assert (await client.stream(ask(GOOD))).error is None
        await writer.flush()
        assert [row["state"] for row in await client.rows("responses")] == ["completed"] * 3


async def test_integrations_that_went_are_remembered_so_many(tmp_path: Path, until: Any) -> None:
    integrations = Integrations(document_of({}, tmp_path), {}, ChannelPool())
    for number in range(_MAX_REMOVED + 50):
        integrations.add(f"extra-{number}", f"unix:{tmp_path}/none.sock")
        integrations.remove(f"extra-{number}")
        await until(lambda: integrations.retiring == 0)
    assert integrations.was_removed(f"extra-{_MAX_REMOVED + 49}")
    assert not integrations.was_removed("extra-0")
    assert len(integrations._removed) == _MAX_REMOVED


async def test_targets_and_what_they_share_are_remembered_so_many() -> None:
    standings = Standings(ResilienceConfig())
    for number in range(_MAX_TARGETS + 200):
        assert standings.admits(Target(provider=f"extra-{number}", model="m"))
    assert len(standings._targets) == _MAX_TARGETS
    assert len(standings._shared) == _MAX_TARGETS
    standings.forget("extra-300")
    assert len(standings._targets) == len(standings._shared) == _MAX_TARGETS - 1


async def test_an_integration_that_went_leaves_nothing(start: Any, ask: Any, tmp_path: Path, until: Any) -> None:
    address = f"unix:{tmp_path}/extra.sock"
    document = document_of({"providers": {"extra": {"adapter": "scripted", "listen": address}}}, tmp_path)
    allowed = {"registration": {"allow": [f"unix:{tmp_path}/*.sock"]}}
    async with running(make_service("providers", document, integration="extra"), document), start(allowed) as client:
        stub: Any = integration_grpc.IntegrationServiceStub(client.channel)
        for number in range(5):
            name = f"extra-{number}"
            await stub.RegisterIntegration(integration_pb.RegisterIntegrationRequest(integration=name, address=address))
            await client.stream(ask(f"{name}/text?tokens=1"))
            await stub.GetIntegrationHealth(integration_pb.GetIntegrationHealthRequest(integration=name))
            await stub.RemoveIntegration(integration_pb.RemoveIntegrationRequest(integration=name))
        gateway = client.gateway
        await until(lambda: gateway._integrations.retiring == 0)
        monitor, standings, catalog = gateway.monitor, gateway.pipeline.standings, gateway.catalog
        for held in (
            monitor._now,
            monitor._following,
            monitor._probe_due,
            monitor._closer,
            standings._targets,
            standings._shared,
            catalog._entries,
            gateway._registration._restored,
            gateway._registration._refused,
        ):
            names = [key if isinstance(key, str) else key[0] for key in held]
            assert [name for name in names if name.startswith("extra")] == []
