"""Brings the tables of an older program up to date."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import Column, Connection, Engine, inspect, select, text, update
from sqlalchemy.schema import CreateColumn

from sluice_gateway.records.schema import ATTEMPTS_OF_TENANT, attempts, metadata, responses
from sluice_kit.config import ConfigError

SCHEMA: Final = 2
"""Version of the tables, kept in the database."""


def prepare(engine: Engine, path: Path) -> None:
    """Makes the tables, or adds what they lack. Raises ConfigError if a newer program made them.

    A step adds and never takes away, in one transaction with the version, so a crash in its midst changes nothing.
    """
    with engine.begin() as connection:
        # Without it SQLite begins the transaction only with the first row that is written.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if version > SCHEMA:
            raise ConfigError(f"{path}: made by a newer version of this program (tables {version})")
        if version == 0 and inspect(connection).has_table(attempts.name):
            version = 1  # made before versions were kept
        if version:
            for number in range(version + 1, SCHEMA + 1):
                _STEPS[number](connection)
        metadata.create_all(connection)
        connection.execute(text(f"PRAGMA user_version={SCHEMA}"))


def _to_2(connection: Connection) -> None:
    """Attempts know what they were for: the operation, the conversation and the labels."""
    for column in (attempts.c.operation, attempts.c.conversation, attempts.c.labels):
        _add(connection, attempts.name, column)
    labels = select(responses.c.labels).where(responses.c.key == attempts.c.response_key).scalar_subquery()
    connection.execute(update(attempts).where(labels.is_not(None)).values(labels=labels))
    ATTEMPTS_OF_TENANT.create(connection)


def _add(connection: Connection, table: str, column: "Column[object]") -> None:
    definition = CreateColumn(column).compile(connection)
    connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {definition}"))


_STEPS: Final[Mapping[int, Callable[[Connection], None]]] = {2: _to_2}
