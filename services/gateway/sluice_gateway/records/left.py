"""Ends what a gateway that died left open: responses as RESPONSE_LOST, attempts with what they are estimated to have used."""

import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Integer, Table, exists, literal_column, select, update

from sluice_gateway.records.schema import attempts, first_key, instances, responses

REQUEST_ID_SECONDS: Final = 24 * 3600
"""How long a request id is remembered."""
LOST: Final[Mapping[str, str]] = {"state": "failed", "reason": "RESPONSE_LOST"}
ESTIMATED: Final[Mapping[str, str]] = {"outcome": "failed", "usage_source": "estimated"}


def cost_of(output_tokens: ColumnElement[int]) -> ColumnElement[int]:
    """Returns, for a statement on attempts, the cost of what was read and of so many tokens; null without a price."""
    cost = attempts.c.input_tokens * attempts.c.input_rate + output_tokens * attempts.c.output_rate
    # As text: a statement has no other values than its rows'.
    half, thousand = (literal_column(number, Integer) for number in ("500", "1000"))
    return (cost + half) // thousand


class Left(NamedTuple):
    """What a gateway that died had left open."""

    rows: int
    """How many were ended."""
    responses: Sequence[str]
    """The ids of the responses among them."""


def end_all(connection: Connection) -> Left:
    """Ends everything that runs, where the tables are one gateway's and it has just started."""
    # No response lasts longer than a day, so nothing older can be open; the keys make that a short read.
    recent = first_key(time.time_ns() - 2 * REQUEST_ID_SECONDS * 10**9)
    return _end(connection, responses.c.key >= recent, attempts.c.key >= recent)


def end_left(connection: Connection) -> Left:
    """Ends what names a gateway that does not share the tables any more."""
    return _end(connection, _left(responses), _left(attempts))


def _left(table: Table) -> ColumnElement[bool]:
    return ~exists(select(instances.c.id).where(instances.c.id == table.c.instance))


def _end(connection: Connection, of_response: ColumnElement[bool], of_attempt: ColumnElement[bool]) -> Left:
    open_responses = [responses.c.state == "running", of_response]
    ids = connection.execute(select(responses.c.id).where(*open_responses)).scalars().all()
    lost = update(responses).where(*open_responses).values({**LOST, "end_ns": time.time_ns()})
    values = {**ESTIMATED, "cost_nano_usd": cost_of(attempts.c.output_tokens)}
    cut = update(attempts).where(attempts.c.outcome == "running", of_attempt).values(values)
    return Left(connection.execute(lost).rowcount + connection.execute(cut).rowcount, ids)


def free_ids(connection: Connection) -> None:
    """Lets request ids be used again that are old enough."""
    old = first_key(time.time_ns() - REQUEST_ID_SECONDS * 10**9)
    connection.execute(
        update(responses).where(responses.c.request_id.is_not(None), responses.c.key < old).values(request_id=None)
    )
