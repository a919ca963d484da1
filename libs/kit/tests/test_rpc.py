"""The wrapper around every handler, over a real server and a real channel."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.task.v1 import task_service_pb2 as pb
from sluice.task.v1 import task_service_pb2_grpc as pb_grpc
from sluice_kit.auth import Authenticator, LocalAuthenticator
from sluice_kit.call import Call
from sluice_kit.channels import open_channel
from sluice_kit.config import ServerConfig
from sluice_kit.errors import NotFoundError, from_rpc_error
from sluice_kit.rpc import SendMessage
from sluice_kit.server import BindError, Server, shut_down, start
from sluice_kit.tls import ListenerTls

SECRET = "api_key=sk-live-abcdefghij"
TASKS = pb.DESCRIPTOR.services_by_name["TaskService"]


class Tasks:
    """A TaskService whose behaviour a test sets by the task's name."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.calls: list[Call] = []

    async def GetTask(self, request: pb.GetTaskRequest, call: Call) -> pb.GetTaskResponse:
        self.calls.append(call)
        if request.name == "tasks/x-defect":
            raise RuntimeError(SECRET)
        if request.name == "tasks/x-absent":
            raise NotFoundError("no such task", metadata={"resource": request.name})
        if request.name == "tasks/x-slow":
            self.entered.set()
            try:
                await self.release.wait()
            finally:
                self.ended.set()
        return pb.GetTaskResponse(task=pb.Task(name=request.name))

    async def ListTasks(self, request: pb.ListTasksRequest, call: Call) -> pb.ListTasksResponse:
        return pb.ListTasksResponse()

    async def CancelTask(self, request: pb.CancelTaskRequest, call: Call) -> pb.CancelTaskResponse:
        return pb.CancelTaskResponse()

    async def WatchTask(self, request: pb.WatchTaskRequest, call: Call, send: SendMessage) -> None:
        await send(pb.WatchTaskResponse(events=[pb.TaskEvent(sequence=1)]))
        await send(pb.WatchTaskResponse(events=[pb.TaskEvent(sequence=2)]).SerializeToString())
        if request.name == "tasks/x-defect":
            raise RuntimeError(SECRET)
        if request.name == "tasks/x-slow":
            self.entered.set()
            try:
                await self.release.wait()
            finally:
                self.ended.set()


class TaskMesh:
    """A service of one RPC family."""

    name = "test"

    def __init__(self, tasks: object, listen: str = "127.0.0.1:0", probe: str | None = None) -> None:
        self.listen = listen
        self.probe = probe
        self.authenticator: Authenticator = LocalAuthenticator()
        self.tls: ListenerTls | None = None
        self.tasks = tasks
        self.steps: list[str] = []

    def register(self, server: Server) -> None:
        server.add(TASKS, self.tasks)

    async def start(self) -> None:
        self.steps.append("start")

    async def drain(self, grace: float) -> None:
        self.steps.append("drain")

    async def stop(self) -> None:
        self.steps.append("stop")


@contextlib.asynccontextmanager
async def served(tasks: Tasks) -> AsyncIterator[tuple[Server, Any]]:
    service = TaskMesh(tasks)
    server = await start(service, ServerConfig())
    async with open_channel(server.address) as channel:
        try:
            yield server, pb_grpc.TaskServiceStub(channel)
        finally:
            tasks.release.set()
            await shut_down(service, server, 1)


async def test_a_message_goes_there_and_back() -> None:
    async with served(Tasks()) as (_, stub):
        assert (await stub.GetTask(pb.GetTaskRequest(name="tasks/x-1"))).task.name == "tasks/x-1"
        batches = [batch async for batch in stub.WatchTask(pb.WatchTaskRequest(name="tasks/x-1"))]
        assert [event.sequence for batch in batches for event in batch.events] == [1, 2]


async def test_a_defect_shows_its_id_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async with served(Tasks()) as (_, stub):

        async def unary() -> None:
            await stub.GetTask(pb.GetTaskRequest(name="tasks/x-defect"))

        async def stream() -> None:
            async for _ in stub.WatchTask(pb.WatchTaskRequest(name="tasks/x-defect")):
                pass

        for call in (unary, stream):
            with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as caught:
                await call()
            failure = from_rpc_error(caught.value)
            assert failure.reason == ErrorReason.ERROR_REASON_INTERNAL
            assert SECRET not in str(caught.value)
            assert caplog.records[-1].error_id == failure.metadata["error_id"]  # type: ignore[attr-defined]  # set by extra


async def test_a_typed_failure_keeps_its_reason() -> None:
    async with served(Tasks()) as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetTask(pb.GetTaskRequest(name="tasks/x-absent"))
        failure = from_rpc_error(caught.value)
        assert (type(failure), failure.metadata) == (NotFoundError, {"resource": "tasks/x-absent"})


async def test_a_rule_of_the_contract_is_enforced_before_the_handler() -> None:
    tasks = Tasks()
    async with served(tasks) as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetTask(pb.GetTaskRequest(name="nonsense"))
        failure = from_rpc_error(caught.value)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in failure.violations] == ["name"]
        assert tasks.calls == []


async def test_a_handler_knows_its_deadline_and_its_request_id() -> None:
    tasks = Tasks()
    async with served(tasks) as (_, stub):
        await stub.GetTask(pb.GetTaskRequest(name="tasks/x-1"), timeout=500, metadata=[("x-request-id", "abc")])
        await stub.GetTask(pb.GetTaskRequest(name="tasks/x-1"))
    limited, free = tasks.calls
    remaining = limited.time_remaining()
    assert remaining is not None
    # Clocks differ and deadlines travel rounded: far from what a busy machine takes, and from what nobody set.
    assert 250 < remaining < 750
    assert limited.request_id == "abc"
    assert free.time_remaining() is None
    assert free.request_id


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_cancelling_a_call_ends_its_handler(kind: str) -> None:
    tasks = Tasks()
    async with served(tasks) as (server, stub):
        if kind == "unary":
            call = stub.GetTask(pb.GetTaskRequest(name="tasks/x-slow"))
        else:
            call = stub.WatchTask(pb.WatchTaskRequest(name="tasks/x-slow"))
        await asyncio.wait_for(tasks.entered.wait(), 60)
        assert server.dispatcher.in_flight == 1
        call.cancel()
        await asyncio.wait_for(tasks.ended.wait(), 60)
        await asyncio.wait_for(server.dispatcher.wait_idle(), 60)
        assert server.dispatcher.in_flight == 0


async def test_a_deadline_ends_the_handler() -> None:
    tasks = Tasks()
    async with served(tasks) as (_, stub):
        for seconds in (0.1, 1.0, 30.0):  # time enough to reach the handler, on any machine
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetTask(pb.GetTaskRequest(name="tasks/x-slow"), timeout=seconds)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            if tasks.entered.is_set():
                break
        await asyncio.wait_for(tasks.ended.wait(), 60)


async def test_draining_refuses_new_calls_and_lets_old_ones_finish() -> None:
    tasks = Tasks()
    service = TaskMesh(tasks)
    server = await start(service, ServerConfig())
    async with open_channel(server.address) as channel:
        stub = pb_grpc.TaskServiceStub(channel)
        running: Any = stub.GetTask(pb.GetTaskRequest(name="tasks/x-slow"))
        await asyncio.wait_for(tasks.entered.wait(), 60)
        server.refuse_new()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetTask(pb.GetTaskRequest(name="tasks/x-1"))
        failure = from_rpc_error(caught.value)
        assert failure.reason == ErrorReason.ERROR_REASON_DRAINING
        assert failure.retry_after == 1
        stopping = asyncio.create_task(shut_down(service, server, 60))
        tasks.release.set()
        assert (await running).task.name == "tasks/x-slow"
        await stopping
    assert service.steps == ["start", "drain", "stop"]


async def test_stopping_cancels_what_outlives_the_grace() -> None:
    tasks = Tasks()
    service = TaskMesh(tasks)
    server = await start(service, ServerConfig())
    async with open_channel(server.address) as channel:
        call: Any = pb_grpc.TaskServiceStub(channel).GetTask(pb.GetTaskRequest(name="tasks/x-slow"))
        await asyncio.wait_for(tasks.entered.wait(), 60)
        await shut_down(service, server, 0.05)
        assert tasks.ended.is_set()
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_health_on_both_ports() -> None:
    service = TaskMesh(Tasks(), probe="127.0.0.1:0")
    server = await start(service, ServerConfig())
    assert server.probe_address is not None
    # A channel of ours watches health itself and would refuse to ask a service that is not serving.
    plain = {"grpc.service_config": "{}"}
    async with open_channel(server.address, plain) as serving, open_channel(server.probe_address, plain) as probe:
        stubs: list[Any] = [health_pb2_grpc.HealthStub(channel) for channel in (serving, probe)]
        for stub in stubs:
            for name in ("", "sluice.task.v1.TaskService"):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
        await server.report_stopping()
        for stub in stubs:
            answer = await stub.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    await shut_down(service, server, 1)


async def test_a_port_in_use_is_an_error() -> None:
    service = TaskMesh(Tasks())
    server = await start(service, ServerConfig())
    try:
        with pytest.raises(BindError, match="in use"):
            await start(TaskMesh(Tasks(), listen=server.address), ServerConfig())
    finally:
        await shut_down(service, server, 1)


async def test_a_socket_that_is_served_is_not_stolen(tmp_path_factory: pytest.TempPathFactory) -> None:
    address = f"unix:{tmp_path_factory.mktemp('s')}/x.sock"
    service = TaskMesh(Tasks(), listen=address)
    server = await start(service, ServerConfig())
    try:
        with pytest.raises(BindError, match="another process serves it"):
            await start(TaskMesh(Tasks(), listen=address), ServerConfig())
    finally:
        await shut_down(service, server, 1)
    # A socket file that a killed process left behind is no obstacle.
    again = TaskMesh(Tasks(), listen=address)
    await shut_down(again, await start(again, ServerConfig()), 1)


@pytest.mark.parametrize("address", ["nonsense", "unix:/nonexistent-folder/x.sock", "unix:/" + "x" * 200])
async def test_an_address_that_cannot_be_listened_on(address: str) -> None:
    with pytest.raises(BindError, match="cannot listen on"):
        await start(TaskMesh(Tasks(), listen=address), ServerConfig())


async def test_an_rpc_is_never_left_out_silently() -> None:
    with pytest.raises(TypeError, match=r"does not implement sluice\.task\.v1\.TaskService\.GetTask"):
        await start(TaskMesh(object()), ServerConfig())


class NotingAuthenticator(LocalAuthenticator):
    """Notes where calls come from."""

    def __init__(self) -> None:
        self.peers: list[str] = []

    def authenticate(self, metadata: Any, peer: str, *more: Any) -> Any:
        self.peers.append(peer)
        return super().authenticate(metadata, peer, *more)


async def test_an_old_connection_takes_no_new_calls_and_ends_none() -> None:
    service, noting = TaskMesh(tasks := Tasks()), NotingAuthenticator()
    service.authenticator = noting
    server = await start(service, ServerConfig(max_connection_seconds=0.3))
    async with open_channel(server.address) as channel:
        stub: Any = pb_grpc.TaskServiceStub(channel)
        stream = stub.WatchTask(pb.WatchTaskRequest(name="tasks/x-slow"))
        assert [(await stream.read()).events[0].sequence for _ in range(2)] == [1, 2]
        while len(set(noting.peers)) < 3:  # the connections that followed the stream's
            await stub.GetTask(pb.GetTaskRequest(name="tasks/x-1"))
            await asyncio.sleep(0.01)
        assert not tasks.ended.is_set()
        tasks.release.set()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
    await shut_down(service, server, 1)


async def test_generated_code_registers_nothing_at_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[str] = []
    monkeypatch.setattr(
        grpc.aio.Server, "add_registered_method_handlers", lambda _, service, handlers: registered.append(service)
    )
    service = TaskMesh(Tasks(), probe="127.0.0.1:0")
    server = await start(service, ServerConfig())
    try:
        async with open_channel(server.address) as channel:
            plain: Any = channel  # the stubs know no channel of grpc.aio
            reflecting: Any = reflection_pb2_grpc.ServerReflectionStub(plain)
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            async for answer in reflecting.ServerReflectionInfo(iter([asked])):
                names = {each.name for each in answer.list_services_response.service}
    finally:
        await shut_down(service, server, 1)
    assert names == {"sluice.task.v1.TaskService", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert registered == []
