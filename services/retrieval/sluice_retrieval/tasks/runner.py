"""Runs tasks: a few at a time, each with its events on disk before anyone hears of them.

A task that was not finished when the process ended is begun again at the next start, so work must be repeatable, and may
go on where it was. One that was begun too often without any advance is failed, because it may be what ends the process.

Where several processes share the records, each looks for unfinished tasks that nobody works on: whoever holds a task's lock
does, and the lock of a process that ends is free. So any of them takes tasks, answers for tasks, and stops them.
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
from sluice_kit.telemetry import current, table
from sluice_retrieval.records import tasks as rows
from sluice_retrieval.records.database import Database
from sluice_retrieval.records.locks import UPKEEP, Locks
from sluice_retrieval.records.models import TaskRow
from sluice_retrieval.tasks.handle import TaskHandle

log = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 3
_FOLLOW_SECONDS: Final = 1.0
"""How soon news of other processes is seen."""
_UPKEEP_SECONDS: Final = 0.2
_State = pb.TaskState


class _InterruptedError(Exception):
    """The work ends here and goes on later: the service stops, or the task may be another process's by now."""


Work = Callable[[TaskHandle], Awaitable[Message]]
"""Does what a task asks for and returns its result. Raises SluiceError to fail it."""


class TaskRunner:
    """All tasks of this service."""

    def __init__(self, database: Database, locks: Locks, work: Mapping[str, Work], concurrency: int) -> None:
        self._database = database
        self._locks = locks
        self._work = work
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._quieting = asyncio.Lock()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._begun: set[str] = set()
        self._working: set[str] = set()
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._stopping = False
        current().watch(table.TASKS_RUNNING, lambda: len(self._running))
        self._following: asyncio.Task[None] | None = None

    @property
    def stopping(self) -> bool:
        """Whether the service is about to stop."""
        return self._stopping

    @property
    def idle(self) -> bool:
        """Whether no task is running or waiting."""
        return not self._running

    def works_on(self, name: str) -> bool:
        """Tells whether a task is this process's to work on."""
        return self._locks.holds(name)

    @contextlib.asynccontextmanager
    async def quiet(self) -> AsyncIterator[bool]:
        """Waits until no task is at work, and keeps those that wait from beginning for the length of the block.

        Yields whether that holds for the other processes, too.
        """
        async with self._quieting, contextlib.AsyncExitStack() as stack:
            for _ in range(self._concurrency):
                await self._slots.acquire()
                stack.callback(self._slots.release)
            alone = await self._locks.take(UPKEEP)
            if alone:
                stack.push_async_callback(self._locks.give, UPKEEP)
            yield alone

    async def start(self) -> None:
        """Begins what the last process left unfinished."""
        for row in await self._database.read(rows.unfinished):
            log.info("resuming a task", extra={"task": row.name, "attempts": row.attempts})
            self._launch(row)
        if self._locks.shared:
            self._following = asyncio.create_task(self._follow())

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
        if self._following is not None:
            running.append(self._following)
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

    async def _follow(self) -> None:
        """Sees what other processes do: tasks that are free, or are to stop, and news for watchers."""
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            try:
                if not await self._locks.keep():
                    for name in list(self._working):
                        # Others may work on them from now on.
                        self._running[name].cancel()
                for row in await self._database.read(rows.unfinished):
                    if row.name not in self._running:
                        self._launch(row)
                for name in await self._database.read(rows.cancelled):
                    if name in self._working:
                        self._running[name].cancel()
            except SluiceError as error:
                log.warning("tasks of other processes cannot be seen", extra={"reason": error.reason_name})
                continue
            for events in self._watchers.values():
                for event in events:
                    event.set()

    async def _run(self, row: TaskRow) -> None:
        # From here on a cancellation reaches the handler below; one that came earlier is read from the row.
        self._begun.add(row.name)
        try:
            row = await self._database.read(lambda session: rows.get_by_name(session, row.name))
            if not row.cancelling and row.attempts < MAX_ATTEMPTS:
                await self._slots.acquire()
                try:
                    await self._work_on(row.name)
                finally:
                    self._slots.release()
            elif await self._locks.take(row.name):
                try:
                    await self._end(row.name)
                finally:
                    await self._locks.give(row.name)
        except _InterruptedError:
            log.info("a task is interrupted", extra={"task": row.name})
        except asyncio.CancelledError:
            # It was not begun yet, so whoever gets its lock may end it.
            if self._stopping or not await self._locks.take(row.name):
                raise
            try:
                await self._end(row.name)
            finally:
                await self._locks.give(row.name)
        except SluiceError as error:
            log.error("a task is left for later", extra={"task": row.name, "reason": error.reason_name})  # noqa: TRY400 - the records are away, and its text says so

    async def _work_on(self, name: str) -> None:
        """Does a task, unless another process does or did."""
        if not await self._locks.take(name):
            return
        try:
            while not await self._locks.take(UPKEEP, together=True):  # noqa: ASYNC110  # of another process
                await asyncio.sleep(_UPKEEP_SECONDS)
            try:
                await self._do(name)
            finally:
                await self._locks.give(UPKEEP, together=True)
        finally:
            await self._locks.give(name)

    async def _do(self, name: str) -> None:
        row = await self._database.read(lambda session: rows.get_by_name(session, name))
        if row.state in rows.ENDED:
            return
        if row.cancelling or row.attempts >= MAX_ATTEMPTS:
            await self._end(name)
            return
        handle = TaskHandle(self, row)
        self._working.add(name)
        try:
            await handle.begin()
            result = await self._work[row.kind](handle)
            await handle.end(_State.TASK_STATE_SUCCEEDED, result=result)
        except asyncio.CancelledError:
            if handle.interrupted:
                raise _InterruptedError from None
            # The one who cancelled is our own `cancel`; the task's end is its answer.
            await handle.end(_State.TASK_STATE_CANCELLED)
        except SluiceError as error:
            log.info("task failed", extra={"task": name, "reason": error.reason_name, "detail": error.message})
            await handle.end(_State.TASK_STATE_FAILED, error=error)
        except Exception:
            log.exception("task failed unexpectedly", extra={"task": name})
            await handle.end(_State.TASK_STATE_FAILED, error=self._defect("the task failed", row))
        finally:
            self._working.discard(name)

    async def _end(self, name: str) -> None:
        """Ends a task that is not to begin any more."""
        row = await self._database.read(lambda session: rows.get_by_name(session, name))
        if row.state in rows.ENDED:
            return
        handle = TaskHandle(self, row)
        if row.cancelling:
            await handle.end(_State.TASK_STATE_CANCELLED)
        else:
            await handle.end(_State.TASK_STATE_FAILED, error=self._defect("the process ended during the task", row))

    @staticmethod
    def _defect(what: str, row: TaskRow) -> SluiceError:
        error_id = uuid.uuid4().hex[:12]
        log.error(what, extra={"task": row.name, "error_id": error_id})
        return errors.internal_error(error_id)
