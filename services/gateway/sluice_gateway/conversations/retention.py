"""How long turns are kept: what is too old, or one too many, is gone for readers before it is deleted."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select
from sqlalchemy.orm import Session

from sluice_gateway.conversations.models import RUNNING, ConversationRow, TurnRow

_TURNS_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Retention:
    """How long turns are kept where a conversation does not say. None: without an end."""

    max_age_ns: int | None = None
    max_turns: int | None = None

    def of(self, row: ConversationRow) -> "Retention":
        """Returns what holds for a conversation."""
        age = self.max_age_ns if row.max_age_ns is None else row.max_age_ns
        return Retention(age, self.max_turns if row.max_turns is None else row.max_turns)


def kept(session: Session, row: ConversationRow, defaults: Retention, now: int) -> ColumnElement[bool]:
    """Returns the condition under which a turn of a conversation is still there. One that runs always is."""
    rules = defaults.of(row)
    conditions: list[ColumnElement[bool]] = []
    if rules.max_age_ns is not None:
        conditions.append(TurnRow.create_ns > now - rules.max_age_ns)
    if rules.max_turns is not None:
        first_too_many = session.scalar(
            select(TurnRow.number)
            .where(TurnRow.conversation == row.id)
            .order_by(TurnRow.number.desc())
            .offset(rules.max_turns)
            .limit(1)
        )
        if first_too_many is not None:
            conditions.append(TurnRow.number > first_too_many)
    mine = TurnRow.conversation == row.id
    return and_(mine, or_(TurnRow.state == RUNNING, and_(*conditions))) if conditions else mine


def count(session: Session, row: ConversationRow, defaults: Retention, now: int) -> int:
    """Returns how many turns a conversation has."""
    return session.scalar(select(func.count()).select_from(TurnRow).where(kept(session, row, defaults, now))) or 0


@dataclass(frozen=True, slots=True)
class Swept:
    """What one pass deleted, by tenant and name, and where the next one goes on; `full`: it left work behind."""

    responses: list[tuple[str, str]]
    conversations: list[tuple[str, str]]
    cursor: str
    full: bool


def sweep(session: Session, defaults: Retention, now: int, cursor: str, limit: int) -> Swept:
    """Deletes turns that are no longer kept, and conversations in which nothing happens any more.

    Looks at no more than `limit` conversations, from the one after `cursor` (an id) on, and deletes a bounded number of
    turns of each.
    """
    found: Select[ConversationRow] = select(ConversationRow).where(ConversationRow.id > cursor)
    if defaults.max_age_ns is None and defaults.max_turns is None:
        found = found.where(or_(ConversationRow.max_age_ns.is_not(None), ConversationRow.max_turns.is_not(None)))
    rows = session.scalars(found.order_by(ConversationRow.id).limit(limit)).all()
    responses: list[tuple[str, str]] = []
    conversations: list[tuple[str, str]] = []
    more = False
    for row in rows:
        names = _delete_turns(session, row, ~kept(session, row, defaults, now))
        more = more or len(names) == _TURNS_AT_ONCE
        responses.extend((row.tenant, name) for name in names)
        if _is_over(session, row, defaults, now):
            conversations.append((row.tenant, row.conversation_id))
            session.delete(row)
            session.flush()
    full = len(rows) == limit or more
    return Swept(responses, conversations, rows[-1].id if len(rows) == limit else "", full)


def delete_all(session: Session, row: ConversationRow) -> list[str]:
    """Deletes every turn of a conversation and returns the names of their responses."""
    names = list(session.scalars(select(TurnRow.response).where(TurnRow.conversation == row.id)))
    session.execute(delete(TurnRow).where(TurnRow.conversation == row.id))
    return names


def _delete_turns(session: Session, row: ConversationRow, condition: ColumnElement[bool]) -> list[str]:
    gone = session.execute(
        select(TurnRow.number, TurnRow.response)
        .where(TurnRow.conversation == row.id, condition)
        .order_by(TurnRow.number)
        .limit(_TURNS_AT_ONCE)
    ).all()
    if gone:
        last = gone[-1].number
        session.execute(delete(TurnRow).where(TurnRow.conversation == row.id, TurnRow.number <= last, condition))
    return [one.response for one in gone]


def _is_over(session: Session, row: ConversationRow, defaults: Retention, now: int) -> bool:
    age = defaults.of(row).max_age_ns
    if age is None or row.update_ns > now - age:
        return False
    # Locked, so that nobody begins a turn in it meanwhile; by then it may have been used again.
    session.refresh(row, with_for_update=True)
    if row.update_ns > now - age:
        return False
    return session.scalar(select(TurnRow.number).where(TurnRow.conversation == row.id).limit(1)) is None
