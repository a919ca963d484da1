"""Single events with their numbers."""

from typing import NamedTuple

from sluice.chat.v1 import event_pb2
from sluice.task.v1 import task_service_pb2


class NumberedEvent(NamedTuple):
    """One event of an answer and its number, from 1."""

    sequence: int
    event: event_pb2.Event

    @property
    def kind(self) -> str:
        """Name of the event's kind, e.g. `text_delta`."""
        return self.event.WhichOneof("kind") or ""


class NumberedTaskEvent(NamedTuple):
    """One event of a task and its number, from 1."""

    sequence: int
    task: task_service_pb2.Task
