"""Conversations in the database. Every function runs in a transaction of its caller's, and in a thread."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import conversation_service_pb2 as pb
from sluice_gateway.conversations.codec import conversation_message, labels_text, plain, turn_message
from sluice_gateway.conversations.models import RUNNING, ConversationRow, TurnRow
from sluice_gateway.conversations.retention import Retention, count, delete_all, kept
from sluice_kit.errors import NotFoundError, SluiceError, make_error
from sluice_kit.ids import new_uuid

_PAGE_BYTES = 8 * 1024 * 1024
"""A page of turns is cut where it would grow beyond this."""


@dataclass(frozen=True, slots=True)
class NewConversation:
    """What a conversation is made with."""

    tenant: str
    conversation_id: str
    """Empty: one is made up."""
    display_name: str
    labels: Mapping[str, str]
    max_age_ns: int | None
    max_turns: int | None
    request_id: str | None
    fingerprint: str


def not_found(name: str) -> NotFoundError:
    """Returns the error for a conversation that there is not."""
    return NotFoundError(f"no {name}", metadata={"resource": name})


def busy(name: str, why: str) -> SluiceError:
    """Returns the error for a conversation in which another answer is being made."""
    return make_error(
        ErrorReason.ERROR_REASON_CONVERSATION_BUSY, f"{name} {why}", retry_after=1.0, metadata={"resource": name}
    )


def find(session: Session, tenant: str, name: str, *, lock: bool = False) -> ConversationRow:
    """Returns a conversation by its resource name. Raises NotFoundError; another tenant's does not exist either.

    With `lock` nobody else changes it, or begins a turn in it, until the transaction ends.
    """
    query = select(ConversationRow).where(
        ConversationRow.tenant == tenant, ConversationRow.conversation_id == name.removeprefix("conversations/")
    )
    row = session.scalars(query.with_for_update() if lock else query).first()
    if row is None:
        raise not_found(name)
    return row


def create(session: Session, new: NewConversation, defaults: Retention, now: int) -> pb.Conversation:
    """Makes a conversation. Raises ALREADY_EXISTS or REQUEST_ID_REUSED."""
    earlier = _earlier(session, new)
    if earlier is None:
        conversation_id = new.conversation_id or new_uuid().replace("-", "")
        row = ConversationRow(
            id=new_uuid().replace("-", ""),
            tenant=new.tenant,
            conversation_id=conversation_id,
            display_name=plain(new.display_name) or conversation_id,
            labels=labels_text(new.labels),
            max_age_ns=new.max_age_ns,
            max_turns=new.max_turns,
            last_number=0,
            request_id=new.request_id,
            fingerprint=new.fingerprint,
            create_ns=now,
            update_ns=now,
        )
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError:
            # Somebody else made it in this very moment.
            earlier = _earlier(session, new)
            if earlier is None:
                raise
        else:
            return conversation_message(row, 0)
    return conversation_message(earlier, count(session, earlier, defaults, now))


def _earlier(session: Session, new: NewConversation) -> ConversationRow | None:
    """Returns the conversation that an earlier call with the same request id made."""
    # One query, because between two somebody else may make it.
    same = [ConversationRow.conversation_id == new.conversation_id]
    if new.request_id is not None:
        same.append(ConversationRow.request_id == new.request_id)
    rows = session.scalars(select(ConversationRow).where(ConversationRow.tenant == new.tenant, or_(*same))).all()
    for row in rows:
        if new.request_id is not None and row.request_id == new.request_id:
            if row.fingerprint == new.fingerprint:
                return row
            raise make_error(
                ErrorReason.ERROR_REASON_REQUEST_ID_REUSED, "this request_id was used for another conversation"
            )
    if rows:
        name = f"conversations/{new.conversation_id}"
        raise make_error(
            ErrorReason.ERROR_REASON_ALREADY_EXISTS, f"there is a {name} already", metadata={"resource": name}
        )
    return None


def get(session: Session, tenant: str, name: str, defaults: Retention, now: int) -> pb.Conversation:
    """Returns a conversation. Raises NotFoundError."""
    row = find(session, tenant, name)
    return conversation_message(row, count(session, row, defaults, now))


def listed(
    session: Session, tenant: str, after: str, size: int, defaults: Retention, now: int
) -> tuple[list[pb.Conversation], str]:
    """Returns conversations by name, those after the id `after`, and the id to go on after; empty: these were all."""
    query = (
        select(ConversationRow)
        .where(ConversationRow.tenant == tenant, ConversationRow.conversation_id > after)
        .order_by(ConversationRow.conversation_id)
        .limit(size + 1)
    )
    rows = session.scalars(query).all()
    page = rows[:size]
    found = [conversation_message(row, count(session, row, defaults, now)) for row in page]
    return found, page[-1].conversation_id if len(rows) > size else ""


def remove(session: Session, tenant: str, name: str) -> list[str]:
    """Deletes a conversation with its turns and returns the names of their responses. Raises NotFoundError."""
    row = find(session, tenant, name, lock=True)
    responses = delete_all(session, row)
    session.delete(row)
    return responses


def clear(session: Session, tenant: str, name: str, now: int) -> tuple[pb.Conversation, list[str]]:
    """Deletes the turns of a conversation; returns it, and the names of their responses.

    Raises NotFoundError, and CONVERSATION_BUSY while one is being made.
    """
    row = find(session, tenant, name, lock=True)
    if session.scalar(select(TurnRow.number).where(TurnRow.conversation == row.id, TurnRow.state == RUNNING)):
        raise busy(name, "is busy with an answer; cancel it first")
    responses = delete_all(session, row)
    row.update_ns = now
    return conversation_message(row, 0), responses


def turns(
    session: Session,
    tenant: str,
    name: str,
    after: int | None,
    size: int,
    defaults: Retention,
    now: int,
    *,
    newest_first: bool,
) -> tuple[list[pb.Turn], int | None]:
    """Returns turns from the one after the number `after` on, and the number to go on after; None: these were all.

    Raises NotFoundError.
    """
    row = find(session, tenant, name)
    query = select(TurnRow).where(kept(session, row, defaults, now))
    if after is not None:
        query = query.where(TurnRow.number < after if newest_first else TurnRow.number > after)
    query = query.order_by(TurnRow.number.desc() if newest_first else TurnRow.number).limit(size + 1)
    page: list[pb.Turn] = []
    total = 0
    # One row at a time, so that a page that has to be cut is not in memory as a whole first.
    with session.scalars(query.execution_options(yield_per=1)) as rows:
        for one in rows:
            turn = turn_message(one, name)
            total += turn.ByteSize()
            if len(page) == size or (page and total > _PAGE_BYTES):
                return page, page[-1].number
            page.append(turn)
    return page, None
