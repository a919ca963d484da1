"""Announce: the events by which a stream tells what is done so that an answer comes to its end."""

from sluice.chat.v1.event_pb2 import Event, Notice, NoticeCode, RouteChanged
from sluice.chat.v1.target_pb2 import Target
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_kit.errors import Reason, reason_name


def route_changed(record: AttemptRecord, previous: Target, reason: Reason) -> Event:
    """Returns the event for an attempt that takes over from a target."""
    return Event(
        route_changed=RouteChanged(attempt_id=record.id, target=record.target, reason=reason, previous=previous)
    )


def hedged(record: AttemptRecord) -> Event:
    """Returns the event for an attempt beside another one."""
    name = f"{record.target.provider}/{record.target.model}"
    return Event(
        notice=Notice(
            code=NoticeCode.NOTICE_CODE_HEDGED,
            message=f"the first target is slow to begin; {name} is asked, too",
            metadata={"attempt_id": record.id, "target": name},
        )
    )


def default_model(record: AttemptRecord, reason: Reason) -> Event:
    """Returns the event for an attempt at the operator's default model."""
    name = f"{record.target.provider}/{record.target.model}"
    return Event(
        notice=Notice(
            code=NoticeCode.NOTICE_CODE_DEFAULT_MODEL,
            message=f"no target of the request can be used; the default model {name} is asked instead",
            metadata={"target": name, "reason": reason_name(reason)},
        )
    )
