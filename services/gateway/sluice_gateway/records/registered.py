"""The integrations that were registered at run time, kept over a restart."""

import time
from collections.abc import Mapping

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from sluice.auth.v1.identity_pb2 import Identity
from sluice_gateway.records.schema import integrations
from sluice_gateway.records.writer import RecordWriter


class Registered:
    """Their rows. Every method raises STORE_UNAVAILABLE."""

    def __init__(self, writer: RecordWriter) -> None:
        self._writer = writer

    async def all(self) -> Mapping[str, str]:
        """Returns the address of each, by id."""
        query = select(integrations.c.id, integrations.c.address).order_by(integrations.c.id)
        return await self._writer.ask(lambda connection: {row.id: row.address for row in connection.execute(query)})

    async def add(self, integration: str, address: str, who: Identity) -> None:
        """Keeps one, in place of one of the same id."""
        row = {
            "id": integration,
            "address": address,
            "tenant": who.tenant,
            "subject": who.subject,
            "create_ns": time.time_ns(),
        }
        await self._writer.ask(lambda connection: _put(connection, row))

    async def remove(self, integration: str) -> None:
        """Forgets one."""
        gone = delete(integrations).where(integrations.c.id == integration)
        await self._writer.ask(lambda connection: connection.execute(gone))


def _put(connection: Connection, row: Mapping[str, object]) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(integrations).values(row).on_conflict_do_update(index_elements=["id"], set_=row))
