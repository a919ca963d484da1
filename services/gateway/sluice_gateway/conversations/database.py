"""The database and the threads that talk to it, so that the event loop never waits for a disk or a network."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_gateway.conversations.migrate import STEPS
from sluice_gateway.records.url import POSTGRES, SQLITE, url_of
from sluice_kit.config import ConfigError
from sluice_kit.errors import SluiceError, make_error
from sluice_kit.tables import prepare

log = logging.getLogger(__name__)

T = TypeVar("T")
_READERS: Final = 4
_CONNECT_SECONDS: Final = 5
_STATEMENT_MS: Final = 30_000


class Database:
    """Runs functions of a session in threads: with SQLite one writer and several readers, with Postgres a pool.

    A function given to `write` runs in one transaction that commits when it returns and rolls back when it raises. Its
    SluiceErrors come out as they are; whatever the database fails with is STORE_UNAVAILABLE. A server that is down when
    the gateway starts is tried again whenever it is needed.
    """

    def __init__(
        self,
        url: str | None,
        path: Path,
        connections: int,
        recover: Callable[[Session], None],
        setting: str = "gateway.conversations.url",
    ) -> None:
        """`url` None: SQLite at `path`. `recover` runs once, when the tables are ready. Raises ConfigError."""
        self._url = URL.create(SQLITE, database=str(path)) if url is None else url_of(url, setting)
        self.shared = self._url.get_backend_name() == POSTGRES
        """Whether several gateways may share it."""
        self._recover = recover
        self._engine = self._make_engine(connections, setting)
        self._lock = threading.Lock()
        self._ready = False
        self._writer = ThreadPoolExecutor(connections if self.shared else 1, "sluice-conversations")
        self._readers = self._writer if self.shared else ThreadPoolExecutor(_READERS, "sluice-conversations-read")

    async def open(self) -> None:
        """Brings the tables up to date. Raises ConfigError for those of a newer program."""
        try:
            await self._run(self._writer, lambda: None)
        except SluiceError as error:
            log.warning("conversations cannot be used yet", extra={"reason": error.reason_name})

    async def close(self) -> None:
        """Lets what runs end, and closes."""
        await asyncio.to_thread(self._shut_down)

    async def read(self, function: Callable[[Session], T]) -> T:
        """Runs a function that changes nothing. Raises STORE_UNAVAILABLE, or what the function raises."""

        def work() -> T:
            with self._session() as session:
                return function(session)

        return await self._run(self._readers, work)

    async def write(self, function: Callable[[Session], T]) -> T:
        """Runs a function in a transaction of its own. Raises as `read` does."""

        def work() -> T:
            with self._session() as session, session.begin():
                return function(session)

        return await self._run(self._writer, work)

    async def _run(self, pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, lambda: self._ready_then(function))
        except SQLAlchemyError as error:
            # Not the exception itself: a server's own text may quote what was written.
            kind = type(getattr(error, "orig", None) or error).__name__
            log.error("conversations cannot be read or written", extra={"error": kind})  # noqa: TRY400 - as said
            raise make_error(
                ErrorReason.ERROR_REASON_STORE_UNAVAILABLE,
                f"the gateway cannot read or write conversations ({kind})",
                retry_after=1.0,
            ) from None

    def _ready_then(self, function: Callable[[], T]) -> T:
        if not self._ready:
            with self._lock:
                if not self._ready:
                    self._prepare()
        return function()

    def _prepare(self) -> None:
        with self._engine.begin() as connection:
            prepare(connection, STEPS, self._url.render_as_string(hide_password=True))
        with self._session() as session, session.begin():
            self._recover(session)
        self._ready = True

    def _session(self) -> Session:
        return Session(self._engine, expire_on_commit=False)

    def _make_engine(self, connections: int, setting: str) -> Engine:
        if not self.shared:
            path = Path(self._url.database or "")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o600)  # it holds texts; what SQLite puts beside it has the same mode
            engine = create_engine(self._url, pool_size=_READERS + 1, max_overflow=0, hide_parameters=True)
            event.listen(engine, "connect", _configure)
            return engine
        options = f"-c statement_timeout={_STATEMENT_MS}"
        try:
            return create_engine(
                self._url,
                pool_size=connections,
                max_overflow=0,
                pool_pre_ping=True,  # a server that was restarted is met again without a failure
                hide_parameters=True,
                connect_args={"connect_timeout": _CONNECT_SECONDS, "options": options},
            )
        except ModuleNotFoundError:
            raise ConfigError(f"{setting}: Postgres needs a driver: install sluice-gateway[postgres]") from None

    def _shut_down(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        self._engine.dispose()


def _configure(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # Readers never wait for the writer; a crash of the machine may lose the last transactions, never the database.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
