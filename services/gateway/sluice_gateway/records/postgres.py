"""Writes rows in groups to Postgres: what comes while one group is being committed is the next group.

The promises are those of the writer for SQLite. The loop itself talks to the server, over one connection, and a group is
a few round trips however many rows it has. While the server is away, whoever waits for rows is refused at once, and rows
that nobody waits for are kept for later. Where a commit may or may not have happened, what was refused is undone first.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors
from sqlalchemy import Connection

from sluice_gateway.records.writer import MAX_UNWRITTEN, Row, Statement, unavailable
from sluice_kit.errors import SluiceError

log = logging.getLogger(__name__)

T = TypeVar("T")
_LINGER_SECONDS: Final = 0.02
"""As for SQLite: how long a row that nobody waits for may wait for company."""
_RETRY_SECONDS: Final = 0.25
_PAUSE_SECONDS: Final = 0.05
"""Between two tries while somebody waits."""
_COMMIT_SECONDS: Final = 10.0
_TRIES: Final = 3


class _BrokenError(Exception):
    """The connection broke before the commit, as one does whose server was restarted meanwhile."""


_AGAIN: Final = (errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable)
"""Another gateway was in the way, and nothing was written."""

_PLACE: Final = ("tenant", "method", "request_id")
"""The columns of a claim that must be its own."""

Rows = dict[Statement, list[Row]]


@dataclass(slots=True)
class _Write:
    rows: Sequence[tuple[Statement, Row]]
    done: "asyncio.Future[Any]"
    claim: tuple[Statement, Row] | None = None
    """A row that may be taken already; `rows` go with it if it is not."""


@dataclass(slots=True)
class _Group:
    undo: Rows = field(default_factory=dict)
    writes: list[_Write] = field(default_factory=list)
    later: Rows = field(default_factory=dict)

    def size(self) -> int:
        """Returns how many rows it has."""
        waited_for = sum(len(write.rows) + (write.claim is not None) for write in self.writes)
        return waited_for + sum(map(len, (*self.later.values(), *self.undo.values())))

    def singles(self) -> "list[_Group]":
        """Returns a group for each part that can be written without the others, in their order."""
        undo = [_Group(undo={statement: [row]}) for statement, rows in self.undo.items() for row in rows]
        writes = [_Group(writes=[write]) for write in self.writes]
        later = [_Group(later={statement: [row]}) for statement, rows in self.later.items() for row in rows]
        return [*undo, *writes, *later]


class PostgresWriter:
    """Groups and commits. Make it inside the event loop; all methods are for that loop's thread."""

    def __init__(
        self,
        connect: Callable[[], Awaitable["psycopg.AsyncConnection[Any]"]],
        ask: Callable[[Callable[[Connection], Any]], Awaitable[Any]],
    ) -> None:
        """`ask` runs a function in a transaction of its own, with another connection."""
        self._connect = connect
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._next = _Group()
        self._current = _Group()
        """What is being written."""
        self._in_doubt = False
        """The connection broke while the last group was committed: the server may have done it."""
        self._wanted = asyncio.Event()
        """Somebody waits for something in the next group."""
        self._not_before = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """How many rows wait to be written."""
        return self._next.size() + self._current.size()

    def write(self, *rows: tuple[Statement, Row]) -> "asyncio.Future[None]":
        """Queues rows; the future is done when they are committed, and fails with STORE_UNAVAILABLE if they cannot be."""
        return self._wait_for(_Write(rows, self._loop.create_future()))

    def claim(self, statement: Statement, row: Row, *more: tuple[Statement, Row]) -> "asyncio.Future[bool]":
        """Queues a row whose statement returns nothing if its place is taken, and rows that are written only if it is not.

        The future tells, after the commit, whether the place was free. It fails as that of `write` does.
        """
        return self._wait_for(_Write(more, self._loop.create_future(), (statement, row)))

    def _wait_for(self, write: _Write) -> "asyncio.Future[Any]":
        self._next.writes.append(write)
        self._wanted.set()
        self._start()
        return write.done

    def write_soon(self, *rows: tuple[Statement, Row]) -> None:
        """Queues rows that must not be lost but that nobody waits for: if they cannot be written they are tried again."""
        for statement, row in rows:
            self._next.later.setdefault(statement, []).append(row)
        self._start()

    async def ask(self, function: Callable[[Connection], T]) -> T:
        """Runs a function in a transaction of its own, after everything queued before it. For rare things.

        Raises STORE_UNAVAILABLE.
        """
        await self.flush()
        result: T = await self._ask(function)
        return result

    async def flush(self) -> None:
        """Writes what is queued, so that whoever reads now sees it. What cannot be written is tried again later."""
        if self._task is not None:
            try:
                await self.write()
            except SluiceError:
                log.debug("what is queued cannot be written now")

    async def close(self) -> None:
        """Writes what is queued and gives the database back."""
        await self.flush()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self.queued:
            log.error("records are lost", extra={"rows": self.queued})
        await self._drop()

    # The task that writes.

    def _start(self) -> None:
        if self._task is None:
            self._task = self._loop.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._next.writes or self._next.later or self._next.undo:
                await self._pause()
                self._current, self._next = self._next, _Group()
                self._wanted.clear()
                await self._write(self._current)
                self._current = _Group()
        finally:
            self._task = None

    async def _pause(self) -> None:
        """Waits for company, or for the server to come back; shorter where somebody waits for rows."""
        now = self._loop.time()
        if not self._wanted.is_set():
            try:
                async with asyncio.timeout_at(max(now + _LINGER_SECONDS, self._not_before)):
                    await self._wanted.wait()
            except TimeoutError:
                return
        if self._not_before:
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _write(self, group: _Group) -> None:
        for left in reversed(range(_TRIES)):
            try:
                taken = await self._commit(group)
            except psycopg.Error as error:
                if _is_of_a_row(error):
                    await self._write_singly(group, error)
                    return
                if not isinstance(error, _AGAIN) or not left:
                    self._failed(group, error)
                    return
            except _BrokenError as error:
                if not left:
                    self._failed(group, error)
            except Exception as error:  # noqa: BLE001 - whatever it is, who waits must hear of it, and no row be forgotten
                self._failed(group, error)
                return
            else:
                self._not_before = 0.0
                for write, free in zip(group.writes, taken, strict=True):
                    if not write.done.done():
                        write.done.set_result(free)
                return

    async def _write_singly(self, group: _Group, error: Exception) -> None:
        """Writes the parts of a group in which there is a bad row, and gives up that one alone."""
        parts = group.singles()
        if len(parts) > 1:
            for part in parts:
                await self._write(part)
            return
        log.error("a row cannot be written", extra={"error": type(error).__name__})
        for write in group.writes:
            if not write.done.done():
                write.done.set_exception(unavailable(type(error).__name__))

    async def _commit(self, group: _Group) -> list[bool]:
        """Commits a group. Returns for each of its writes whether it was written, or its place was taken."""
        connection, self._in_doubt = self._connection, False
        if connection is None or connection.closed:
            self._connection = connection = await self._connect()
        try:
            async with asyncio.timeout(_COMMIT_SECONDS):
                async with connection.cursor() as cursor:
                    for statement, undone in group.undo.items():
                        await cursor.executemany(statement.sql, undone)
                    taken = await _claim(cursor, group.writes)
                    begun: Rows = {}
                    for write, free in zip(group.writes, taken, strict=True):
                        if free:
                            for statement, row in write.rows:
                                begun.setdefault(statement, []).append(row)
                    # Beginnings first, as ends of the same rows may be among the others.
                    for rows in (begun, group.later):
                        for statement, several in rows.items():
                            await cursor.executemany(statement.sql, several)
                self._in_doubt = True
                await connection.commit()
                self._in_doubt = False
        except psycopg.Error as error:
            await self._roll_back(connection)
            if self._connection is None and not self._in_doubt:
                raise _BrokenError from error
            raise
        except BaseException:
            await self._drop()
            raise
        return taken

    async def _roll_back(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        try:
            async with asyncio.timeout(1.0):
                await connection.rollback()
            self._in_doubt = False  # the server says that it did not
        except (psycopg.Error, OSError, TimeoutError):
            await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _failed(self, group: _Group, error: Exception) -> None:
        kind = type(error).__name__
        if not self._not_before:
            # Not the exception itself: a server's own text may quote what was written.
            log.error("records cannot be written", extra={"error": kind})
        self._not_before = self._loop.time() + _RETRY_SECONDS
        queued, self._current = self._next, _Group()
        undo, later = group.undo, group.later
        for write in group.writes:
            if self._in_doubt:
                # Who is told that there is no row must find none.
                rows = [*write.rows] if write.claim is None else [write.claim, *write.rows]
                _add(undo, {row_of.undo: [row] for row_of, row in reversed(rows) if row_of.undo is not None})
            if not write.done.done():
                write.done.set_exception(unavailable(kind))
        _add(undo, queued.undo)
        _add(later, queued.later)
        for rows_left in (*undo.values(), *later.values()):
            if len(rows_left) > MAX_UNWRITTEN:
                log.error("records are lost", extra={"rows": len(rows_left) - MAX_UNWRITTEN})
                del rows_left[:-MAX_UNWRITTEN]
        self._next = _Group(undo, queued.writes, later)


def _is_of_a_row(error: psycopg.Error) -> bool:
    """Tells whether one row of the group cannot be written, and the others can: the server, or the driver, refuses it."""
    if isinstance(error, psycopg.ProgrammingError):
        return error.sqlstate is None  # the server's own are about rights and tables
    return isinstance(error, psycopg.DataError | psycopg.IntegrityError)


def _add(to: Rows, rows: Mapping[Statement, list[Row]]) -> None:
    for statement, several in rows.items():
        to.setdefault(statement, []).extend(several)


async def _claim(cursor: "psycopg.AsyncCursor[Any]", writes: Sequence[_Write]) -> list[bool]:
    """Takes places. Returns for each write whether it has its own, or needs none."""
    claims = [(write.claim, index) for index, write in enumerate(writes) if write.claim is not None]
    taken = [True] * len(writes)
    if claims:
        # In one order in every gateway, so that two of them never wait for each other.
        claims.sort(key=lambda claim: [claim[0][1][name] for name in _PLACE])
        (statement, _), _ = claims[0]
        await cursor.executemany(statement.sql, [row for (_, row), _ in claims], returning=True)
        for number, (_, index) in enumerate(claims):
            if number:
                cursor.nextset()
            taken[index] = await cursor.fetchone() is not None
    return taken
