"""The database and the threads that talk to it, so that the event loop never waits for a disk."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.orm import Session

from sluice_kit.config import ConfigError
from sluice_retrieval.records.models import Base

T = TypeVar("T")
SCHEMA: Final = 2
"""Version of the tables, kept in the database. A newer one than the program's is refused."""
_READERS: Final = 4


class Database:
    """Runs functions of a session: one writer at a time, several readers.

    A function given to `write` runs in one transaction that commits when it returns and rolls back when it raises.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine: Engine | None = None
        self._writer = ThreadPoolExecutor(1, "sluice-records-write")
        self._readers = ThreadPoolExecutor(_READERS, "sluice-records-read")

    async def open(self) -> None:
        """Opens the database and makes its tables. Raises ConfigError if a newer program made them."""
        await self._run(self._writer, self._open)

    async def close(self) -> None:
        """Lets what runs end, and closes."""
        await asyncio.to_thread(self._shut_down)

    async def read(self, function: Callable[[Session], T]) -> T:
        """Runs a function that changes nothing."""
        return await self._run(self._readers, lambda: self._read(function))

    async def write(self, function: Callable[[Session], T]) -> T:
        """Runs a function in a transaction of its own, after those before it."""
        return await self._run(self._writer, lambda: self._write(function))

    @staticmethod
    async def _run(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function)

    def _session(self) -> Session:
        if self._engine is None:
            raise RuntimeError("the database is not open")
        return Session(self._engine, expire_on_commit=False)

    def _read(self, function: Callable[[Session], T]) -> T:
        with self._session() as session:
            return function(session)

    def _write(self, function: Callable[[Session], T]) -> T:
        with self._session() as session, session.begin():
            return function(session)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(f"sqlite:///{self._path}", pool_size=_READERS + 1, max_overflow=0)
        event.listen(engine, "connect", _configure)
        with engine.begin() as connection:
            version = connection.execute(text("PRAGMA user_version")).scalar_one()
            if version > SCHEMA:
                engine.dispose()
                raise ConfigError(f"{self._path}: made by a newer version of this program (tables {version})")
            if version == 1:
                _add_columns(connection)
            Base.metadata.create_all(connection)
            connection.execute(text(f"PRAGMA user_version={SCHEMA}"))
        self._engine = engine

    def _shut_down(self) -> None:
        self._readers.shutdown()
        self._writer.shutdown()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None


def _add_columns(connection: Connection) -> None:
    """Brings the tables of version 1 up to date: their new columns have defaults."""
    there = inspect(connection)
    for table in Base.metadata.sorted_tables:
        if not there.has_table(table.name):
            continue
        names = {column["name"] for column in there.get_columns(table.name)}
        for column in table.columns:
            if column.name not in names:
                kind = column.type.compile(connection.dialect)
                default = getattr(column.default, "arg", None)
                value = "NULL" if default is None else f"'{default}'" if isinstance(default, str) else str(default)
                connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind} DEFAULT {value}"))


def _configure(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # Readers never wait for the writer; a crash of the machine may lose the last transactions, never the database.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
