"""Turns in the database, from their beginning to their end. Every function runs in a transaction of its caller's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import CursorResult, and_, or_, select, update
from sqlalchemy.orm import Session

from sluice.chat.v1.message_pb2 import Message
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_gateway.conversations.codec import labels_text, pack_question, plain, unpack_question
from sluice_gateway.conversations.history import PastTurn
from sluice_gateway.conversations.models import COMPLETED, FAILED, RUNNING, ConversationRow, TurnRow
from sluice_gateway.conversations.retention import Retention, kept
from sluice_gateway.conversations.store import find
from sluice_kit.errors import make_error, to_status

MAX_MESSAGES: Final = 1024
"""Most messages that an adapter takes."""


@dataclass(frozen=True, slots=True)
class NewTurn:
    """What a turn begins with."""

    tenant: str
    conversation: str
    """Resource name."""
    response: str
    subject: str
    requested_model: str
    labels: Mapping[str, str]
    question: Sequence[Message]


@dataclass(frozen=True, slots=True)
class Past:
    """What was said before, oldest first, and how many older turns were not read at all."""

    turns: list[PastTurn]
    unread: int


@dataclass(frozen=True, slots=True)
class Begun:
    """A turn that began: where its row is, and what went before."""

    conversation: str
    """Id of the conversation's row."""
    number: int
    past: Past


@dataclass(frozen=True, slots=True)
class Owner:
    """The gateway that makes turns, and how long it says it lives, in nanoseconds."""

    id: str
    lease_ns: int


def is_busy_elsewhere(session: Session, tenant: str, conversation: str, owner: Owner | None, now: int) -> bool:
    """Whether another gateway than `owner` makes a turn of a conversation now. Raises NotFoundError.

    `owner` None: that is not asked.
    """
    row = find(session, tenant, conversation)
    if owner is None:
        return False
    query = select(TurnRow.number).where(
        TurnRow.conversation == row.id, TurnRow.state == RUNNING, TurnRow.owner != owner.id, TurnRow.lease_ns > now
    )
    return session.scalar(query) is not None


def begin(
    session: Session, new: NewTurn, owner: Owner, defaults: Retention, now: int, history_bytes: int
) -> Begun | None:
    """Puts a turn on record as running, and reads what went before.

    Returns None while another gateway makes a turn of this conversation. Raises NotFoundError. The caller is the only
    one of its own gateway that makes one, so a row that says otherwise is what was left of a failure.
    """
    row = find(session, new.tenant, new.conversation, lock=True)
    running = session.scalars(
        select(TurnRow).where(TurnRow.conversation == row.id, TurnRow.state == RUNNING).with_for_update()
    ).first()
    if running is not None:
        if running.owner != owner.id and running.lease_ns > now:
            return None
        _lose(session, now, TurnRow.conversation == row.id)
    past = _past(session, row, defaults, now, history_bytes)
    row.last_number += 1
    row.update_ns = now
    question = pack_question(new.question)
    session.add(
        TurnRow(
            conversation=row.id,
            number=row.last_number,
            tenant=new.tenant,
            state=RUNNING,
            owner=owner.id,
            lease_ns=now + owner.lease_ns,
            response=new.response,
            subject=plain(new.subject),
            requested_model=plain(new.requested_model),
            labels=labels_text(new.labels),
            question=question,
            size=len(question),
            messages=len(new.question),
            provider="",
            model="",
            input_tokens=0,
            cached_input_tokens=0,
            output_tokens=0,
            reasoning_tokens=0,
            usage_source=0,
            finish_reason=0,
            raw_finish_reason="",
            create_ns=now,
        )
    )
    return Begun(row.id, row.last_number, past)


def end(session: Session, begun: Begun, owner: Owner, values: Mapping[str, Any], now: int) -> bool:
    """Writes how a turn ended. Returns False if it is no longer this gateway's: deleted, or taken for lost.

    `values` are columns of TurnRow; `answer_size` is added to its size.
    """
    columns = dict(values)
    columns["size"] = TurnRow.size + columns.pop("answer_size")
    result = session.execute(
        update(TurnRow)
        .where(
            TurnRow.conversation == begun.conversation,
            TurnRow.number == begun.number,
            TurnRow.owner == owner.id,
            TurnRow.state == RUNNING,
        )
        .values(messages=TurnRow.messages + 1, end_ns=now, **columns)
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)  # of every UPDATE
    session.execute(
        update(ConversationRow)
        .where(ConversationRow.id == begun.conversation)
        .values(update_ns=now)
        .execution_options(synchronize_session=False)
    )
    return result.rowcount == 1


def renew(session: Session, owner: Owner, now: int) -> None:
    """Says that this gateway is alive, for all the turns that it makes."""
    session.execute(
        update(TurnRow)
        .where(TurnRow.owner == owner.id, TurnRow.state == RUNNING)
        .values(lease_ns=now + owner.lease_ns)
        .execution_options(synchronize_session=False)
    )


def recover(session: Session, owner: Owner, now: int, *, shared: bool) -> None:
    """Ends what a crash left open: turns of this gateway, and those of gateways that are not heard of any more.

    A database that is not `shared` has no other gateway's.
    """
    if shared:
        _lose(session, now, or_(TurnRow.owner == owner.id, TurnRow.lease_ns <= now))
    else:
        _lose(session, now)


def lose_expired(session: Session, now: int) -> None:
    """Ends turns of gateways that are not heard of any more."""
    _lose(session, now, TurnRow.lease_ns <= now)


def _lose(session: Session, now: int, *conditions: Any) -> None:
    lost = to_status(
        make_error(
            ErrorReason.ERROR_REASON_RESPONSE_LOST, "the gateway that made this answer ended before it was recorded"
        )
    )
    session.execute(
        update(TurnRow)
        .where(TurnRow.state == RUNNING, *conditions)
        .values(state=FAILED, error=lost.SerializeToString(), end_ns=now)
        .execution_options(synchronize_session="fetch")
    )
    session.flush()


def _past(session: Session, row: ConversationRow, defaults: Retention, now: int, history_bytes: int) -> Past:
    """Reads the newest completed turns, as many as `history_bytes` and one request's messages hold."""
    there = and_(kept(session, row, defaults, now), TurnRow.state == COMPLETED)
    sizes = session.execute(
        select(TurnRow.number, TurnRow.size, TurnRow.messages).where(there).order_by(TurnRow.number.desc())
    )
    oldest, unread, size, messages = None, 0, 0, 0
    for number, bytes_, count in sizes:
        size += bytes_
        messages += count
        if unread or size > history_bytes or messages >= MAX_MESSAGES:
            unread += 1
        else:
            oldest = number
    if oldest is None:
        return Past([], unread)
    rows = session.execute(
        select(TurnRow.number, TurnRow.question, TurnRow.answer)
        .where(there, TurnRow.number >= oldest)
        .order_by(TurnRow.number)
    )
    turns = [
        PastTurn(number, tuple(unpack_question(question)), Message.FromString(answer or b""))
        for number, question, answer in rows
    ]
    return Past(turns, unread)
