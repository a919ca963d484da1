"""Deletes old rows, a bounded number at a time."""

from sqlalchemy import ColumnElement, Connection, Table, delete, select

from sluice_gateway.records.schema import attempts, first_key, responses


def sweep(connection: Connection, responses_before: int | None, attempts_before: int | None, limit: int) -> bool:
    """Deletes at most `limit` rows of each table made before a time; None: none. Returns whether it left work behind."""
    full = False
    if responses_before is not None:
        full = _delete(connection, responses, responses_before, responses.c.state != "running", limit)
    if attempts_before is not None:
        full = _delete(connection, attempts, attempts_before, attempts.c.outcome != "running", limit) or full
    return full


def _delete(connection: Connection, table: Table, before: int, condition: ColumnElement[bool], limit: int) -> bool:
    # Keys grow with time: what is old is at the beginning, and no more than that is read.
    old = select(table.c.key).where(table.c.key < first_key(before), condition).order_by(table.c.key).limit(limit)
    # What another gateway deletes at this moment is not waited for. (SQLite has one gateway, and no such words.)
    old = old.with_for_update(skip_locked=True)
    return connection.execute(delete(table).where(table.c.key.in_(old))).rowcount == limit
