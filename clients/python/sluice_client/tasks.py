"""Tasks: long work, the same everywhere."""

from collections.abc import Sequence

from sluice.task.v1 import task_service_pb2 as pb
from sluice.task.v1.task_service_pb2_grpc import TaskServiceStub
from sluice_client.connection import Connection
from sluice_client.pages import Pager
from sluice_client.streams import TaskStream


class TaskCalls(Connection):
    """The calls of `sluice.task.v1`."""

    async def get_task(self, name: str) -> pb.Task:
        """Returns a task."""
        return (await self.unary(self.stub(TaskServiceStub).GetTask, pb.GetTaskRequest(name=name))).task

    def list_tasks(
        self, *, kind: str | None = None, states: "Sequence[pb.TaskState.ValueType]" = (), page_size: int = 0
    ) -> Pager[pb.ListTasksResponse, pb.Task]:
        """Lists tasks, newest first. Its pages name the owners that could not be asked."""

        async def fetch(token: str) -> pb.ListTasksResponse:
            request = pb.ListTasksRequest(page_size=page_size, page_token=token, kind=kind, states=states)
            return await self.unary(self.stub(TaskServiceStub).ListTasks, request)

        return Pager(fetch, lambda page: page.tasks)

    async def cancel_task(self, name: str) -> pb.Task:
        """Asks a task to stop and returns it; it may run until it reaches a safe point. Safe to repeat."""
        return (await self.unary(self.stub(TaskServiceStub).CancelTask, pb.CancelTaskRequest(name=name))).task

    def watch_task(self, name: str, after_sequence: int = 0, *, timeout: float | None = None) -> TaskStream:
        """Returns the stream of a task's events; it goes on by itself when its connection breaks."""
        tasks = self.stub(TaskServiceStub)
        return TaskStream(
            lambda after, left: tasks.WatchTask(
                pb.WatchTaskRequest(name=name, after_sequence=after), timeout=left, metadata=self.metadata
            ),
            policy=self.retry,
            timeout=timeout,
            after_sequence=after_sequence,
        )
