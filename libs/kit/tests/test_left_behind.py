"""A call that failed leaves nothing behind that waits for garbage collection: in a service that comes once in hours."""

import asyncio
import logging
import weakref
from pathlib import Path
from typing import Any

import grpc
import pytest

from sluice.task.v1 import task_service_pb2 as pb
from sluice.task.v1 import task_service_pb2_grpc as pb_grpc
from sluice_kit.auth import LocalAuthenticator
from sluice_kit.call import Call
from sluice_kit.channels import open_channel
from sluice_kit.config import ServerConfig
from sluice_kit.errors import NotFoundError, SluiceError
from sluice_kit.rpc import SendMessage
from sluice_kit.server import Server


class _Work:
    """What a handler works on: it knows what it failed with."""

    def __init__(self) -> None:
        self.failure: SluiceError | None = None

    def fail(self) -> None:
        self.failure = NotFoundError("no such task")
        raise self.failure


class _Tasks:
    def __init__(self) -> None:
        self.works: list[weakref.ref[_Work]] = []

    def _fail(self, defect: bool) -> None:
        work = _Work()
        self.works.append(weakref.ref(work))
        if defect:
            raise RuntimeError
        work.fail()

    async def GetTask(self, request: pb.GetTaskRequest, _: Call) -> pb.GetTaskResponse:
        self._fail("defect" in request.name)
        return pb.GetTaskResponse()

    async def WatchTask(self, request: pb.WatchTaskRequest, _: Call, send: SendMessage) -> None:
        await send(pb.WatchTaskResponse())
        self._fail("defect" in request.name)

    async def ListTasks(self, _: pb.ListTasksRequest, __: Call) -> pb.ListTasksResponse:
        return pb.ListTasksResponse()

    async def CancelTask(self, _: pb.CancelTaskRequest, __: Call) -> pb.CancelTaskResponse:
        return pb.CancelTaskResponse()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("name", ["tasks/x-absent", "tasks/x-defect"])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_failed_call_worked_on_is_gone(
    tmp_path: Path, name: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What pytest keeps of the log holds the exception.
    monkeypatch.setattr(logging.getLogger("sluice_kit.rpc"), "propagate", False)
    tasks = _Tasks()
    address = f"unix:{tmp_path}/s.sock"
    server = Server("test", address, None, LocalAuthenticator(), ServerConfig())
    server.add(pb.DESCRIPTOR.services_by_name["TaskService"], tasks)
    await server.bind()
    await server.ready()
    try:
        async with open_channel(address) as channel:
            stub: Any = pb_grpc.TaskServiceStub(channel)
            for _ in range(3):
                with pytest.raises(grpc.aio.AioRpcError):
                    if stream:
                        async for _message in stub.WatchTask(pb.WatchTaskRequest(name=name)):
                            pass
                    else:
                        await stub.GetTask(pb.GetTaskRequest(name=name))
        await server.dispatcher.wait_idle()
        for _ in range(10):  # what is left of a call's task needs some turns of the loop
            await asyncio.sleep(0)
        assert len(tasks.works) == 3
        assert [work for work in tasks.works if work() is not None] == []
    finally:
        await server.stop(0)
