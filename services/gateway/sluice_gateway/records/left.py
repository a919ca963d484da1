"""Ends what a gateway that died left open: responses as RESPONSE_LOST, attempts with what they are known to have used."""

import time
from collections.abc import Mapping
from typing import Final

from sqlalchemy import ColumnElement, Connection, Table, exists, select, update

from sluice_gateway.records.schema import attempts, first_key, instances, responses

REQUEST_ID_SECONDS: Final = 24 * 3600
"""How long a request id is remembered."""
LOST: Final[Mapping[str, str]] = {"state": "failed", "reason": "RESPONSE_LOST"}
ESTIMATED: Final[Mapping[str, str]] = {"outcome": "failed", "usage_source": "estimated"}


def end_all(connection: Connection) -> None:
    """Ends everything that runs, where the tables are one gateway's and it has just started."""
    # No response lasts longer than a day, so nothing older can be open; the keys make that a short read.
    recent = first_key(time.time_ns() - 2 * REQUEST_ID_SECONDS * 10**9)
    _end(connection, responses.c.key >= recent, attempts.c.key >= recent)


def end_left(connection: Connection) -> int:
    """Ends what names a gateway that does not share the tables any more. Returns how many rows that were."""
    return _end(connection, _left(responses), _left(attempts))


def _left(table: Table) -> ColumnElement[bool]:
    return ~exists(select(instances.c.id).where(instances.c.id == table.c.instance))


def _end(connection: Connection, of_response: ColumnElement[bool], of_attempt: ColumnElement[bool]) -> int:
    lost = (
        update(responses).where(responses.c.state == "running", of_response).values({**LOST, "end_ns": time.time_ns()})
    )
    cut = update(attempts).where(attempts.c.outcome == "running", of_attempt).values(**ESTIMATED)
    return connection.execute(lost).rowcount + connection.execute(cut).rowcount


def free_ids(connection: Connection) -> None:
    """Lets request ids be used again that are old enough."""
    old = first_key(time.time_ns() - REQUEST_ID_SECONDS * 10**9)
    connection.execute(
        update(responses).where(responses.c.request_id.is_not(None), responses.c.key < old).values(request_id=None)
    )
