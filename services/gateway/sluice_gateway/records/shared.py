"""A Postgres database that several gateways share: its connections, its tables, and this gateway's place among them."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from sluice_gateway.config import RecordsConfig
from sluice_gateway.records.instances import Home, Instance
from sluice_gateway.records.migrate import STEPS
from sluice_gateway.records.postgres import PostgresWriter
from sluice_gateway.records.writer import RecordWriter, unavailable
from sluice_kit.errors import SluiceError
from sluice_kit.tables import prepare

log = logging.getLogger(__name__)

T = TypeVar("T")
_RENEWALS: Final = 4
"""A lease is renewed so often within its length."""
_PAUSE_SECONDS: Final = 0.1
_CONNECT: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    # A server that vanished is noticed, and one of ours that vanished holds no row for long.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "options": "-c statement_timeout=30000 -c idle_in_transaction_session_timeout=15000 -c timezone=UTC",
}


class SharedDatabase:
    """Make it inside the event loop. A server that is away is tried again whenever it is needed."""

    shared = True

    def __init__(self, url: URL, settings: RecordsConfig, folder: Path) -> None:
        self._url = url
        self._lease_seconds = settings.lease_seconds
        self._home = Home(folder)
        self._place = Instance(self._home, settings.lease_seconds)
        self.instance = self._place.id
        self.engine: Engine = create_engine(
            url,
            pool_size=settings.connections,
            max_overflow=0,
            pool_pre_ping=True,  # a server that was restarted is met again without a failure
            hide_parameters=True,
            connect_args=_CONNECT,
        )
        self.reading: Engine = create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=_CONNECT)
        """For long reads, each with a connection of its own: what stops it must not meet another one."""
        self._threads = ThreadPoolExecutor(settings.connections, "sluice-records")
        self._lock = asyncio.Lock()
        self._ready = False
        self._not_before = 0.0
        self._keeping: asyncio.Task[None] | None = None
        self._on_slot: Callable[[int], None] = lambda _: None
        self._on_left: Callable[[Sequence[str]], None] = lambda _: None
        self.writer: RecordWriter = PostgresWriter(self.connect, self.ask)

    def on_slot(self, told: Callable[[int], None]) -> None:
        """Has it told which slot this gateway has among those that share the tables, whenever it changes."""
        self._on_slot = told

    def on_left(self, told: Callable[[Sequence[str]], None]) -> None:
        """Has it told the ids of the responses that it ended for a gateway that died, whenever it did."""
        self._on_left = told

    async def recover(self) -> None:
        """Joins the others, and ends what the gateway before this one left in this state folder.

        Raises ConfigError for the tables of a newer program. A server that is away is met later.
        """
        try:
            await self.ready()
        except SluiceError as error:
            log.warning("records cannot be used yet", extra={"reason": error.reason_name})

    async def ping(self) -> None:
        """Raises STORE_UNAVAILABLE if the server does not answer."""
        await self.ask(lambda connection: connection.execute(text("SELECT 1")))

    async def connect(self) -> "psycopg.AsyncConnection[Any]":
        """Returns a new connection for the loop. Raises psycopg.Error, OSError or SluiceError."""
        await self.ready()
        plain = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        return await psycopg.AsyncConnection.connect(plain, **_CONNECT)

    async def ready(self) -> None:
        """Brings the tables up to date and joins the gateways that share them, once.

        Raises ConfigError for tables of a newer program, STORE_UNAVAILABLE.
        """
        if self._ready:
            return
        async with self._lock:
            if not self._ready:
                loop = asyncio.get_running_loop()
                if loop.time() < self._not_before:
                    # Who waited for another one's try has its answer.
                    raise unavailable("Unreachable")
                try:
                    await self._run(self._prepare)
                    await self._join()
                except SluiceError:
                    self._not_before = loop.time() + _PAUSE_SECONDS
                    raise
                self._ready = True
                self._keeping = loop.create_task(self._keep())

    def _prepare(self) -> None:
        with self.engine.begin() as connection:
            prepare(connection, STEPS, self._url.render_as_string(hide_password=True))

    async def _join(self) -> None:
        slot, left = await self._run(lambda: self._in_transaction(self._place.join))
        self._on_slot(slot)
        self._on_left(left.responses)

    async def ask(self, function: Callable[[Connection], T]) -> T:
        """Runs a function in a transaction of its own, in a thread. Raises STORE_UNAVAILABLE.

        What is queued to be written is not waited for: that is the writer's `ask`.
        """
        await self.ready()
        return await self._run(lambda: self._in_transaction(function))

    def _in_transaction(self, function: Callable[[Connection], T]) -> T:
        with self.engine.begin() as connection:
            return function(connection)

    async def _run(self, function: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function)
        except SQLAlchemyError as error:
            # Not the exception itself: a server's own text may quote what was written.
            kind = type(getattr(error, "orig", None) or error).__name__
            log.error("records cannot be read or written", extra={"error": kind})  # noqa: TRY400 - as said
            raise unavailable(kind) from None

    async def _keep(self) -> None:
        """Renews this gateway's lease, and ends what those left whose lease is over."""
        loop = asyncio.get_running_loop()
        heard, since = 0.0, loop.time()
        while True:
            await asyncio.sleep(self._lease_seconds / _RENEWALS)
            try:
                if not await self.ask(self._place.renew):
                    log.warning("the other gateways had given this one up")
                    await self._join()
                now = loop.time()
                if now - heard > self._lease_seconds / 2:
                    since = now
                heard = now
                # After the database was away every lease is over, and who lives must have the time to say so.
                if now - since >= self._lease_seconds:
                    self._on_left((await self.ask(self._place.look)).responses)
            except SluiceError as error:
                log.warning("the lease of the records was not renewed", extra={"reason": error.reason_name})

    async def close(self) -> None:
        """Leaves, and closes."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait((self._keeping,))
            try:
                await self.ask(self._place.leave)
            except SluiceError:
                log.warning("the other gateways find out by themselves that this one is gone")
        await asyncio.to_thread(self._threads.shutdown)
        self.engine.dispose()
        self.reading.dispose()
        self._home.close()
