"""What the work of a task reports to."""

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

from google.protobuf.message import Message

from sluice.auth.v1.identity_pb2 import Identity
from sluice.task.v1 import task_service_pb2 as pb
from sluice_kit import errors
from sluice_kit.errors import SluiceError
from sluice_kit.telemetry import current
from sluice_retrieval.names import now, timestamp
from sluice_retrieval.records import tasks as rows
from sluice_retrieval.records.models import TaskRow

_EVENT_SECONDS: Final = 0.25
_State = pb.TaskState


class TaskKeeper(Protocol):
    """Who writes down what a task reports: the runner."""

    @property
    def stopping(self) -> bool:
        """Whether the service is about to stop."""

    def works_on(self, name: str) -> bool:
        """Tells whether a task is this process's to work on."""

    async def record(self, name: str, task: pb.Task, *, begins: bool = False) -> None:
        """Writes an event of a task and wakes its watchers."""

    async def forgive(self, name: str) -> None:
        """Forgets how often a task was begun before this time."""


class TaskHandle:
    """What work reports to. Progress never goes back, not even when the work begins again."""

    def __init__(self, runner: TaskKeeper, row: TaskRow) -> None:
        self._runner = runner
        self._task = rows.snapshot(row)
        self._due = 0.0
        self.tenant = row.tenant
        self.name = row.name
        self._attempts = row.attempts
        self.identity = Identity.FromString(row.identity)
        self.request = row.request

    @property
    def interrupted(self) -> bool:
        """Whether a cancellation of the work means that the service stops, or must stop, and that it will go on later."""
        return self._runner.stopping or not self._runner.works_on(self.name)

    async def report(
        self,
        step: str | None = None,
        progress: float | None = None,
        counts: Mapping[str, int] | None = None,
        *,
        advanced: bool = False,
    ) -> None:
        """Says what the work does now and how far it is. Events are written at once for a new step, else seldom.

        `advanced` says that a part is done for good, which a new beginning will not do again: then it does not matter
        how often the task was begun before.
        """
        task = self._task
        if advanced and self._attempts > 1:
            self._attempts = 1
            await self._runner.forgive(self.name)
        changed = step is not None and step != task.step
        if step is not None:
            task.step = step
        if progress is not None:
            task.progress = min(1.0, max(task.progress, progress))
        for key, count in (counts or {}).items():
            task.counts[key] = count
        time = asyncio.get_running_loop().time()
        if changed or time >= self._due:
            self._due = time + _EVENT_SECONDS
            await self._runner.record(self.name, task)

    async def begin(self) -> None:
        """Marks the task RUNNING."""
        self._task.state = _State.TASK_STATE_RUNNING
        self._task.counts.clear()
        if not self._task.HasField("start_time"):
            self._task.start_time.CopyFrom(timestamp(now()))
        self._attempts += 1
        await self._runner.record(self.name, self._task, begins=True)

    async def end(
        self, state: "pb.TaskState.ValueType", result: Message | None = None, error: SluiceError | None = None
    ) -> None:
        """Marks the task ended."""
        task = self._task
        task.state = state
        task.end_time.CopyFrom(timestamp(now()))
        if result is not None:
            task.progress = 1.0
            task.result.Pack(result)
        if error is not None:
            task.error.CopyFrom(errors.to_status(error))
        await self._runner.record(self.name, task)
        end = task.end_time.ToNanoseconds()
        took = (end - (task.start_time.ToNanoseconds() or end)) / 1e9
        ended = _State.Name(state).removeprefix("TASK_STATE_").lower()
        current().task_ended(task.kind, ended, error.reason_name if error is not None else "", took)
