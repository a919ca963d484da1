"""TaskService."""

import asyncio
from functools import partial
from typing import Final

from sqlalchemy.orm import Session

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.task.v1 import task_service_pb2 as pb
from sluice_kit.call import Call
from sluice_kit.errors import make_error
from sluice_kit.rpc import SendMessage, invalid_field
from sluice_retrieval.names import DEFAULT_PAGE, decode_page, encode_page
from sluice_retrieval.records import tasks as rows
from sluice_retrieval.records.database import Database
from sluice_retrieval.records.models import TaskRow
from sluice_retrieval.tasks.runner import TaskRunner

_BATCH: Final = 256
_HEARTBEAT_SECONDS: Final = 10.0
_STALL_SECONDS: Final = 30.0


class TaskService:
    """Long work, the same everywhere."""

    def __init__(self, database: Database, runner: TaskRunner) -> None:
        self._database = database
        self._runner = runner

    async def GetTask(self, request: pb.GetTaskRequest, call: Call) -> pb.GetTaskResponse:
        return pb.GetTaskResponse(task=rows.snapshot(await self._get(request.name, call)))

    async def ListTasks(self, request: pb.ListTasksRequest, call: Call) -> pb.ListTasksResponse:
        size = request.page_size or DEFAULT_PAGE
        before: int | None = None
        if request.page_token:
            text = decode_page(request.page_token)
            if not text.isdecimal():
                raise invalid_field("page_token", "not a token of an earlier response")
            before = int(text)
        kind = request.kind if request.HasField("kind") else None

        def page(session: Session) -> list[TaskRow]:
            return rows.page(session, call.tenant, before, size + 1, kind, list(request.states))

        found = await self._database.read(page)
        token = encode_page(str(found[size - 1].ordinal)) if len(found) > size else ""
        return pb.ListTasksResponse(tasks=map(rows.snapshot, found[:size]), next_page_token=token)

    async def CancelTask(self, request: pb.CancelTaskRequest, call: Call) -> pb.CancelTaskResponse:
        return pb.CancelTaskResponse(task=await self._runner.cancel(call.tenant, request.name))

    async def WatchTask(self, request: pb.WatchTaskRequest, call: Call, send: SendMessage) -> None:
        """Every watcher reads the events from the records at its own pace, so none can hold up another."""
        after = request.after_sequence
        await self._get(request.name, call)
        news = self._runner.watch(request.name)
        try:
            while True:
                news.clear()
                row = await self._get(request.name, call)
                events = await self._database.read(partial(rows.events, name=request.name, after=after, count=_BATCH))
                if events:
                    await self._send(send, pb.WatchTaskResponse(events=events))
                    after = events[-1].sequence
                    if events[-1].task.state in rows.ENDED:
                        return
                    continue
                if row.state in rows.ENDED:
                    return
                if self._runner.stopping:
                    raise make_error(
                        ErrorReason.ERROR_REASON_DRAINING,
                        "the service is shutting down; the task goes on after its restart",
                        retry_after=1,
                    )
                try:
                    await asyncio.wait_for(news.wait(), _HEARTBEAT_SECONDS)
                except TimeoutError:
                    await self._send(send, pb.WatchTaskResponse())
        finally:
            self._runner.unwatch(request.name, news)

    @staticmethod
    async def _send(send: SendMessage, message: pb.WatchTaskResponse) -> None:
        try:
            async with asyncio.timeout(_STALL_SECONDS):
                await send(message)
        except TimeoutError:
            raise make_error(
                ErrorReason.ERROR_REASON_WATCHER_STALLED,
                "this watcher reads too slowly; watch again from the last event it has",
                retry_after=1,
            ) from None

    async def _get(self, name: str, call: Call) -> TaskRow:
        return await self._database.read(lambda session: rows.get(session, call.tenant, name))
