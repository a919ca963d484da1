"""Brings the tables up to date, one process at a time, and refuses those of a newer program."""

from importlib.resources import as_file, files
from typing import Any, Final

from sqlalchemy import Connection, column, inspect, select, table, text

from sluice_kit.config import ConfigError
from sluice_retrieval.records.models import Base

HEAD: Final = "0002"
"""The newest step of `migrations`; tables that are so far are not looked at further."""
_FIRST: Final = "0001"
_UNNUMBERED: Final = 2
"""Version, in SQLite's own place for one, of the last tables before there were steps: they are as step 0001 makes them."""
_NUMBERED: Final = 3
"""What stands there since, for programs that know of no steps: they refuse it as newer."""
_LOCK: Final = 0x736C756963650002
"""Key of the lock that a process holds in Postgres while it changes the tables; any number that is always the same."""
_VERSIONS: Final = "retrieval_version"


def prepare(connection: Connection, where: str) -> None:
    """Makes the tables, or what they lack, in the connection's transaction, which must just have begun.

    `where` names the database in errors. Raises ConfigError if a newer program made them.
    """
    revision: str | None = None
    if connection.dialect.name == "sqlite":
        # Without it SQLite begins the transaction only with the first row that is written.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        old = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if old > _NUMBERED:
            raise ConfigError(f"{where}: made by a newer version of this program (tables {old})")
        if 0 < old < _NUMBERED:
            if old < _UNNUMBERED:
                _add_columns(connection)
            revision = _FIRST
        connection.exec_driver_sql(f"PRAGMA user_version={_NUMBERED}")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    if revision is None:
        revision = _revision(connection)
    if revision != HEAD:
        _upgrade(connection, revision, where)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(_VERSIONS):
        return None
    revision: str | None = connection.execute(select(column("version_num")).select_from(table(_VERSIONS))).scalar()
    return revision


def _upgrade(connection: Connection, revision: str | None, where: str) -> None:
    # Loaded only where there is something to do: it takes longer than everything else at a start.
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with as_file(files("sluice_retrieval.records").joinpath("migrations")) as folder:
        scripts = ScriptDirectory(str(folder), version_locations=[str(folder)])
        known = {script.revision for script in scripts.walk_revisions()}
        if revision is not None and revision not in known:
            raise ConfigError(f"{where}: made by a newer version of this program (tables {revision})")
        if revision is not None and _revision(connection) is None:
            MigrationContext.configure(connection, opts={"version_table": _VERSIONS}).stamp(scripts, revision)

        def steps(current: Any, _context: Any) -> Any:
            return scripts._upgrade_revs(HEAD, current)  # noqa: SLF001 - its command does so, but wants files of settings

        with EnvironmentContext(Config(), scripts, fn=steps, destination_rev=HEAD) as environment:
            environment.configure(connection=connection, version_table=_VERSIONS)
            environment.run_migrations()


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
