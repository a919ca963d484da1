"""The ledger's statements, compiled once for its database."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Engine,
    FromClause,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from sluice_gateway.records.left import ESTIMATED, LOST
from sluice_gateway.records.schema import attempts, responses
from sluice_gateway.records.writer import Statement

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


class Statements:
    """Each takes rows as the ledger makes them; where a key is told by itself, it is `row`."""

    def __init__(self, engine: Engine, *, shared: bool) -> None:
        dialect = postgresql if shared else sqlite
        # What was refused after a broken connection must not stand.
        never_began = Statement(engine, delete(attempts).where(attempts.c.key == bindparam("key")))
        never_accepted = Statement(engine, delete(responses).where(responses.c.key == bindparam("key")))
        self.insert_response = Statement(engine, insert(responses), never_accepted)
        self.insert_attempt = Statement(engine, insert(attempts), never_began)
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
        self.leave_response = Statement(
            engine,
            update(responses)
            .where(responses.c.key == bindparam("row"), responses.c.state == running)
            .values(_written(LOST) | {"end_ns": bindparam("end_ns")}),
        )
        """Ends a response of a gateway that died, unless it has ended."""
        self.leave_attempts = Statement(
            engine, update(attempts).where(_of_row(attempts), attempts.c.outcome == running).values(_written(ESTIMATED))
        )
        """Ends the attempts that it left."""
        siblings = attempts.alias()
        last = select(func.max(siblings.c.number)).where(_of_row(siblings), *_left(siblings)).scalar_subquery()
        self.estimate_attempt = Statement(
            engine,
            update(attempts)
            .where(_of_row(attempts), *_left(attempts), attempts.c.number == last)
            .values(output_tokens=bindparam("output_tokens")),
        )
        """Says of the last attempt that was left, whoever ended it, what it is estimated to have made."""


def _of_row(table: FromClause) -> ColumnElement[bool]:
    # Made later, so that with SQLite not all are looked at.
    return and_(table.c.response_key == bindparam("row"), table.c.key > bindparam("row"))


def _left(table: FromClause) -> tuple[ColumnElement[bool], ...]:
    """What `left.py` makes of an attempt, and nothing else does."""
    values = _written({**ESTIMATED, "reason": ""})
    return tuple(table.c[name] == value for name, value in values.items())


def _written(values: Mapping[str, str]) -> dict[str, ColumnElement[str]]:
    return {name: literal_column(f"'{value}'") for name, value in values.items()}
