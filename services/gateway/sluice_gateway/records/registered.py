"""The integrations that were registered at run time, kept over a restart."""

import time
from collections.abc import Mapping

from sqlalchemy import delete, insert, select

from sluice.auth.v1.identity_pb2 import Identity
from sluice_gateway.records.schema import integrations
from sluice_gateway.records.writer import Writer


class Registered:
    """Their rows. Every method raises STORE_UNAVAILABLE."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def all(self) -> Mapping[str, str]:
        """Returns the address of each, by id."""
        query = select(integrations.c.id, integrations.c.address).order_by(integrations.c.id)
        return self._writer.run(lambda connection: {row.id: row.address for row in connection.execute(query)})

    def add(self, integration: str, address: str, who: Identity) -> None:
        """Keeps one, in place of one of the same id."""
        row = {
            "id": integration,
            "address": address,
            "tenant": who.tenant,
            "subject": who.subject,
            "create_ns": time.time_ns(),
        }
        self._writer.run(lambda connection: connection.execute(insert(integrations).prefix_with("OR REPLACE"), row))

    def remove(self, integration: str) -> None:
        """Forgets one."""
        gone = delete(integrations).where(integrations.c.id == integration)
        self._writer.run(lambda connection: connection.execute(gone))
