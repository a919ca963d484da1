"""The ledger's statements, compiled once for its database."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import ColumnElement, Engine, bindparam, case, delete, func, insert, literal_column, select, update
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
        siblings = attempts.alias()
        last = select(func.max(siblings.c.number)).where(
            siblings.c.response_key == bindparam("row"), siblings.c.key > bindparam("row")
        )
        said = case((attempts.c.number == last.scalar_subquery(), bindparam("output_tokens")), else_=0)
        self.leave_attempts = Statement(
            engine,
            update(attempts)
            .where(
                attempts.c.response_key == bindparam("row"),
                attempts.c.key > bindparam("row"),  # made later, so that not all are looked at
                attempts.c.outcome == running,
            )
            .values(_written(ESTIMATED) | {"output_tokens": said}),
        )
        """Ends the attempts that it left, the last one with what it is estimated to have made."""


def _written(values: Mapping[str, str]) -> dict[str, ColumnElement[str]]:
    return {name: literal_column(f"'{value}'") for name, value in values.items()}
