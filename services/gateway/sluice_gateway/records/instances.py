"""The gateways that share the tables: each says now and then that it lives, and the others end what a dead one left."""

import fcntl
import logging
import os
from pathlib import Path
from typing import Final

from sqlalchemy import BigInteger, ColumnElement, Connection, cast, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from sluice_gateway.records.left import Left, end_left, free_ids
from sluice_gateway.records.migrate import STEPS
from sluice_gateway.records.schema import SLOTS, instances
from sluice_kit.ids import new_uuid

log = logging.getLogger(__name__)

_NOW_NS: Final[ColumnElement[int]] = cast(func.extract("epoch", text("clock_timestamp()")) * 1_000_000_000, BigInteger)
"""The database's clock, so that those of the gateways need not agree."""


class Home:
    """A state folder, which one running gateway has at a time: the one before it there is dead.

    Where two run in one folder, the second has a home of its own, and is missed only when its lease is over.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / "home", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.id = new_uuid().replace("-", "")
        """Stays over restarts."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("another gateway runs in the same state folder")
            return
        known = os.read(self._file, 64).decode("ascii", "replace").strip()
        if len(known) == len(self.id):
            self.id = known
        else:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{self.id}\n".encode(), 0)

    def close(self) -> None:
        """Lets another gateway have it."""
        os.close(self._file)


class Instance:
    """This gateway among those that share the tables. Its functions run in the connection's transaction."""

    def __init__(self, home: Home, lease_seconds: float) -> None:
        self.id = new_uuid().replace("-", "")
        """Of this process."""
        self._home = home
        self._lease_ns = int(lease_seconds * 10**9)

    def join(self, connection: Connection) -> tuple[int, Left]:
        """Takes a place among the gateways, and ends what the one before in this home left. Returns its slot, and that."""
        _lock(connection)
        left = Left(0, ())
        before = delete(instances).where(instances.c.home == self._home.id, instances.c.id != self.id)
        if connection.execute(before).rowcount:
            left = _told(end_left(connection))
        free_ids(connection)
        taken = set(connection.execute(select(instances.c.slot).where(instances.c.id != self.id)).scalars())
        slot = next(number for number in range(SLOTS) if number not in taken)
        row = {"id": self.id, "home": self._home.id, "slot": slot, "until_ns": _NOW_NS + self._lease_ns}
        statement = insert(instances).values(row)
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))
        return slot, left

    def renew(self, connection: Connection) -> bool:
        """Says that it lives. Returns False if the others have given it up."""
        mine = update(instances).where(instances.c.id == self.id)
        return connection.execute(mine.values(until_ns=_NOW_NS + self._lease_ns)).rowcount == 1

    def look(self, connection: Connection) -> Left:
        """Ends what gateways left whose lease is over, and returns what that was."""
        _lock(connection)
        connection.execute(delete(instances).where(instances.c.until_ns < _NOW_NS, instances.c.id != self.id))
        return _told(end_left(connection))

    def leave(self, connection: Connection) -> None:
        """Gives its place up, after all it had to write."""
        connection.execute(delete(instances).where(instances.c.id == self.id))


def _lock(connection: Connection) -> None:
    """Makes every other gateway that comes, goes or looks wait until the transaction ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": STEPS.lock})


def _told(left: Left) -> Left:
    if left.rows:
        log.warning("ended what a gateway left that died", extra={"rows": left.rows})
    return left
