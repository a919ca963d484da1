"""Writes rows in groups: what came together is one commit, and commits keep a small distance from each other.

When nothing was written for a moment, a row is committed in the same turn of the loop; under load it waits up to two
milliseconds for others, because a commit costs the same for one row as for ten.

The commits run in the loop itself. That is against the habit of giving a disk to a thread, and it is measured: a group
costs 20 to 30 µs here, and five to ten times that through a thread, because the driver gives the interpreter's lock
away and back for every row, each time against the loop. What could make the loop wait is kept out of it: no commit
forces the disk (write-ahead log, `synchronous=NORMAL`), the checkpoints that do are a thread's, and a lock that somebody
else holds is not waited for but tried again later.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql import ClauseElement

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import SluiceError, make_error

log = logging.getLogger(__name__)

T = TypeVar("T")
Row = Mapping[str, Any]
_DISTANCE_SECONDS: Final = 0.002
"""The least time between two commits of rows that somebody waits for."""
_LINGER_SECONDS: Final = 0.02
"""How long a row that nobody waits for may wait for company. A crash within it loses the end of a row, not its start."""
_RETRY_SECONDS: Final = 0.25
_MAX_LOCKED_SECONDS: Final = 5.0
MAX_UNWRITTEN: Final = 100_000
"""So many rows of a statement wait for a database that is away; then the oldest are lost."""
_CHECKPOINT_SECONDS: Final = 5.0
_OF_A_ROW: Final = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
)
"""What the driver fails with when it is one row that cannot be written, and the others can."""
_LONG_LOG_PAGES: Final = 8192
"""32 MiB. A write-ahead log that is longer is cut off, for which what is written then waits a moment."""


class Statement:
    """A statement compiled once; rows go to the driver as they are."""

    __slots__ = ("sql", "undo")

    def __init__(self, engine: Engine, statement: ClauseElement, undo: "Statement | None" = None) -> None:
        self.sql = str(statement.compile(engine))
        self.undo = undo
        """Takes the same row, and takes back what this one may have done."""


class RecordWriter(Protocol):
    """What the ledger asks of a database: the writer below for SQLite, or that for Postgres."""

    @property
    def queued(self) -> int:
        """How many rows wait to be written."""

    def write(self, *rows: tuple[Statement, Row]) -> "asyncio.Future[None]":
        """Queues rows; the future is done when they are committed, and fails with STORE_UNAVAILABLE if they cannot be."""

    def claim(self, statement: Statement, row: Row, *more: tuple[Statement, Row]) -> "asyncio.Future[bool]":
        """Queues a row that may be taken already, and rows that are written only if it is not; tells whether it was free."""

    def write_soon(self, *rows: tuple[Statement, Row]) -> None:
        """Queues rows that must not be lost but that nobody waits for."""

    async def ask(self, function: Callable[[Connection], T]) -> T:
        """Runs a function in a transaction of its own, after everything queued before it. Raises STORE_UNAVAILABLE."""

    async def flush(self) -> None:
        """Writes what is queued, so that whoever reads now sees it."""

    async def close(self) -> None:
        """Writes what is queued and gives the database back."""


class _Claim(NamedTuple):
    """A row that may be taken already, and rows that go with it if it is not."""

    statement: Statement
    row: Row
    more: Sequence[tuple[Statement, Row]]
    done: asyncio.Future[bool]


class Writer:
    """Groups and commits. Make it inside the event loop; all methods are for that loop's thread."""

    def __init__(self, engine: Engine) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = engine.connect()
        # The driver is asked directly: SQLAlchemy's own execution costs several times what these rows do.
        self._driver: Any = self._connection.connection.dbapi_connection
        self._urgent: dict[Statement, list[Row]] = {}
        self._later: dict[Statement, list[Row]] = {}
        self._claims: list[_Claim] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._locked_since: float | None = None
        self._timer: asyncio.Handle | None = None
        self._due = 0.0
        self._last_commit = 0.0
        # Kept open, because SQLite leaves the file of a connection open for as long as another one holds a lock on it.
        self._checkpointer = engine.connect()
        self._checkpoint: asyncio.Task[None] = self._loop.create_task(self._checkpoints())

    @property
    def queued(self) -> int:
        """How many rows wait to be written."""
        groups = (*self._urgent.values(), *self._later.values())
        return sum(map(len, groups)) + sum(1 + len(claim.more) for claim in self._claims)

    def write(self, *rows: tuple[Statement, Row]) -> asyncio.Future[None]:
        """Queues rows; the future is done when they are committed, and fails with STORE_UNAVAILABLE if they cannot be."""
        done: asyncio.Future[None] = self._loop.create_future()
        for statement, row in rows:
            self._urgent.setdefault(statement, []).append(row)
        self._waiting.append(done)
        self._flush_soon()
        return done

    def claim(self, statement: Statement, row: Row, *more: tuple[Statement, Row]) -> asyncio.Future[bool]:
        """Queues a row whose statement does nothing if its place is taken, and rows that are written only if it is not.

        The future tells, after the commit, whether the place was free. It fails as that of `write` does.
        """
        done: asyncio.Future[bool] = self._loop.create_future()
        self._claims.append(_Claim(statement, row, more, done))
        self._flush_soon()
        return done

    def _flush_soon(self) -> None:
        if self._locked_since is None:
            # Not at once: what else this turn of the loop writes goes with it.
            self._flush_in(max(0.0, self._last_commit + _DISTANCE_SECONDS - self._loop.time()))

    def write_soon(self, *rows: tuple[Statement, Row]) -> None:
        """Queues rows that must not be lost but that nobody waits for: if they cannot be written they are tried again."""
        for statement, row in rows:
            self._later.setdefault(statement, []).append(row)
        if self._timer is None:
            self._flush_in(_LINGER_SECONDS)

    async def ask(self, function: Callable[[Connection], T]) -> T:
        """Runs a function in a transaction of its own, after everything queued before it. For rare things.

        Raises STORE_UNAVAILABLE.
        """
        self._flush()
        try:
            result = function(self._connection)
            self._connection.commit()
        except SQLAlchemyError as error:
            self._connection.rollback()
            log.exception("records cannot be read or written")
            raise unavailable(type(error).__name__) from None
        return result

    async def flush(self) -> None:
        """Writes what is queued, so that whoever reads now sees it. What cannot be written is tried again later."""
        self._flush()

    async def close(self) -> None:
        """Writes what is queued and gives the database back."""
        self._checkpoint.cancel()
        await asyncio.wait((self._checkpoint,))
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        if self._urgent or self._later:
            log.error("records are lost", extra={"rows": sum(map(len, self._later.values()))})
        self._checkpointer.close()
        self._connection.close()

    def _flush_in(self, seconds: float) -> None:
        due = self._loop.time() + seconds
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._flush) if seconds else self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting and not self._later and not self._claims:
            return
        try:
            cursor = self._driver.cursor()
            taken = [self._take(cursor, claim) for claim in self._claims]
            # What is urgent are beginnings and what is not are ends, so this order is right within a group too.
            for group in (self._urgent, self._later):
                for statement, rows in group.items():
                    cursor.executemany(statement.sql, rows)
            cursor.close()
            self._driver.commit()
        except _OF_A_ROW as error:
            self._driver.rollback()
            self._leave_out(error)
            return
        except sqlite3.Error as error:
            self._driver.rollback()
            self._failed(error)
            return
        self._last_commit = self._loop.time()
        self._locked_since = None
        self._urgent, self._later = {}, {}
        claims, self._claims = self._claims, []
        for claim, free in zip(claims, taken, strict=True):
            if not claim.done.done():
                claim.done.set_result(free)
        self._tell(None)

    @staticmethod
    def _take(cursor: Any, claim: _Claim) -> bool:
        if cursor.execute(claim.statement.sql, claim.row).rowcount != 1:
            return False
        for statement, row in claim.more:
            cursor.execute(statement.sql, row)
        return True

    def _leave_out(self, error: Exception) -> None:
        """Refuses what is waited for, of which whoever waits can ask again; of what is not, loses the bad rows alone.

        Kept, one bad row would be tried again with all others, and none would ever be written.
        """
        log.error("a row cannot be written", extra={"error": type(error).__name__})
        self._urgent = {}
        self._tell(unavailable(type(error).__name__))
        queued = [(statement, row) for statement, rows in self._later.items() for row in rows]
        self._later = {}
        for place, (statement, row) in enumerate(queued):
            try:
                self._driver.execute(statement.sql, row)
                self._driver.commit()
            except _OF_A_ROW as bad:
                self._driver.rollback()
                # Without its trace, which may quote the row.
                log.error("records are lost", extra={"rows": 1, "error": type(bad).__name__})  # noqa: TRY400 - as said
            except sqlite3.Error as failure:
                self._driver.rollback()
                for later, rest in queued[place:]:
                    self._later.setdefault(later, []).append(rest)
                self._failed(failure)
                return

    def _failed(self, error: sqlite3.Error) -> None:
        now = self._loop.time()
        if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            self._locked_since = self._locked_since or now
            if now - self._locked_since < _MAX_LOCKED_SECONDS:
                self._flush_in(_RETRY_SECONDS)
                return
        log.error("records cannot be written", exc_info=error)
        self._locked_since = None
        self._urgent = {}
        self._tell(unavailable(type(error).__name__))
        for rows in self._later.values():
            if len(rows) > MAX_UNWRITTEN:
                log.error("records are lost", extra={"rows": len(rows) - MAX_UNWRITTEN})
                del rows[:-MAX_UNWRITTEN]
        if self._later:
            self._flush_in(_RETRY_SECONDS)

    def _tell(self, error: SluiceError | None) -> None:
        waiting: list[asyncio.Future[Any]] = [*self._waiting, *(claim.done for claim in self._claims)]
        self._waiting, self._claims = [], []
        for future in waiting:
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(None)

    async def _checkpoints(self) -> None:
        """Moves the write-ahead log into the database now and then, in a thread, because that waits for the disk."""
        while True:
            await asyncio.sleep(_CHECKPOINT_SECONDS)
            work = self._loop.run_in_executor(None, self._run_checkpoint)
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                # The thread goes on, and its connection must not be closed under it.
                await asyncio.wait((work,))
                raise
            except SQLAlchemyError:
                log.exception("the records' log cannot be checkpointed")

    def _run_checkpoint(self) -> None:
        _, pages, _ = self._checkpointer.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").one()
        if pages > _LONG_LOG_PAGES:
            # Of itself the log is begun anew when all of it was moved and nothing came meanwhile, which under load may
            # never be. What is left is little; it is moved with the writer kept out, who tries again.
            self._checkpointer.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        self._checkpointer.rollback()


def unavailable(kind: str) -> SluiceError:
    """Returns the failure of what cannot be written, for a kind of the database's errors."""
    return make_error(
        ErrorReason.ERROR_REASON_STORE_UNAVAILABLE, f"the gateway cannot write its records ({kind})", retry_after=1.0
    )
