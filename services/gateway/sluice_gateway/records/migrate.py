"""Brings the tables of an older program up to date, one process at a time."""

from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, inspect, select, text, update
from sqlalchemy.schema import CreateColumn

from sluice_gateway.records.schema import ATTEMPTS_OF_TENANT, attempts, metadata, responses
from sluice_kit.config import ConfigError

SCHEMA: Final = 3
"""Version of the tables, kept in the database."""
LOCK: Final = 0x736C756963650002
"""Key of the lock that a process holds in Postgres while it changes the tables, or ends what a dead gateway left."""
_VERSION: Final = Table(
    "records_version", MetaData(), Column("version", Integer, primary_key=True, autoincrement=False)
)


def prepare(engine: Engine, where: str) -> None:
    """Makes the tables, or adds what they lack. Raises ConfigError if a newer program made them.

    `where` names the database in errors. A step adds and never takes away, in one transaction with the version, so a
    crash in its midst changes nothing, and a second process waits for the first and then finds nothing to do.
    """
    with engine.begin() as connection:
        lock(connection)
        version = _version(connection)
        if version > SCHEMA:
            raise ConfigError(f"{where}: made by a newer version of this program (tables {version})")
        if version == SCHEMA:
            return
        if version == 0 and inspect(connection).has_table(attempts.name):
            version = 1  # made before versions were kept
        if version:
            for number in range(version + 1, SCHEMA + 1):
                _STEPS[number](connection)
        metadata.create_all(connection)
        _keep_version(connection)


def lock(connection: Connection) -> None:
    """Makes every other process wait until the connection's transaction ends."""
    if connection.dialect.name == "sqlite":
        # Without it SQLite begins the transaction only with the first row that is written.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})


def _version(connection: Connection) -> int:
    if connection.dialect.name == "sqlite":
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    _VERSION.create(connection, checkfirst=True)
    return connection.execute(select(_VERSION.c.version)).scalar() or 0


def _keep_version(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.execute(text(f"PRAGMA user_version={SCHEMA}"))
    else:
        connection.execute(_VERSION.delete())
        connection.execute(_VERSION.insert().values(version=SCHEMA))


def _to_2(connection: Connection) -> None:
    """Attempts know what they were for: the operation, the conversation and the labels."""
    for column in (attempts.c.operation, attempts.c.conversation, attempts.c.labels):
        _add(connection, attempts.name, column)
    labels = select(responses.c.labels).where(responses.c.key == attempts.c.response_key).scalar_subquery()
    connection.execute(update(attempts).where(labels.is_not(None)).values(labels=labels))
    ATTEMPTS_OF_TENANT.create(connection)


def _to_3(connection: Connection) -> None:
    """Rows know which gateway makes them; SQLite's are one gateway's and say nothing."""
    _add(connection, responses.name, responses.c.instance)
    _add(connection, attempts.name, attempts.c.instance)


def _add(connection: Connection, table: str, column: "Column[object]") -> None:
    definition = CreateColumn(column).compile(connection)
    connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {definition}"))


_STEPS: Final[Mapping[int, Callable[[Connection], None]]] = {2: _to_2, 3: _to_3}
