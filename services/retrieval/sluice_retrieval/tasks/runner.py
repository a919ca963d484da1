"""Runs tasks: a few at a time, each with its events on disk before anyone hears of them.

A task that was not finished when the process ended is begun again at the next start, so work must be repeatable, and may
go on where it was. One that was begun too often without any advance is failed, because it may be what ends the process.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

from google.protobuf.message import Message
from sqlalchemy.orm import Session

from sluice.auth.v1.identity_pb2 import Identity
from sluice.task.v1 import task_service_pb2 as pb
from sluice_kit import errors
from sluice_kit.errors import SluiceError
from sluice_retrieval.names import now, timestamp
from sluice_retrieval.records import tasks as rows
from sluice_retrieval.records.database import Database
from sluice_retrieval.records.models import TaskRow

log = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 3
_EVENT_SECONDS: Final = 0.25
_State = pb.TaskState


class TaskHandle:
    """What work reports to. Progress never goes back, not even when the work begins again."""

    def __init__(self, runner: "TaskRunner", row: TaskRow) -> None:
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
        """Whether a cancellation of the work means that the service stops, and that it will go on later."""
        return self._runner.stopping

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


Work = Callable[[TaskHandle], Awaitable[Message]]
"""Does what a task asks for and returns its result. Raises SluiceError to fail it."""


class TaskRunner:
    """All tasks of this service."""

    def __init__(self, database: Database, work: Mapping[str, Work], concurrency: int) -> None:
        self._database = database
        self._work = work
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._quieting = asyncio.Lock()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._begun: set[str] = set()
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """Whether the service is about to stop."""
        return self._stopping

    @property
    def idle(self) -> bool:
        """Whether no task is running or waiting."""
        return not self._running

    @contextlib.asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Waits until no task is at work, and keeps those that wait from beginning for the length of the block."""
        async with self._quieting, contextlib.AsyncExitStack() as stack:
            for _ in range(self._concurrency):
                await self._slots.acquire()
                stack.callback(self._slots.release)
            yield

    async def start(self) -> None:
        """Begins what the last process left unfinished."""
        for row in await self._database.read(rows.unfinished):
            log.info("resuming a task", extra={"task": row.name, "attempts": row.attempts})
            self._launch(row)

    def drain(self) -> None:
        """Wakes every watcher to be told that the service stops."""
        self._stopping = True
        for events in self._watchers.values():
            for event in events:
                event.set()

    async def stop(self) -> None:
        """Interrupts what runs. It stays unfinished on disk and is begun again at the next start."""
        self.drain()
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def submit(
        self,
        identity: Identity,
        kind: str,
        subject: str,
        request: Message,
        *,
        exclusive: bool,
        request_id: str | None,
        fingerprint: str,
    ) -> pb.Task:
        """Makes and launches a task. Raises CORPUS_BUSY, REQUEST_ID_REUSED."""
        row, new = await self._database.write(
            lambda session: rows.create(
                session,
                identity.tenant,
                kind,
                subject,
                exclusive=exclusive,
                request=request.SerializeToString(),
                identity=identity.SerializeToString(),
                request_id=request_id,
                fingerprint=fingerprint,
            )
        )
        if new:
            self._launch(row)
        return rows.snapshot(row)

    async def cancel(self, tenant: str, name: str) -> pb.Task:
        """Asks a task to stop and returns it as it stands. Raises NotFoundError."""

        def mark(session: Session) -> TaskRow:
            row = rows.get(session, tenant, name)
            if row.state not in rows.ENDED:
                row.cancelling = True
            return row

        row = await self._database.write(mark)
        running = self._running.get(name)
        if row.cancelling and running is not None and name in self._begun:
            running.cancel()
        return rows.snapshot(row)

    async def record(self, name: str, task: pb.Task, *, begins: bool = False) -> None:
        """Writes an event of a task and wakes its watchers."""

        def write(session: Session) -> None:
            row = rows.get_by_name(session, name)
            if row.state in rows.ENDED:
                return  # cancelled in the moment of its end, which stands
            row.attempts += begins
            rows.record(session, row, task)

        await self._database.write(write)
        for event in self._watchers.get(name, ()):
            event.set()

    async def forgive(self, name: str) -> None:
        """Forgets how often a task was begun before this time."""

        def write(session: Session) -> None:
            rows.get_by_name(session, name).attempts = 1

        await self._database.write(write)

    def watch(self, name: str) -> asyncio.Event:
        """Returns an event that is set whenever the task has news. Give it back with `unwatch`."""
        event = asyncio.Event()
        self._watchers.setdefault(name, set()).add(event)
        return event

    def unwatch(self, name: str, event: asyncio.Event) -> None:
        """Takes an event back."""
        events = self._watchers[name]
        events.discard(event)
        if not events:
            del self._watchers[name]

    def _launch(self, row: TaskRow) -> None:
        task = asyncio.create_task(self._run(row), name=row.name)
        self._running[row.name] = task
        task.add_done_callback(lambda _: self._forget(row.name))

    def _forget(self, name: str) -> None:
        self._running.pop(name, None)
        self._begun.discard(name)

    async def _run(self, row: TaskRow) -> None:
        # From here on a cancellation reaches the handler below; one that came earlier is read from the row.
        self._begun.add(row.name)
        handle = TaskHandle(self, row)
        try:
            row = await self._database.read(lambda session: rows.get_by_name(session, row.name))
            if row.cancelling:
                await handle.end(_State.TASK_STATE_CANCELLED)
                return
            if row.attempts >= MAX_ATTEMPTS:
                await handle.end(_State.TASK_STATE_FAILED, error=self._defect("the process ended during the task", row))
                return
            async with self._slots:
                await handle.begin()
                result = await self._work[row.kind](handle)
            await handle.end(_State.TASK_STATE_SUCCEEDED, result=result)
        except asyncio.CancelledError:
            if self._stopping:
                raise
            # The one who cancelled is our own `cancel`; the task's end is its answer.
            await handle.end(_State.TASK_STATE_CANCELLED)
        except SluiceError as error:
            log.info("task failed", extra={"task": row.name, "reason": error.reason_name, "detail": error.message})
            await handle.end(_State.TASK_STATE_FAILED, error=error)
        except Exception:
            log.exception("task failed unexpectedly", extra={"task": row.name})
            await handle.end(_State.TASK_STATE_FAILED, error=self._defect("the task failed", row))

    @staticmethod
    def _defect(what: str, row: TaskRow) -> SluiceError:
        error_id = uuid.uuid4().hex[:12]
        log.error(what, extra={"task": row.name, "error_id": error_id})
        return errors.internal_error(error_id)
