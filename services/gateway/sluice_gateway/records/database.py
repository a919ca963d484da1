"""Where the records are: in a file of this gateway, or in a Postgres database that several share."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from sluice_gateway.config import RecordsConfig
from sluice_gateway.records.left import Left, end_all, free_ids
from sluice_gateway.records.migrate import STEPS
from sluice_gateway.records.url import SETTING, SQLITE, records_url
from sluice_gateway.records.writer import RecordWriter, Writer
from sluice_kit.config import ConfigDocument, ConfigError
from sluice_kit.tables import prepare

_LOCKED_SECONDS: Final = 2.0


class RecordsDatabase(Protocol):
    """A database of records, and what is particular to it."""

    shared: bool
    """Whether several gateways may have it."""
    instance: str
    """What rows name this gateway by; empty where there is no other."""
    engine: Engine
    reading: Engine
    """For long reads, each with a connection of its own."""
    writer: RecordWriter

    def on_slot(self, told: Callable[[int], None]) -> None:
        """Has it told which slot this gateway has among those that share the tables, now and whenever it changes."""

    def on_left(self, told: Callable[[Sequence[str]], None]) -> None:
        """Has it told the ids of the responses that it ended for a gateway that died, whenever it did."""

    async def recover(self) -> None:
        """Ends what a crash left open. Raises ConfigError for the tables of a newer program."""

    async def ping(self) -> None:
        """Raises STORE_UNAVAILABLE if it does not answer."""

    async def close(self) -> None:
        """Closes it, after its writer."""


def open_records(document: ConfigDocument, config: RecordsConfig, folder: Path) -> RecordsDatabase:
    """Returns the database of the configuration, or a file in a folder. Make it inside the event loop.

    Raises ConfigError for a URL that is none, for one whose driver is missing and for a file of a newer program.
    """
    url = records_url(document, config)
    if url is None or url.get_backend_name() == SQLITE:
        return FileDatabase(folder / "records.db" if url is None else Path(url.database or ""))
    try:
        from sluice_gateway.records.shared import SharedDatabase
    except ModuleNotFoundError:
        raise ConfigError(f"{SETTING}: Postgres needs a driver: install sluice-gateway[postgres]") from None
    return SharedDatabase(url, config, folder)


class FileDatabase:
    """Records in a file of SQLite, which is this gateway's alone. Raises ConfigError for one of a newer program."""

    shared = False
    instance = ""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Named parameters let rows go to the driver as they are.
        self.engine: Engine = create_engine(
            f"sqlite:///{path}", paramstyle="named", poolclass=NullPool, connect_args={"check_same_thread": False}
        )
        event.listen(self.engine, "connect", _pragmas)
        with self.engine.begin() as connection:
            prepare(connection, STEPS, str(path))
        self.reading: Engine = create_engine("sqlite://", creator=lambda: _open(path), poolclass=NullPool)
        self.writer: RecordWriter = Writer(self.engine)

        self._on_left: Callable[[Sequence[str]], None] = lambda _: None

    def on_slot(self, told: Callable[[int], None]) -> None:
        """There is no other gateway."""

    def on_left(self, told: Callable[[Sequence[str]], None]) -> None:
        """Has it told the ids of the responses that the gateway before this one left."""
        self._on_left = told

    async def recover(self) -> None:
        """Ends everything that runs: a gateway that is not this one cannot be."""
        self._on_left((await self.writer.ask(_recover)).responses)

    async def ping(self) -> None:
        """A file is there."""

    async def close(self) -> None:
        """Closes the file."""
        self.reading.dispose()
        self.engine.dispose()


def _recover(connection: Connection) -> Left:
    left = end_all(connection)
    free_ids(connection)
    return left


def _pragmas(connection: Any, _: Any) -> None:
    # WAL with NORMAL never corrupts; a power cut may lose the last commits, a crash of the process none. Waiting for
    # locks and checkpoints is the writer's business.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=0", "wal_autocheckpoint=0"):
        connection.execute(f"PRAGMA {pragma}")


def _open(path: Path) -> sqlite3.Connection:
    # It is stopped from another thread than the one that reads.
    connection = sqlite3.connect(path, check_same_thread=False, timeout=_LOCKED_SECONDS)
    connection.execute("PRAGMA query_only=1")
    return connection
