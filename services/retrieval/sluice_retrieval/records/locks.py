"""Locks between the processes that share the records, so that a task is worked on by one of them alone.

They belong to a connection that is kept for them: when the process ends, however it ends, the server gives them back, and
another process goes on. Without a shared database there is one process (its folder is locked), so everything is granted.
"""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from sluice_retrieval.records.database import Database

log = logging.getLogger(__name__)

T = TypeVar("T")
UPKEEP: Final = "upkeep"
"""The lock that tasks share while they work, and that cleaning up has alone."""


class Locks:
    """Named locks. None of them is waited for. For the event loop's thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, "sluice-locks")
        self._connection: Connection | None = None
        self._held: Counter[str] = Counter()
        self._lost = False

    @property
    def shared(self) -> bool:
        """Whether there may be other processes."""
        return self._database.shared

    def holds(self, name: str) -> bool:
        """Tells whether this process has a lock."""
        return self._held[name] > 0

    async def take(self, name: str, *, together: bool = False) -> bool:
        """Takes a lock, if no other process has it; tells whether it did. The same one may be taken more than once.

        `together`: with those who take it so, too.
        """
        if self.shared:
            function = "pg_try_advisory_lock_shared" if together else "pg_try_advisory_lock"
            if not await self._ask(lambda connection: _call(connection, function, name), otherwise=False):
                return False
        self._held[name] += 1
        return True

    async def give(self, name: str, *, together: bool = False) -> None:
        """Gives a lock back. One that was lost meanwhile is not missed."""
        if not self._held[name]:
            return
        self._held[name] -= 1
        if self.shared:
            function = "pg_advisory_unlock_shared" if together else "pg_advisory_unlock"
            await self._ask(lambda connection: _call(connection, function, name), otherwise=False)

    async def keep(self) -> bool:
        """Tells whether what was held since the last time is still held; if not, all of it is lost."""
        if self._held.total():
            await self._ask(lambda connection: bool(connection.scalar(text("SELECT true"))), otherwise=False)
        lost, self._lost = self._lost, False
        return not lost

    async def close(self) -> None:
        """Gives all back."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._held.clear()
        await asyncio.to_thread(self._thread.shutdown)

    async def _ask(self, question: Callable[[Connection], T], *, otherwise: T) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: question(self._connect()))
        except SQLAlchemyError as error:
            # The server gave the connection's locks back, or will in a moment.
            log.warning("locks are lost", extra={"error": type(error).__name__, "held": self._held.total()})
            self._lost = self._lost or self._held.total() > 0
            self._held.clear()
            await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
            return otherwise

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()  # to the pool's other users it would come with the locks that are left on it
            connection.close()


def _call(connection: Connection, function: str, name: str) -> bool:
    key = int.from_bytes(hashlib.sha256(f"sluice.retrieval/{name}".encode()).digest()[:8], "big", signed=True)
    return bool(connection.scalar(text(f"SELECT {function}(:key)"), {"key": key}))
