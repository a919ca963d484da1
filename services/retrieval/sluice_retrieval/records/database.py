"""The database and the threads that talk to it, so that the event loop never waits for a disk or a network."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.config import ConfigError
from sluice_kit.errors import SluiceError, make_error
from sluice_kit.tables import prepare
from sluice_retrieval.records.migrate import STEPS

log = logging.getLogger(__name__)

T = TypeVar("T")
_READERS: Final = 4
_SQLITE: Final = "sqlite"
_POSTGRES: Final = "postgresql"
_DRIVER: Final = "postgresql+psycopg"
_CONNECT_SECONDS: Final = 5
_STATEMENT_MS: Final = 60_000
_RETRY_SECONDS: Final = 1.0
_TRIES: Final = 20
"""How often a transaction is made in all when others got in its way."""
_CONFLICTS: Final = ("40001", "40P01")
"""What Postgres calls a transaction that cannot be put in an order with others, and a deadlock."""
# A process whose machine is gone loses its locks after half a minute.
_KEEPALIVE: Final = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=4"


class Database:
    """Runs functions of a session: one writer at a time, several readers.

    A function given to `write` runs in one transaction that commits when it returns and rolls back when it raises. With
    Postgres other processes write, too: transactions there are serialisable, as they are with SQLite, and a function runs
    again if another transaction got in its way, so it must do nothing but read and write rows. What the functions raise
    comes out as it is; what the database fails with is STORE_UNAVAILABLE.
    """

    def __init__(self, path: Path, url: str | None = None) -> None:
        """`url` None: SQLite at `path`. Raises ConfigError."""
        self._url = URL.create(_SQLITE, database=str(path)) if url is None else _url_of(url)
        self.shared = self._url.get_backend_name() == _POSTGRES
        """Whether several processes may share it."""
        self._path = path
        self._engine: Engine | None = None
        self._writer = ThreadPoolExecutor(1, "sluice-records-write")
        self._readers = ThreadPoolExecutor(_READERS, "sluice-records-read")
        if self.shared:
            self._engine = self._make_engine()  # so that a missing driver is found before anything runs

    @property
    def engine(self) -> Engine:
        """For locks, which are a connection's own."""
        if self._engine is None:
            raise RuntimeError("the database is not open")
        return self._engine

    async def open(self) -> None:
        """Opens the database and brings its tables up to date, once a server answers.

        Raises ConfigError if a newer program made them.
        """
        said = False
        while True:
            try:
                await self._run(self._writer, self._open)
                return
            except SluiceError as error:
                if not self.shared:
                    raise
                if not said:
                    log.warning("waiting for the database", extra={"detail": error.message})
                said = True
                await asyncio.sleep(_RETRY_SECONDS)

    async def ping(self) -> None:
        """Raises what the driver does if the server does not answer."""
        await asyncio.get_running_loop().run_in_executor(self._readers, self._ping)

    def _ping(self) -> None:
        with self.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")

    async def close(self) -> None:
        """Lets what runs end, and closes."""
        await asyncio.to_thread(self._shut_down)

    async def read(self, function: Callable[[Session], T]) -> T:
        """Runs a function that changes nothing, on one state of the database. Raises STORE_UNAVAILABLE."""
        return await self._run(self._readers, lambda: self._read(function))

    async def write(self, function: Callable[[Session], T]) -> T:
        """Runs a function in a transaction of its own, after those before it. Raises STORE_UNAVAILABLE."""
        return await self._run(self._writer, lambda: self._write(function))

    @staticmethod
    async def _run(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, function)
        except IntegrityError:
            raise  # a defect, and no matter of the server
        except SQLAlchemyError as error:
            # Not the exception itself: a server's own text may quote what was written.
            kind = type(getattr(error, "orig", None) or error).__name__
            log.error("records cannot be read or written", extra={"error": kind})  # noqa: TRY400 - as said
            raise make_error(
                ErrorReason.ERROR_REASON_STORE_UNAVAILABLE,
                f"the retrieval service cannot read or write its records ({kind})",
                retry_after=1.0,
            ) from None

    def _read(self, function: Callable[[Session], T]) -> T:
        engine = self.engine
        if self.shared:
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with Session(engine, expire_on_commit=False) as session:
            return function(session)

    def _write(self, function: Callable[[Session], T]) -> T:
        if not self.shared:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                return function(session)
        engine = self.engine.execution_options(isolation_level="SERIALIZABLE")
        left = _TRIES
        while True:
            left -= 1
            try:
                with Session(engine, expire_on_commit=False) as session, session.begin():
                    return function(session)
            except DBAPIError as error:
                # Of two that insert the same row, the second sees the first one's when it runs again.
                conflict = isinstance(error, IntegrityError) or getattr(error.orig, "sqlstate", "") in _CONFLICTS
                if not conflict or not left:
                    raise
            time.sleep(random.uniform(0.001, 0.02))

    def _open(self) -> None:
        if self._engine is None:
            self._engine = self._make_engine()
        try:
            with self._engine.begin() as connection:
                where = self._url.render_as_string(hide_password=True) if self.shared else str(self._path)
                prepare(connection, STEPS, where)
        except ConfigError:
            self._engine.dispose()
            raise

    def _make_engine(self) -> Engine:
        if not self.shared:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(self._url, pool_size=_READERS + 1, max_overflow=0, hide_parameters=True)
            event.listen(engine, "connect", _configure)
            return engine
        try:
            return create_engine(
                self._url,
                pool_size=_READERS + 2,  # the writer's, and the one that holds locks
                max_overflow=0,
                pool_pre_ping=True,  # a server that was restarted is met again without a failure
                hide_parameters=True,
                connect_args={
                    "connect_timeout": _CONNECT_SECONDS,
                    "options": f"-c statement_timeout={_STATEMENT_MS} {_KEEPALIVE}",
                },
            )
        except ModuleNotFoundError:
            raise ConfigError(
                "retrieval.records.url: Postgres needs a driver: install sluice-retrieval[postgres]"
            ) from None

    def _shut_down(self) -> None:
        self._readers.shutdown()
        self._writer.shutdown()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None


def _url_of(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        # It is not repeated, because it may hold a password.
        raise ConfigError("retrieval.records.url: not a URL of a database") from None
    if parsed.get_backend_name() == _POSTGRES or parsed.drivername == "postgres":
        return parsed.set(drivername=_DRIVER)
    raise ConfigError("retrieval.records.url: expected postgresql://USER:PASSWORD@HOST/DATABASE")


def _configure(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # Readers never wait for the writer; a crash of the machine may lose the last transactions, never the database.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
