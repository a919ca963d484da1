"""The ledger's statements, compiled once for its database."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Engine,
    FromClause,
    and_,
    bindparam,
    case,
    delete,
    insert,
    literal_column,
    or_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from sluice_gateway.records.left import ESTIMATED, LOST, cost_of
from sluice_gateway.records.schema import attempts, responses
from sluice_gateway.records.writer import Statement

BEGUN: Final[Mapping[str, str | int | None]] = {
    "outcome": "running",
    "reason": "",
    "cached_input_tokens": 0,
    "output_tokens": 0,
    "reasoning_tokens": 0,
    "usage_source": "",
    "cost_nano_usd": None,
    "ttft_us": None,
    "duration_us": None,
}
"""What is known of the end of an attempt that begins."""
_ENDED: Final = (
    "outcome",
    "reason",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "usage_source",
    "cost_nano_usd",
    "ttft_us",
    "duration_us",
)


_IS_ONE: Final = or_(attempts.c.id == bindparam("attempt"), attempts.c.number == bindparam("first"))
"""`attempt` is an id, or empty, and `first` is 1 where the first one is meant, else 0."""


class Statements:
    """Each takes rows as the ledger makes them; where a key is told by itself, it is `row`."""

    def __init__(self, engine: Engine, *, shared: bool) -> None:
        dialect = postgresql if shared else sqlite
        # What was refused after a broken connection must not stand.
        never_began = Statement(engine, delete(attempts).where(attempts.c.key == bindparam("key")))
        never_accepted = Statement(engine, delete(responses).where(responses.c.key == bindparam("key")))
        self.insert_response = Statement(engine, insert(responses), never_accepted)
        # What is the same in all rows is not handed to the driver with each.
        begun: dict[str, ColumnElement[Any]] = {
            name: literal_column("NULL" if value is None else repr(value)) for name, value in BEGUN.items()
        }
        begun |= {column.name: bindparam(column.name) for column in attempts.c if column.name not in BEGUN}
        self.insert_attempt = Statement(engine, insert(attempts).values(begun), never_began)
        # Written again after a broken connection, so doing it twice is doing it once.
        self.insert_cached = Statement(engine, dialect.insert(attempts).on_conflict_do_nothing(index_elements=["key"]))
        claim = dialect.insert(responses)
        if shared:
            request = [responses.c.tenant, responses.c.method, responses.c.request_id]
            free = claim.on_conflict_do_nothing(
                index_elements=request, index_where=responses.c.request_id.is_not(None)
            ).returning(responses.c.key)
        else:
            free = claim.on_conflict_do_nothing()
        self.claim = Statement(engine, free, never_accepted)
        """Does nothing where the request id is taken."""
        self.end_response = Statement(
            engine,
            update(responses)
            .where(responses.c.key == bindparam("row"))
            .values(state=bindparam("state"), reason=bindparam("reason"), end_ns=bindparam("end_ns")),
        )
        self.end_attempt = Statement(
            engine,
            update(attempts)
            .where(attempts.c.key == bindparam("row"))
            .values({name: bindparam(name) for name in _ENDED}),
        )
        # As text: a statement has no other values than its rows'.
        running: ColumnElement[str] = literal_column("'running'")
        self.note_attempt = Statement(
            engine,
            update(attempts)
            .where(attempts.c.key == bindparam("row"), attempts.c.outcome == running)
            .values(output_tokens=bindparam("output_tokens")),
        )
        """Says what an attempt that runs has made so far."""
        self.leave_response = Statement(
            engine,
            update(responses)
            .where(responses.c.key == bindparam("row"), responses.c.state == running)
            .values(_written(LOST) | {"end_ns": bindparam("end_ns")}),
        )
        """Ends a response of a gateway that died, unless it has ended."""
        cost = {"cost_nano_usd": cost_of(attempts.c.output_tokens)}
        self.leave_attempts = Statement(
            engine,
            update(attempts).where(_of_row(attempts), attempts.c.outcome == running).values(_written(ESTIMATED) | cost),
        )
        """Ends the attempts that it left."""
        made = bindparam("made", type_=BigInteger)
        most = case((made > attempts.c.output_tokens, made), else_=attempts.c.output_tokens)
        self.estimate_attempt = Statement(
            engine,
            update(attempts)
            .where(_of_row(attempts), *_left(attempts), _IS_ONE)
            .values({"output_tokens": most, "cost_nano_usd": cost_of(most)}),
        )
        """Says of an attempt that was left, whoever ended it, what it is estimated to have made at least."""
        self.amend_attempt = Statement(
            engine,
            update(attempts)
            .where(_of_row(attempts), *_left(attempts), _IS_ONE)
            .values({name: bindparam(name) for name in _ENDED}),
        )
        """Says how an attempt ended that was taken for left."""
        self.amend_response = Statement(
            engine,
            update(responses)
            .where(responses.c.key == bindparam("row"), *_is(responses, LOST))
            .values(state=bindparam("state"), reason=bindparam("reason")),
        )
        """Says how a response ended that was taken for lost."""


def _of_row(table: FromClause) -> ColumnElement[bool]:
    # Made later, so that with SQLite not all are looked at.
    return and_(table.c.response_key == bindparam("row"), table.c.key > bindparam("row"))


def _left(table: FromClause) -> tuple[ColumnElement[bool], ...]:
    """What `left.py` makes of an attempt, and nothing else does."""
    return _is(table, {**ESTIMATED, "reason": ""})


def _is(table: FromClause, values: Mapping[str, str]) -> tuple[ColumnElement[bool], ...]:
    return tuple(table.c[name] == value for name, value in _written(values).items())


def _written(values: Mapping[str, str]) -> dict[str, ColumnElement[str]]:
    return {name: literal_column(f"'{value}'") for name, value in values.items()}
