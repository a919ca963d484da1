"""Tasks and their events, as functions of a session."""

import uuid
from collections.abc import Sequence
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.task.v1 import task_service_pb2 as pb
from sluice_kit.errors import make_error
from sluice_retrieval.names import TASK_OWNER, not_found, now, request_id_reused, timestamp
from sluice_retrieval.records.models import TaskEventRow, TaskRow

ENDED: Final = (
    pb.TaskState.TASK_STATE_SUCCEEDED,
    pb.TaskState.TASK_STATE_FAILED,
    pb.TaskState.TASK_STATE_CANCELLED,
)
KEPT_EVENTS: Final = 1000
"""Events kept of each task, the newest."""


def snapshot(row: TaskRow) -> pb.Task:
    """Returns the task as it stands."""
    return pb.Task.FromString(row.snapshot)


def create(
    session: Session,
    tenant: str,
    kind: str,
    subject: str,
    *,
    exclusive: bool,
    request: bytes,
    identity: bytes,
    request_id: str | None,
    fingerprint: str,
) -> tuple[TaskRow, bool]:
    """Makes a task, or finds the one of an earlier call with this request_id. Returns it, and whether it is new.

    Raises CORPUS_BUSY if it is exclusive and another exclusive one works on its subject.
    """
    if request_id is not None:
        made = session.scalar(select(TaskRow).where(TaskRow.tenant == tenant, TaskRow.request_id == request_id))
        if made is not None:
            if made.fingerprint != fingerprint:
                raise request_id_reused()
            return made, False
    if exclusive:
        refuse_if_busy(session, tenant, subject)
    task = pb.Task(
        name=f"tasks/{TASK_OWNER}-{uuid.uuid4().hex}",
        kind=kind,
        state=pb.TaskState.TASK_STATE_PENDING,
        create_time=timestamp(now()),
        subject=subject,
    )
    row = TaskRow(
        name=task.name,
        tenant=tenant,
        kind=kind,
        subject=subject,
        exclusive=exclusive,
        state=task.state,
        sequence=0,
        snapshot=b"",
        request=request,
        identity=identity,
        request_id=request_id,
        fingerprint=fingerprint,
        attempts=0,
        cancelling=False,
    )
    session.add(row)
    record(session, row, task)
    return row, True


def refuse_if_busy(session: Session, tenant: str, subject: str) -> None:
    """Raises CORPUS_BUSY, naming the task, if an exclusive one works on the subject."""
    busy = session.scalar(
        select(TaskRow.name).where(
            TaskRow.tenant == tenant,
            TaskRow.subject == subject,
            TaskRow.exclusive,
            TaskRow.state.not_in(ENDED),
        )
    )
    if busy is not None:
        raise make_error(
            ErrorReason.ERROR_REASON_CORPUS_BUSY,
            f"{subject} is being indexed by {busy}; wait for it, or cancel it",
            retry_after=5,
            metadata={"task": busy},
        )


def record(session: Session, row: TaskRow, task: pb.Task) -> None:
    """Writes what the task is now, as its next event."""
    row.sequence += 1
    row.state = task.state
    row.snapshot = task.SerializeToString()
    if task.state in ENDED:
        row.end_time = now()
    session.add(TaskEventRow(task=row.name, sequence=row.sequence, tenant=row.tenant, task_after=row.snapshot))
    if row.sequence > KEPT_EVENTS:
        session.execute(
            delete(TaskEventRow).where(
                TaskEventRow.task == row.name, TaskEventRow.sequence <= row.sequence - KEPT_EVENTS
            )
        )


def get(session: Session, tenant: str, name: str) -> TaskRow:
    """Returns a task of the tenant. Raises NotFoundError."""
    row = session.scalar(select(TaskRow).where(TaskRow.tenant == tenant, TaskRow.name == name))
    if row is None:
        raise not_found(name)
    return row


def get_by_name(session: Session, name: str) -> TaskRow:
    """Returns a task that is known to exist, whoever owns it."""
    return session.scalars(select(TaskRow).where(TaskRow.name == name)).one()


def page(
    session: Session, tenant: str, before: int | None, count: int, kind: str | None, states: Sequence[int]
) -> list[TaskRow]:
    """Returns the tenant's tasks, newest first, those before an ordinal."""
    query = select(TaskRow).where(TaskRow.tenant == tenant)
    if before is not None:
        query = query.where(TaskRow.ordinal < before)
    if kind is not None:
        query = query.where(TaskRow.kind == kind)
    if states:
        query = query.where(TaskRow.state.in_(states))
    return list(session.scalars(query.order_by(TaskRow.ordinal.desc()).limit(count)))


def unfinished(session: Session) -> list[TaskRow]:
    """Returns every tenant's tasks that have not ended, oldest first."""
    return list(session.scalars(select(TaskRow).where(TaskRow.state.not_in(ENDED)).order_by(TaskRow.ordinal)))


def cancelled(session: Session) -> set[str]:
    """Returns the names of tasks that were asked to stop and have not ended."""
    return set(session.scalars(select(TaskRow.name).where(TaskRow.state.not_in(ENDED), TaskRow.cancelling)))


def events(session: Session, name: str, after: int, count: int) -> list[pb.TaskEvent]:
    """Returns events of a task after a sequence, in order."""
    query = select(TaskEventRow).where(TaskEventRow.task == name, TaskEventRow.sequence > after)
    return [
        pb.TaskEvent(sequence=row.sequence, task=pb.Task.FromString(row.task_after))
        for row in session.scalars(query.order_by(TaskEventRow.sequence).limit(count))
    ]


def forget(session: Session, ended_before: float) -> int:
    """Deletes tasks that ended before a time, with their events. Returns how many."""
    names = list(
        session.scalars(select(TaskRow.name).where(TaskRow.end_time.is_not(None), TaskRow.end_time < ended_before))
    )
    for name in names:
        session.execute(delete(TaskEventRow).where(TaskEventRow.task == name))
        session.execute(delete(TaskRow).where(TaskRow.name == name))
    return len(names)
