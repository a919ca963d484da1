"""One thread that writes, so that the event loop never waits for a disk, and commits what has come together.

SQLite allows one writer anyway, and under load a commit for each row would cost more than the rows.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.base import Executable

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import make_error

log = logging.getLogger(__name__)

T = TypeVar("T")
Row = Mapping[str, Any]
_MAX_GROUP = 512
_MAX_UNWRITTEN = 100_000


class Statement:
    """A statement compiled once; rows are given to the driver as they are."""

    def __init__(self, engine: Engine, statement: Executable) -> None:
        self.sql = str(statement.compile(engine))  # type: ignore[attr-defined]  # every executable of ours is a ClauseElement

    def run(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Executes the statement for each row."""
        connection.exec_driver_sql(self.sql, [dict(row) for row in rows])


@dataclass(slots=True)
class _Write:
    """Rows that somebody may wait for."""

    rows: Sequence[tuple[Statement, Row]]
    done: asyncio.Future[None] | None


@dataclass(slots=True)
class _Task(Generic[T]):
    """Something to do in a transaction of its own, with a result."""

    function: Callable[[Connection], T]
    done: asyncio.Future[T]


class Writer:
    """The thread. Start it inside the event loop whose futures it completes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[_Write | _Task[Any] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._unwritten: list[_Write] = []
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def write(self, *rows: tuple[Statement, Row]) -> asyncio.Future[None]:
        """Queues rows; the future is done when they are committed, and fails with STORE_UNAVAILABLE if they cannot be."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(_Write(rows, done))
        return done

    def write_soon(self, *rows: tuple[Statement, Row]) -> None:
        """Queues rows that must not be lost but that nobody waits for: if the disk fails they are tried again."""
        self._queue.put(_Write(rows, None))

    def run(self, function: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Runs a function in a transaction of its own, in order with the writes."""
        done: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Task(function, done))
        return done

    async def close(self) -> None:
        """Writes what is queued and ends the thread."""
        self._queue.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        with self._engine.connect() as connection:
            while True:
                items = self._take()
                writes = self._unwritten + [item for item in items if isinstance(item, _Write)]
                self._unwritten = []
                if writes:
                    self._commit(connection, writes)
                for item in items:
                    if isinstance(item, _Task):
                        self._run_task(connection, item)
                if None in items:
                    return

    def _take(self) -> list[_Write | _Task[Any] | None]:
        """Waits for one item and takes what else is there, up to a task or the end, which keep their place."""
        items: list[_Write | _Task[Any] | None] = [self._queue.get()]
        while isinstance(items[-1], _Write) and len(items) < _MAX_GROUP:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return items

    def _commit(self, connection: Connection, writes: Sequence[_Write]) -> None:
        try:
            by_statement: dict[Statement, list[Row]] = {}
            for write in writes:
                for statement, row in write.rows:
                    by_statement.setdefault(statement, []).append(row)
            for statement, rows in by_statement.items():
                statement.run(connection, rows)
            connection.commit()
        except SQLAlchemyError as error:
            connection.rollback()
            log.exception("records cannot be written")
            self._keep(write for write in writes if write.done is None)
            self._settle([write.done for write in writes if write.done is not None], _unavailable(error))
            return
        self._settle([write.done for write in writes if write.done is not None], None)

    def _keep(self, writes: Iterable[_Write]) -> None:
        self._unwritten.extend(writes)
        surplus = len(self._unwritten) - _MAX_UNWRITTEN
        if surplus > 0:
            log.error("records are lost", extra={"rows": surplus})
            del self._unwritten[:surplus]

    def _run_task(self, connection: Connection, task: _Task[Any]) -> None:
        try:
            result = task.function(connection)
            connection.commit()
        except SQLAlchemyError as error:
            connection.rollback()
            log.exception("records cannot be read or written")
            self._loop.call_soon_threadsafe(_fail, task.done, _unavailable(error))
        else:
            self._loop.call_soon_threadsafe(_complete, task.done, result)

    def _settle(self, futures: Sequence[asyncio.Future[None]], error: Exception | None) -> None:
        if futures:
            self._loop.call_soon_threadsafe(_settle_all, futures, error)


def _unavailable(error: Exception) -> Exception:
    kind = type(error).__name__
    return make_error(
        ErrorReason.ERROR_REASON_STORE_UNAVAILABLE, f"the gateway cannot write its records ({kind})", retry_after=1.0
    )


def _settle_all(futures: Sequence[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if error is not None:
            _fail(future, error)
        else:
            _complete(future, None)


def _complete(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
