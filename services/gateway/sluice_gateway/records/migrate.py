"""Which steps the tables of the records are made by, and how those that are older than the steps become the first."""

from typing import Final

from sqlalchemy import Column, Connection, inspect, select, text, update
from sqlalchemy.schema import CreateColumn

from sluice_gateway.records.schema import ATTEMPTS_OF_TENANT, attempts, instances, integrations, metadata, responses
from sluice_kit.config import ConfigError
from sluice_kit.tables import Steps

_FIRST: Final = "0001"
_NUMBERED: Final = 3
"""What stands, since there are steps, in SQLite's own place for a version, for programs that know of none: they refuse
it as newer."""


def _adopt(connection: Connection) -> str | None:
    """Adds what older tables lack. A file made before versions were kept is that of version 1."""
    if connection.dialect.name != "sqlite":
        return None
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version > _NUMBERED:
        raise ConfigError(f"{connection.engine.url.database}: made by a newer version of this program ({version})")
    if version == _NUMBERED:
        return None
    connection.exec_driver_sql(f"PRAGMA user_version={_NUMBERED}")
    if not inspect(connection).has_table(attempts.name):
        return None
    if version < 2:
        _tell_what_attempts_were_for(connection)
    _add(connection, responses.name, responses.c.instance)
    _add(connection, attempts.name, attempts.c.instance)
    metadata.create_all(connection, [instances, integrations])
    return _FIRST


def _tell_what_attempts_were_for(connection: Connection) -> None:
    for column in (attempts.c.operation, attempts.c.conversation, attempts.c.labels):
        _add(connection, attempts.name, column)
    labels = select(responses.c.labels).where(responses.c.key == attempts.c.response_key).scalar_subquery()
    connection.execute(update(attempts).where(labels.is_not(None)).values(labels=labels))
    ATTEMPTS_OF_TENANT.create(connection)


def _add(connection: Connection, table: str, column: "Column[object]") -> None:
    definition = CreateColumn(column).compile(connection)
    connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {definition}"))


STEPS: Final = Steps(
    package="sluice_gateway.records",
    head="0002",
    versions="gateway_version",
    lock=0x736C756963650002,
    adopt=_adopt,
)
