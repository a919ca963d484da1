"""Brings the tables up to date, one process at a time, and refuses those of a newer program."""

from importlib.resources import as_file, files
from typing import Any, Final

from sqlalchemy import Connection, column, inspect, select, table, text

from sluice_kit.config import ConfigError

HEAD: Final = "0001"
"""The newest step of `migrations`; tables that are so far are not looked at further."""
_LOCK: Final = 0x736C756963650001
"""Key of the lock that a process holds in Postgres while it changes the tables; any number that is always the same."""
_VERSIONS: Final = "alembic_version"


def prepare(connection: Connection, where: str) -> None:
    """Makes the tables, or what they lack, in the connection's transaction, which must just have begun.

    `where` names the database in errors. Raises ConfigError if a newer program made them.
    """
    if connection.dialect.name == "sqlite":
        # Without it SQLite begins the transaction only with the first row that is written.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
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
    from alembic.script import ScriptDirectory

    with as_file(files("sluice_gateway.conversations").joinpath("migrations")) as folder:
        scripts = ScriptDirectory(str(folder), version_locations=[str(folder)])
        known = {script.revision for script in scripts.walk_revisions()}
        if revision is not None and revision not in known:
            raise ConfigError(f"{where}: made by a newer version of this program (tables {revision})")

        def steps(current: Any, _context: Any) -> Any:
            return scripts._upgrade_revs(HEAD, current)  # noqa: SLF001 - its command does so, but wants files of settings

        with EnvironmentContext(Config(), scripts, fn=steps, destination_rev=HEAD) as environment:
            environment.configure(connection=connection, version_table=_VERSIONS)
            environment.run_migrations()
