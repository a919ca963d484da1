"""Deletes what nobody can ask for any more: old generations, their texts, old tasks, and what a crash left behind."""

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from sluice_retrieval.blobs import BlobFolder, tenant_folder
from sluice_retrieval.names import now
from sluice_retrieval.records import corpora, tasks
from sluice_retrieval.records.database import Database
from sluice_retrieval.records.models import DocumentRow, GenerationRow
from sluice_retrieval.store.base import Generation, Store

log = logging.getLogger(__name__)

_SEARCH_SECONDS: Final = 60.0
"""How long vectors stay after a generation was replaced, for searches that began before."""


class Maintenance:
    """Cleans up. `folder` is the service's own."""

    def __init__(
        self, database: Database, store: Store, folder: Path, keep_revisions_seconds: float, keep_tasks_seconds: float
    ) -> None:
        self._database = database
        self._store = store
        self._folder = folder
        self._keep_revisions_seconds = keep_revisions_seconds
        self._keep_tasks_seconds = keep_tasks_seconds

    async def after_crash(self) -> None:
        """Removes generations that were never finished, and vectors that no record names. Only before tasks run."""

        def unfinished(session: Session) -> list[Generation]:
            for row in session.scalars(select(GenerationRow).where(GenerationRow.index_time.is_(None))):
                corpora.remove_generation(session, row)
            session.flush()
            return _with_vectors(session, now() - _SEARCH_SECONDS)

        kept = await self._database.write(unfinished)
        removed = await self._store.keep_only(kept)
        if removed:
            log.info("removed indexes that nobody uses", extra={"count": removed})
        await asyncio.to_thread(shutil.rmtree, self._folder / "fetched", True)

    async def sweep(self) -> None:
        """Removes what is too old. Only while no index is made, because a text is kept before its record is."""

        def expire(session: Session) -> tuple[list[Generation], list[str]]:
            tasks.forget(session, now() - self._keep_tasks_seconds)
            old = session.scalars(
                select(GenerationRow).where(GenerationRow.replace_time < now() - self._keep_revisions_seconds)
            )
            tenants: set[str] = set()
            for row in list(old):
                tenants.add(row.tenant)
                corpora.remove_generation(session, row)
            session.flush()
            return _with_vectors(session, now() - _SEARCH_SECONDS), sorted(tenants)

        kept, tenants = await self._database.write(expire)
        await self._store.keep_only(kept)
        for tenant in tenants:
            await self.sweep_texts(tenant)

    async def sweep_texts(self, tenant: str) -> None:
        """Removes a tenant's texts that no document names. Only while no index is made."""
        wanted = await self._database.read(
            lambda session: set(
                session.scalars(select(DocumentRow.blob_sha256).where(DocumentRow.tenant == tenant).distinct())
            )
        )
        blobs = BlobFolder(tenant_folder(self._folder / "blobs", tenant))
        await asyncio.to_thread(blobs.sweep, wanted)


def _with_vectors(session: Session, replaced_after: float) -> list[Generation]:
    """Returns the generations whose vectors are still of use."""
    query = select(GenerationRow).where(
        GenerationRow.replace_time.is_(None) | (GenerationRow.replace_time > replaced_after)
    )
    return [corpora.generation_key(row) for row in session.scalars(query)]
