"""Integrations that come and go at run time."""

import hashlib
from pathlib import Path
from typing import Any

import grpc
import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice.gateway.v1 import integration_service_pb2 as pb
from sluice.gateway.v1 import integration_service_pb2_grpc as pb_grpc
from sluice.gateway.v1 import model_service_pb2 as model_pb
from sluice.gateway.v1 import model_service_pb2_grpc as model_grpc
from sluice_gateway.registration import AllowList, check_address
from sluice_kit.config import ConfigDocument, ConfigError
from sluice_kit.errors import InvalidRequestError, SluiceError, from_rpc_error
from sluice_kit.testing import document_of, make_service, running

from .adapter import Adapter
from .pausing import Pausing

R = ErrorReason


def everywhere(folder: Path) -> dict[str, Any]:
    return {"registration": {"allow": [f"unix:{folder}/*.sock"]}, "health": {"poll_seconds": 0.01}}


class Setting:
    """The integrations of a gateway."""

    def __init__(self, client: Any, metadata: Any = None) -> None:
        self.stub: Any = pb_grpc.IntegrationServiceStub(client.channel)
        self.models: Any = model_grpc.ModelServiceStub(client.channel)
        self.metadata = metadata

    async def add(self, name: str, address: str) -> pb.Integration:
        request = pb.RegisterIntegrationRequest(integration=name, address=address)
        answer: pb.RegisterIntegrationResponse = await self.stub.RegisterIntegration(request, metadata=self.metadata)
        return answer.integration

    async def remove(self, name: str) -> None:
        await self.stub.RemoveIntegration(pb.RemoveIntegrationRequest(integration=name), metadata=self.metadata)

    async def ids(self) -> dict[str, bool]:
        answer = await self.stub.ListIntegrations(pb.ListIntegrationsRequest(), metadata=self.metadata)
        return {one.id: one.registered for one in answer.integrations}


async def failure_of(call: Any) -> SluiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_one_that_came_answers_and_outlives_a_restart(start_recorded: Any, ask: Any, tmp_path: Path) -> None:
    start = start_recorded
    address = f"unix:{tmp_path}/extra.sock"
    document = document_of({"providers": {"extra": {"adapter": "scripted", "listen": address}}}, tmp_path)
    gateway = everywhere(tmp_path)
    async with running(make_service("providers", document, integration="extra"), document):
        async with start(gateway, state_dir=str(tmp_path / "state")) as client:
            s = Setting(client)
            refused = await client.stream(ask("extra/text?tokens=2"))
            assert refused.error.reason == R.ERROR_REASON_MODEL_NOT_FOUND
            added = await s.add("extra", address)
            assert (added.id, added.adapter, added.placement) == ("extra", "scripted", "process")
            assert (added.registered, added.health.state) == (True, pb.HEALTH_STATE_AVAILABLE)
            again = await s.add("extra", address)
            assert (again.id, again.registered) == ("extra", True)
            assert await s.ids() == {"extra": True, "scripted": False}
            assert (await client.stream(ask("extra/text?tokens=2"))).error is None
            listed = await s.models.ListModels(model_pb.ListModelsRequest(integration="extra"))
            assert "extra/echo" in [model.name for model in listed.models]
        async with start(gateway, state_dir=str(tmp_path / "state")) as client:
            assert (await client.stream(ask("extra/text?tokens=2"))).error is None
            s = Setting(client)
            await s.remove("extra")
            assert await s.ids() == {"scripted": False}
            gone = await client.stream(ask("extra/text?tokens=2"))
            assert gone.error.reason == R.ERROR_REASON_MODEL_NOT_FOUND
        async with start(gateway, state_dir=str(tmp_path / "state")) as client:
            assert await Setting(client).ids() == {"scripted": False}


async def test_what_a_removed_one_is_being_asked_goes_on(start: Any, ask: Any, until: Any, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/extra.sock"
    document = document_of({"providers": {"extra": {"adapter": "scripted", "listen": address}}}, tmp_path)
    async with (
        running(make_service("providers", document, integration="extra"), document),
        start(everywhere(tmp_path)) as client,
    ):
        s = Setting(client)
        await s.add("extra", address)
        extra = client.gateway._integrations.get("extra")
        generator, extra.generator = extra.generator, (pause := Pausing(extra.generator))
        call = client.chat.StreamChat(chat_pb.StreamChatRequest(spec=ask("extra/text?tokens=60")))
        seen = await client.collect(call, until=lambda seen: "text_delta" in seen.kinds)
        extra.generator = generator
        await s.remove("extra")
        assert client.gateway._integrations.retiring == 1
        pause.go_on.set()
        rest = await client.collect(call)
        assert rest.error is None
        assert len((seen.text + rest.text).split()) == 60
        await until(lambda: client.gateway._integrations.retiring == 0)
        # One that is being asked when the gateway stops does not hold it up.
        await s.add("extra", address)
        stuck = client.chat.StreamChat(chat_pb.StreamChatRequest(spec=ask("extra/text?tokens=5&fault=stall@2")))
        await client.collect(stuck, until=lambda seen: "text_delta" in seen.kinds)
        await s.remove("extra")
        stuck.cancel()


async def test_who_watches_sees_them_come_and_go(start: Any, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/fake.sock"
    async with Adapter().serving(address), start(everywhere(tmp_path)) as client:
        s = Setting(client)
        watch = s.stub.WatchIntegrationHealth(pb.WatchIntegrationHealthRequest())
        assert (await watch.read()).integration.id == "scripted"

        async def until(state: "pb.HealthState.ValueType") -> None:
            while True:
                one = (await watch.read()).integration
                if one.id == "fake" and one.health.state == state:
                    return

        for _ in range(2):
            await s.add("fake", address)
            await until(pb.HEALTH_STATE_AVAILABLE)
            await s.remove("fake")
            await until(pb.HEALTH_STATE_REMOVED)
        await s.add("fake", address)
        alone = s.stub.WatchIntegrationHealth(pb.WatchIntegrationHealthRequest(integration="fake"))
        assert (await alone.read()).integration.health.state == pb.HEALTH_STATE_AVAILABLE
        await s.remove("fake")
        while (await alone.read()).integration.health.state != pb.HEALTH_STATE_REMOVED:
            pass
        alone.cancel()
        watch.cancel()


async def test_what_is_refused(start: Any, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/nobody.sock"
    state = str(tmp_path / "state")
    async with start(everywhere(tmp_path), state_dir=state) as client:
        s = Setting(client)
        assert (await s.add("extra", address)).health.state == pb.HEALTH_STATE_UNREACHABLE
        assert (await failure_of(s.add("scripted", address))).reason == R.ERROR_REASON_ALREADY_EXISTS
        other = f"unix:{tmp_path}/other.sock"
        assert (await failure_of(s.add("extra", other))).reason == R.ERROR_REASON_ALREADY_EXISTS
        failure = await failure_of(s.add("more", "127.0.0.1:7401"))
        assert failure.reason == R.ERROR_REASON_PERMISSION_DENIED
        assert failure.metadata["rule"] == "gateway.registration.allow"
        assert (await failure_of(s.add("more", f"unix:{tmp_path}/../x.sock"))).violations[0].field == "address"
        assert (await failure_of(s.add("No!", address))).violations[0].field == "integration"
        assert (await failure_of(s.remove("scripted"))).reason == R.ERROR_REASON_PERMISSION_DENIED
        assert (await failure_of(s.remove("nobody"))).reason == R.ERROR_REASON_MODEL_NOT_FOUND
    # What the configuration no longer allows, or has itself by now, does not come back.
    async with start({}, state_dir=state) as client:
        assert await Setting(client).ids() == {"scripted": False}
    own = everywhere(tmp_path) | {"integrations": {"extra": {"address": address}}}
    async with start(own, state_dir=state) as client:
        assert await Setting(client).ids() == {"extra": False, "scripted": False}


async def test_administrators_alone_register(start: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    rows = [
        f"  - {{id: {role}, sha256: {hashlib.sha256(role.encode()).hexdigest()}, tenant: t, roles: [{role}]}}\n"
        for role in ("editor", "admin")
    ]
    keys.write_text("keys:\n" + "".join(rows))
    address = f"unix:{tmp_path}/nobody.sock"
    async with start(everywhere(tmp_path), auth={"mode": "keys", "keys_file": str(keys)}) as client:
        editor, admin = (Setting(client, [("authorization", f"Bearer {role}")]) for role in ("editor", "admin"))
        for refused in (editor.add("x", address), editor.remove("scripted")):
            assert (await failure_of(refused)).reason == R.ERROR_REASON_PERMISSION_DENIED
        await admin.add("x", address)
        await admin.remove("x")


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        ("unix:/run/sluice/*.sock", ["unix:/run/sluice/a.sock"], ["unix:/run/sluice/a/b.sock", "unix:/run/a.sock"]),
        ("10.0.0.*:7401", ["10.0.0.9:7401"], ["10.0.0.9:7402", "10.0.1.9:7401", "unix:/10.0.0.9:7401"]),
        ("*.example.com:*", ["a.example.com:1", "A.b.Example.com:65535"], ["example.com:1", "a.example.com.evil:1"]),
        ("[::1]:*", ["[::1]:7401"], ["[::2]:7401", ":::7401"]),
        ("a?c:1", [], ["abc:1"]),
    ],
)
def test_patterns_of_addresses(pattern: str, allowed: list[str], refused: list[str]) -> None:
    one = AllowList(ConfigDocument(None, {}), [pattern])
    assert [address for address in allowed if not one.allows(address)] == []
    assert [address for address in refused if one.allows(address)] == []
    assert not AllowList(ConfigDocument(None, {}), []).allows("a:1")


@pytest.mark.parametrize(
    "address",
    ["a", "a:0", "a:070", "a:70000", ":1", "a b:1", "a:１", "-a:1", "[x]:1", "dns:///a:1", "ipv4:1.2.3.4:5", "unix:a"],
)
def test_what_is_no_address_of_a_host(address: str) -> None:
    with pytest.raises(InvalidRequestError):
        check_address(address)


@pytest.mark.parametrize(
    "address", ["unix://a", "unix:/a/../b", "unix:/a//b", "unix-abstract:a", "unix:/a\nb", "unix:"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidRequestError):
        check_address(address)


def test_addresses_and_patterns() -> None:
    for address in ("a:1", "a-b.example:65535", "[::1]:7400", "10.0.0.1:80", "unix:/run/a b.sock"):
        check_address(address)
    for pattern in ("a", "a:b", ":1", "unix:a", "unix:"):
        with pytest.raises(ConfigError, match="neither HOST:PORT nor unix:/PATH"):
            AllowList(ConfigDocument(None, {}), [pattern])


async def test_one_that_comes_back_is_not_left_alone_for_what_was_before(start: Any, ask: Any, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/extra.sock"
    breaker = {"failures": 1, "open_seconds": 1000, "max_open_seconds": 1000}
    gateway = {**everywhere(tmp_path), "resilience": {"breaker": breaker}, "limits": {"retries": 0}}
    document = document_of({"providers": {"extra": {"adapter": "scripted", "listen": address}}}, tmp_path)
    async with start(gateway) as client:
        s = Setting(client)
        await s.add("extra", address)
        assert (await client.stream(ask("extra/echo"))).error.reason == R.ERROR_REASON_SERVICE_UNREACHABLE
        assert (await client.stream(ask("extra/echo"))).error.reason == R.ERROR_REASON_CIRCUIT_OPEN
        await s.remove("extra")
        async with running(make_service("providers", document, integration="extra"), document):
            await s.add("extra", address)
            assert (await client.stream(ask("extra/echo"))).error is None
        assert client.gateway.pipeline.standings.circuits() == {}
