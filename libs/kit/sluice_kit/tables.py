"""Tables of a service, brought up to date by Alembic: by one process at a time, and never those of a newer program.

For services that keep records; it needs the extra `records`.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any, Final

from sqlalchemy import Connection, column, inspect, select, table, text

from sluice_kit.config import ConfigError

_alembic: Final = threading.Lock()
"""Held while steps are taken: what they act on is kept by Alembic for the whole process, not for a thread."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps that made some tables what they are: modules of Alembic in the folder `migrations` of a package."""

    package: str
    """Import name of the package."""
    head: str
    """The newest step; tables that are so far are not looked at further."""
    versions: str
    """Table that the database keeps its step in, so that several services can share one."""
    lock: int
    """Key of the lock that a process holds in Postgres while it changes the tables. One for each set of steps."""
    adopt: Callable[[Connection], str | None] | None = None
    """Returns the step of tables that are older than `versions`, once they are made to be exactly that; None for none."""


def prepare(connection: Connection, steps: Steps, where: str) -> None:
    """Makes the tables, or what they lack, in the connection's transaction, which must just have begun.

    `where` names the database in errors. Raises ConfigError if a newer program made them.
    """
    if connection.dialect.name == "sqlite":
        # Without it SQLite begins the transaction only with the first row that is written.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": steps.lock})
    adopted = steps.adopt(connection) if steps.adopt is not None else None
    revision = _revision(connection, steps)
    if adopted is not None or revision != steps.head:
        _upgrade(connection, steps, revision, adopted, where)


def _revision(connection: Connection, steps: Steps) -> str | None:
    if not inspect(connection).has_table(steps.versions):
        return None
    revision: str | None = connection.execute(select(column("version_num")).select_from(table(steps.versions))).scalar()
    return revision


def _upgrade(connection: Connection, steps: Steps, revision: str | None, adopted: str | None, where: str) -> None:
    # Loaded only where there is something to do: it takes longer than everything else at a start.
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with as_file(files(steps.package).joinpath("migrations")) as folder:
        scripts = ScriptDirectory(str(folder), version_locations=[str(folder)])
        known = {script.revision for script in scripts.walk_revisions()}
        if revision is not None and revision not in known:
            raise ConfigError(f"{where}: made by a newer version of this program (tables {revision})")
        if adopted is not None:
            MigrationContext.configure(connection, opts={"version_table": steps.versions}).stamp(scripts, adopted)

        def upgrade(current: Any, _context: Any) -> Any:
            # Its own command does so, but wants files of settings.
            return scripts._upgrade_revs(steps.head, current)  # noqa: SLF001  # as said

        with _alembic, EnvironmentContext(Config(), scripts, fn=upgrade, destination_rev=steps.head) as environment:
            environment.configure(connection=connection, version_table=steps.versions)
            environment.run_migrations()
