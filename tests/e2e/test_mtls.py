"""Mutual TLS between services: who gets in, who may call what, and certificates that change under load."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sluice.auth.v1.identity_pb2 import Identity, Role
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.task.v1 import task_service_pb2 as pb
from sluice.task.v1 import task_service_pb2_grpc as pb_grpc
from sluice_cli.authority import Authority, certificate_file, key_file
from sluice_kit.auth import internal_authenticator
from sluice_kit.call import Call
from sluice_kit.channels import ChannelPool, open_channel
from sluice_kit.config import ConfigDocument, ServerConfig
from sluice_kit.errors import SluiceError, from_rpc_error
from sluice_kit.identity import IDENTITY_KEY, encode
from sluice_kit.rpc import SendMessage
from sluice_kit.server import Server
from sluice_kit.tls import MeshTls, mesh_tls
from sluice_kit.tls_channel import TlsChannel

DAY = timedelta(days=1)
ACME = ((IDENTITY_KEY, encode(Identity(tenant="acme", roles=[Role.ROLE_USER]))),)
SECONDS = 30.0
CLOSED = ": it closes the connection, as where TLS fails"


class Tasks:
    """What retrieval serves to the gateway: it answers with the tenant that it works for."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def GetTask(self, request: pb.GetTaskRequest, call: Call) -> pb.GetTaskResponse:
        return pb.GetTaskResponse(task=pb.Task(name=f"tasks/{call.tenant}"))

    async def WatchTask(self, request: pb.WatchTaskRequest, call: Call, send: SendMessage) -> None:
        await send(pb.WatchTaskResponse(events=[pb.TaskEvent(sequence=1)]))
        await self.release.wait()
        await send(pb.WatchTaskResponse(events=[pb.TaskEvent(sequence=2)]))

    async def ListTasks(self, request: pb.ListTasksRequest, call: Call) -> pb.ListTasksResponse:
        return pb.ListTasksResponse()

    async def CancelTask(self, request: pb.CancelTaskRequest, call: Call) -> pb.CancelTaskResponse:
        return pb.CancelTaskResponse()


def document(folder: Path, service: str, ca: Path | None = None, **more: Any) -> ConfigDocument:
    tls = {
        "certificate": str(certificate_file(folder, service)),
        "key": str(key_file(folder, service)),
        "ca": str(ca or folder / "ca.pem"),
        **more,
    }
    auth = {"mode": "keys", "keys_file": "not-read-inside"}
    return ConfigDocument(None, {"auth": auth, "tls": tls})


def tls_of(folder: Path, service: str, ca: Path | None = None, **more: Any) -> MeshTls:
    tls = mesh_tls(document(folder, service, ca, **more))
    assert tls is not None
    return tls


@contextlib.asynccontextmanager
async def retrieval(folder: Path, ca: Path | None = None, **more: Any) -> AsyncIterator[tuple[str, Tasks]]:
    tls, tasks = tls_of(folder, "retrieval", ca, **more), Tasks()
    authenticator = internal_authenticator(document(folder, "retrieval", ca, **more), tls)
    server = Server("retrieval", "127.0.0.1:0", None, authenticator, ServerConfig(), tls.listener())
    server.add(pb.DESCRIPTOR.services_by_name["TaskService"], tasks)
    await server.bind()
    await server.ready()
    try:
        yield server.address, tasks
    finally:
        tasks.release.set()
        await server.stop(1)


def certificates(folder: Path, *services: str, trust_domain: str = "sluice.local") -> Authority:
    authority = Authority.create(folder, trust_domain)
    for service in services:
        authority.issue(service, DAY)
    return authority


async def get(channel: grpc.aio.Channel, metadata: Any = ACME) -> str:
    """The tenant that retrieval sees. Raises SluiceError."""
    stub: Any = pb_grpc.TaskServiceStub(channel)
    try:
        answer = await stub.GetTask(pb.GetTaskRequest(name="tasks/ret-1"), timeout=SECONDS, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, "retrieval") from None
    return str(answer.task.name)


async def refusal(channel: grpc.aio.Channel, metadata: Any = ACME) -> SluiceError:
    async with channel:
        with pytest.raises(SluiceError) as caught:
            await get(channel, metadata)
    return caught.value


async def test_the_gateway_speaks_for_a_tenant_and_others_are_named_and_refused(tmp_path: Path) -> None:
    certificates(tmp_path, "gateway", "retrieval", "openai")
    async with retrieval(tmp_path) as (address, _):
        pool = ChannelPool(tls_of(tmp_path, "gateway"))
        channel = pool.get(address, "retrieval")
        assert pool.get(address, "retrieval") is channel
        assert await get(channel) == "tasks/acme"
        with pytest.raises(SluiceError) as caught:
            await get(channel, ())
        assert caught.value.reason == ErrorReason.ERROR_REASON_UNAUTHENTICATED
        await pool.close()
        # A compromised adapter has a certificate, too. It gets nothing but the health of others.
        adapter = open_channel(address, tls=tls_of(tmp_path, "openai"), service="retrieval")
        health: Any = health_pb2_grpc.HealthStub(adapter)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        failure = await refusal(adapter)
    assert failure.reason == ErrorReason.ERROR_REASON_PERMISSION_DENIED
    assert failure.message == "the service openai may not call this method"
    assert failure.metadata == {"caller": "openai"}


def _foreign(folder: Path) -> MeshTls:
    other = certificates(folder / "other", "gateway")
    return tls_of(other.folder, "gateway", folder / "ca.pem")


def _expired(folder: Path) -> MeshTls:
    Authority.open(folder).issue("gateway", DAY, begins=datetime.now(UTC) - 2 * DAY)
    return tls_of(folder, "gateway")


def _distrusting(folder: Path) -> MeshTls:
    other = certificates(folder / "other", "gateway")
    Authority.open(folder).issue("gateway", DAY)
    return tls_of(folder, "gateway", other.folder / "ca.pem")


@pytest.mark.parametrize(
    ("make", "said"),
    [(_foreign, CLOSED), (_expired, CLOSED), (_distrusting, ": TLS failed, its certificate is not accepted")],
)
async def test_a_refused_handshake_is_said_to_be_one(
    tmp_path: Path, make: Callable[[Path], MeshTls], said: str
) -> None:
    certificates(tmp_path, "retrieval")
    async with retrieval(tmp_path) as (address, _):
        failure = await refusal(open_channel(address, tls=make(tmp_path), service="retrieval"))
    assert failure.reason == ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE
    assert failure.message.startswith(f"the retrieval service does not answer{said}")
    assert "ssl" not in failure.message.lower()


async def test_without_a_certificate_nobody_gets_in(tmp_path: Path) -> None:
    certificates(tmp_path, "retrieval")
    credentials = grpc.ssl_channel_credentials((tmp_path / "ca.pem").read_bytes())
    name = [("grpc.ssl_target_name_override", "retrieval.sluice.local")]
    async with retrieval(tmp_path) as (address, _):
        failure = await refusal(grpc.aio.secure_channel(address, credentials, options=name))
        assert CLOSED in failure.message
        failure = await refusal(open_channel(address))  # without TLS at all
        assert CLOSED in failure.message
    assert failure.reason == ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE


async def test_a_service_that_is_another_than_expected_is_not_talked_to(tmp_path: Path) -> None:
    certificates(tmp_path, "gateway", "retrieval", "openai")
    async with retrieval(tmp_path) as (address, _):
        failure = await refusal(open_channel(address, tls=tls_of(tmp_path, "gateway"), service="openai"))
    assert failure.message.endswith("TLS failed, its certificate is another service's")


async def test_ids_of_another_trust_domain_or_namespace_are_not_believed(tmp_path: Path) -> None:
    """Their certificates are of the same CA: what is refused is the id."""
    certificates(tmp_path, "gateway", "retrieval")
    said = "the caller's certificate names no service of this mesh"
    here = tls_of(tmp_path, "gateway")
    others: list[dict[str, Any]] = [{"trust_domain": "elsewhere.example"}, {"namespace": "prod"}]
    for more in others:
        async with retrieval(tmp_path, **more) as (address, _):
            failure = await refusal(open_channel(address, tls=here, service="retrieval"))
        assert (failure.reason, failure.message) == (ErrorReason.ERROR_REASON_PERMISSION_DENIED, said)
    # And a gateway that expects the other trust domain does not take this retrieval service for its own.
    other = tls_of(tmp_path, "gateway", trust_domain="elsewhere.example")
    async with retrieval(tmp_path) as (address, _):
        failure = await refusal(open_channel(address, tls=other, service="retrieval"))
    assert "another service's" in failure.message


async def test_namespaced_ids(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "prod.example", "sluice")
    for service in ("gateway", "retrieval"):
        assert authority.issue(service, DAY).identity == f"spiffe://prod.example/ns/sluice/sa/{service}"
    where: dict[str, Any] = {"trust_domain": "prod.example", "namespace": "sluice"}
    here = tls_of(tmp_path, "gateway", **where)
    async with (
        retrieval(tmp_path, **where) as (address, _),
        open_channel(address, tls=here, service="retrieval") as channel,
    ):
        assert await get(channel) == "tasks/acme"


def served(address: str, folder: Path) -> bytes:
    """The certificate that a server shows to a new connection, as it stands in its file."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(certificate_file(folder, "gateway"), key_file(folder, "gateway"))
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="retrieval.sluice.local") as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown).encode()


async def test_a_whole_ca_is_replaced_under_load_without_losing_a_call(tmp_path: Path) -> None:
    """Old, both, new: the usual order. Calls go on all the time, and one stream lasts from the first to the last."""
    new = certificates(tmp_path / "new", "gateway", "retrieval")
    folder, ca = tmp_path / "live", tmp_path / "live" / "ca.pem"
    certificates(folder, "gateway", "retrieval")
    calls = 0
    stopping = asyncio.Event()

    async def load(channel: grpc.aio.Channel) -> None:
        nonlocal calls
        while not stopping.is_set():
            assert await get(channel) == "tasks/acme"
            calls += 1

    async with retrieval(folder, reload_seconds=0.01) as (address, tasks):
        tls = tls_of(folder, "gateway", reload_seconds=0.01)
        channel = open_channel(address, tls=tls, service="retrieval")
        assert isinstance(channel, TlsChannel)
        stub: Any = pb_grpc.TaskServiceStub(channel)
        stream = stub.WatchTask(pb.WatchTaskRequest(name="tasks/ret-1"), metadata=ACME)
        assert (await stream.read()).events[0].sequence == 1
        work = [asyncio.create_task(load(channel)) for _ in range(4)]

        async def some_more() -> None:
            target = calls + 40
            while calls < target:
                finished, _ = await asyncio.wait(work, timeout=0.01)
                assert not finished, [task.exception() for task in finished]

        async def changed(write: Callable[[], None]) -> None:
            before = tls.generation
            write()
            while tls.generation == before:
                await some_more()
            await some_more()

        def both() -> None:
            ca.write_bytes(ca.read_bytes() + (new.folder / "ca.pem").read_bytes())

        def leaves() -> None:
            for service in ("gateway", "retrieval"):
                # Key first: until both are there, the old pair holds.
                key_file(folder, service).write_bytes(key_file(new.folder, service).read_bytes())
                certificate_file(folder, service).write_bytes(certificate_file(new.folder, service).read_bytes())

        def only_new() -> None:
            ca.write_bytes((new.folder / "ca.pem").read_bytes())

        await some_more()
        await changed(both)
        await changed(leaves)
        await changed(only_new)
        shown = await asyncio.to_thread(served, address, folder)
        assert shown == certificate_file(new.folder, "retrieval").read_bytes()
        assert tls.generation == 4
        stopping.set()
        await asyncio.gather(*work)
        # The stream is still on its first connection, whose certificates nobody would accept any more.
        assert channel.connections == 2
        tasks.release.set()
        assert (await stream.read()).events[0].sequence == 2
        assert await stream.read() == grpc.aio.EOF
        while channel.connections > 1:  # noqa: ASYNC110 - nothing but this test wants to know
            await asyncio.sleep(0)
        await channel.close()


async def test_a_pair_that_does_not_fit_changes_nothing_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = certificates(tmp_path, "gateway", "retrieval")
    good = key_file(tmp_path, "gateway").read_bytes()
    tls = tls_of(tmp_path, "gateway", reload_seconds=1e-9)
    async with retrieval(tmp_path) as (address, _), open_channel(address, tls=tls, service="retrieval") as channel:
        for broken in (key_file(tmp_path, "retrieval").read_bytes(), b"nonsense"):
            caplog.clear()
            key_file(tmp_path, "gateway").write_bytes(broken)
            assert [await get(channel) for _ in range(3)] == ["tasks/acme"] * 3
            assert [record.message for record in caplog.records if record.name == "sluice_kit.tls"] == [
                "changed certificate files cannot be used, the old ones hold"
            ]
        key_file(tmp_path, "gateway").unlink()
        assert await get(channel) == "tasks/acme"
        assert tls.generation == 1
        key_file(tmp_path, "gateway").write_bytes(good)
        authority.issue("gateway", DAY)
        assert await get(channel) == "tasks/acme"
        assert tls.generation > 1


async def test_closing_ends_calls_on_replaced_connections_too(tmp_path: Path) -> None:
    authority = certificates(tmp_path, "gateway", "retrieval")
    tls = tls_of(tmp_path, "gateway", reload_seconds=1e-9)
    async with retrieval(tmp_path) as (address, _):
        channel = open_channel(address, tls=tls, service="retrieval")
        assert isinstance(channel, TlsChannel)
        stub: Any = pb_grpc.TaskServiceStub(channel)
        stream = stub.WatchTask(pb.WatchTaskRequest(name="tasks/ret-1"), metadata=ACME)
        await stream.read()
        authority.issue("gateway", DAY)
        assert await get(channel) == "tasks/acme"
        assert channel.connections == 2
        await channel.close()
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await stream.read()
