"""Deletes what nobody can ask for any more: old generations, their texts, old tasks, and what a crash left behind."""

import asyncio
import contextlib
import logging
import shutil
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from sluice_retrieval.blobs import tenant_folder
from sluice_retrieval.kept_texts import KeptTexts
from sluice_retrieval.names import now
from sluice_retrieval.records import corpora, tasks
from sluice_retrieval.records.database import Database
from sluice_retrieval.records.models import CorpusRow, DocumentRow, GenerationRow
from sluice_retrieval.store.base import Generation, Store

log = logging.getLogger(__name__)

_SEARCH_SECONDS: Final = 60.0
"""How long vectors stay after a generation was replaced, for searches that began before."""


class Maintenance:
    """Cleans up. `folder` is the service's own."""

    def __init__(
        self,
        database: Database,
        store: Store,
        folder: Path,
        texts: KeptTexts,
        keep_revisions_seconds: float,
        keep_tasks_seconds: float,
        *,
        keep_fetched: bool = True,
    ) -> None:
        self._database = database
        self._store = store
        self._folder = folder
        self._texts = texts
        self._blobs = texts.root
        self._marked: set[str] = set()
        self._everyone = True
        self._keep_revisions_seconds = keep_revisions_seconds
        self._keep_tasks_seconds = keep_tasks_seconds
        self._fetched = folder / "fetched"
        self._keep_fetched = keep_fetched

    async def after_crash(self) -> None:
        """Removes generations that no task will finish, and vectors that no record names. Only before tasks run."""

        def unfinished(session: Session) -> list[Generation]:
            going_on = {row.name for row in tasks.unfinished(session)}
            for row in session.scalars(select(GenerationRow).where(GenerationRow.index_time.is_(None))):
                if row.task not in going_on:
                    corpora.remove_generation(session, row)
            session.flush()
            return _with_vectors(session, now() - _SEARCH_SECONDS)

        kept = await self._database.write(unfinished)
        removed = await self._store.keep_only(kept)
        if removed:
            log.info("removed indexes that nobody uses", extra={"count": removed})
        await self._sweep_fetched()

    def mark(self, tenant: str) -> None:
        """Notes that a tenant may have texts that no document names."""
        self._marked.add(tenant)

    async def sweep(self) -> None:
        """Removes what is too old. Only while no index is made, because a text is kept before its record is."""

        def expire(session: Session) -> tuple[list[Generation], list[str]]:
            tasks.forget(session, now() - self._keep_tasks_seconds)
            old = session.scalars(
                select(GenerationRow).where(GenerationRow.replace_time < now() - self._keep_revisions_seconds)
            )
            tenants: list[str] = []
            for row in list(old):
                tenants.append(row.tenant)
                corpora.remove_generation(session, row)
            session.flush()
            return _with_vectors(session, now() - _SEARCH_SECONDS), tenants

        kept, tenants = await self._database.write(expire)
        await self._store.keep_only(kept)
        await self._sweep_fetched()
        self._marked.update(tenants)
        if self._everyone or self._marked:
            await self._texts.sweep_unnamed()
        if self._everyone:
            await self._sweep_everyone()
        while self._marked:
            tenant = self._marked.pop()
            await self._sweep_texts(tenant_folder(self._blobs, tenant), tenant)

    async def forget_fetched(self, corpus: str) -> None:
        """Removes what was fetched for a corpus, by its own id."""
        await asyncio.to_thread(shutil.rmtree, self._fetched / corpus, True)

    async def _sweep_fetched(self) -> None:
        """Removes what was fetched for corpora that are gone, and what a fetch left half done."""
        wanted = set[str]()
        if self._keep_fetched:
            wanted |= await self._database.read(lambda session: set(session.scalars(select(CorpusRow.id))))

        def remove() -> None:
            for folder in list(self._fetched.glob("*")):
                if folder.name not in wanted:
                    shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # it is not empty, or not there
                self._fetched.rmdir()

        await asyncio.to_thread(remove)

    async def _sweep_everyone(self) -> None:
        """Sweeps every folder of texts once after the start: what a crash left is marked nowhere."""
        tenants = await self._database.read(lambda session: list(session.scalars(select(CorpusRow.tenant).distinct())))
        owners = {tenant_folder(self._blobs, tenant): tenant for tenant in tenants}
        for folder in await asyncio.to_thread(lambda: list(self._blobs.glob("*"))):
            await self._sweep_texts(folder, owners.get(folder))
        self._everyone = False

    async def _sweep_texts(self, folder: Path, tenant: str | None) -> None:
        def named(session: Session) -> set[str]:
            query = select(DocumentRow.blob_sha256).where(DocumentRow.tenant == tenant).distinct()
            return set(session.scalars(query))

        wanted = await self._database.read(named) if tenant is not None else set[str]()
        await self._texts.sweep(folder, wanted)


def _with_vectors(session: Session, replaced_after: float) -> list[Generation]:
    """Returns the generations whose vectors are still of use."""
    query = select(GenerationRow).where(
        GenerationRow.replace_time.is_(None) | (GenerationRow.replace_time > replaced_after)
    )
    return [corpora.generation_key(row) for row in session.scalars(query)]
