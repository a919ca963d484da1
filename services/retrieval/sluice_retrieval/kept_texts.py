"""Where the texts of indexed files are kept: in the service's own folder, or with records that several processes share.

The child that reads a source knows a folder alone. With shared records that folder holds what is being indexed, and no
more: `keep` brings new texts to the records before a document names them, `bring` fetches those that another process
had kept.
"""

import asyncio
from collections.abc import Container, Iterable
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from sluice_retrieval.blobs import BlobFolder, tenant_folder
from sluice_retrieval.names import now
from sluice_retrieval.records import texts
from sluice_retrieval.records.database import Database

_BATCH_BYTES: Final = 4 * 1024 * 1024
_UNNAMED_SECONDS: Final = 3600.0
"""How long a text stays that no document names: its document may be about to be written."""


class KeptTexts(Protocol):
    """The texts of every tenant, by the hash of their bytes."""

    root: Path
    """The folder with a folder for each tenant that children work on."""

    async def keep(self, tenant: str, digests: Iterable[str]) -> None:
        """Keeps texts that a child has put into the tenant's folder, until no document names them."""

    async def bring(self, tenant: str, digests: Iterable[str]) -> None:
        """Puts texts into the tenant's folder for a child. Those that are not kept any more are left out."""

    async def get(self, tenant: str, digest: str) -> bytes | None:
        """Returns a text, or None if it is not kept, or damaged."""

    async def sweep(self, folder: Path, wanted: Container[str]) -> None:
        """Deletes what is not wanted of a tenant's folder. Only while no index is made."""

    async def sweep_unnamed(self) -> None:
        """Deletes what no document of the records names. Other processes may be at work."""


class FolderTexts:
    """Texts of a service that has its records for itself: files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def keep(self, tenant: str, digests: Iterable[str]) -> None:
        """They are where they belong."""

    async def bring(self, tenant: str, digests: Iterable[str]) -> None:
        """They are there."""

    async def get(self, tenant: str, digest: str) -> bytes | None:
        return await asyncio.to_thread(BlobFolder(tenant_folder(self.root, tenant)).get, digest)

    async def sweep(self, folder: Path, wanted: Container[str]) -> None:
        await asyncio.to_thread(BlobFolder(folder).sweep, wanted)

    async def sweep_unnamed(self) -> None:
        """There is no other process, so `sweep` sees all."""


class SharedTexts:
    """Texts of services that share their records: rows of these."""

    def __init__(self, root: Path, database: Database) -> None:
        self.root = root
        self._database = database

    async def keep(self, tenant: str, digests: Iterable[str]) -> None:
        wanted = set(digests)
        if not wanted:
            return
        there = await self._database.write(partial(texts.ask_for, tenant=tenant, digests=sorted(wanted)))
        folder = BlobFolder(tenant_folder(self.root, tenant))
        batch: dict[str, bytes] = {}
        size = 0
        for digest in sorted(wanted - there):
            data = await asyncio.to_thread(folder.get, digest)
            if data is None:
                continue  # the child will say that it is gone when it is to cut it
            batch[digest] = data
            size += len(data)
            if size >= _BATCH_BYTES:
                await self._database.write(partial(texts.put, tenant=tenant, texts=batch))
                batch, size = {}, 0
        if batch:
            await self._database.write(partial(texts.put, tenant=tenant, texts=batch))

    async def bring(self, tenant: str, digests: Iterable[str]) -> None:
        folder = BlobFolder(tenant_folder(self.root, tenant))
        for digest in set(digests):
            if not await asyncio.to_thread(folder.has, digest):
                data = await self.get(tenant, digest)
                if data is not None:
                    await asyncio.to_thread(folder.put, data)

    async def get(self, tenant: str, digest: str) -> bytes | None:
        return await self._database.read(partial(texts.get, tenant=tenant, digest=digest))

    async def sweep(self, folder: Path, wanted: Container[str]) -> None:
        await asyncio.to_thread(BlobFolder(folder).sweep, ())

    async def sweep_unnamed(self) -> None:
        await self._database.write(partial(texts.sweep, asked_for_before=now() - _UNNAMED_SECONDS))
