"""Which steps the tables of the records are made by, and how those that are older than the steps become the first."""

from typing import Final

from sqlalchemy import Connection, inspect, text

from sluice_kit.config import ConfigError
from sluice_kit.tables import Steps
from sluice_retrieval.records.models import Base

_FIRST: Final = "0001"
_UNNUMBERED: Final = 2
"""Version, in SQLite's own place for one, of the last tables before there were steps: they are as step 0001 makes them."""
_NUMBERED: Final = 3
"""What stands there since, for programs that know of no steps: they refuse it as newer."""


def _adopt(connection: Connection) -> str | None:
    if connection.dialect.name != "sqlite":
        return None
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version > _NUMBERED:
        raise ConfigError(f"{connection.engine.url.database}: made by a newer version of this program ({version})")
    if version == _NUMBERED:
        return None
    connection.exec_driver_sql(f"PRAGMA user_version={_NUMBERED}")
    if version == 0:
        return None
    if version < _UNNUMBERED:
        _add_columns(connection)
    return _FIRST


def _add_columns(connection: Connection) -> None:
    """Brings the tables of version 1 up to those of version 2, which has more columns, with defaults."""
    there = inspect(connection)
    for model in Base.metadata.sorted_tables:
        if not there.has_table(model.name):
            continue
        names = {row["name"] for row in there.get_columns(model.name)}
        for one in model.columns:
            if one.name not in names:
                kind = one.type.compile(connection.dialect)
                default = getattr(one.default, "arg", None)
                value = "NULL" if default is None else f"'{default}'" if isinstance(default, str) else str(default)
                needed = "" if one.nullable else "NOT NULL "
                add = f"ALTER TABLE {model.name} ADD COLUMN {one.name} {kind} {needed}DEFAULT {value}"
                connection.execute(text(add))


STEPS: Final = Steps(
    package="sluice_retrieval.records",
    head="0002",
    versions="retrieval_version",
    lock=0x736C756963650003,
    adopt=_adopt,
)
