"""The first stage of an index: which files the source has, and their texts.

The child looks at the files without reading them. A file that the generation before, or an earlier try of this one, has
with the same signature is not read again.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from sqlalchemy.orm import Session

from sluice_retrieval.children.process import Child
from sluice_retrieval.indexing import wire
from sluice_retrieval.kept_texts import KeptTexts
from sluice_retrieval.records import documents
from sluice_retrieval.records.database import Database
from sluice_retrieval.records.documents import DocumentEntry
from sluice_retrieval.records.models import DocumentRow, GenerationRow
from sluice_retrieval.store.base import Generation
from sluice_retrieval.tasks.handle import TaskHandle

_LOOK: Final = 512
"""Files that are looked at together; below the number of variables that a statement of SQLite may have."""
_READ_FILES: Final = 128
_PAGE: Final = 2000
READ_SHARE: Final = 0.1
"""Part of the progress that reading is; how much there is to read is not known while it is read."""


@dataclass
class Totals:
    """What an index counts."""

    files: int = 0
    bytes: int = 0
    chunks: int = 0
    tokens: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


class Scan:
    """Reads one source."""

    def __init__(self, database: Database, texts: KeptTexts, child: Child, handle: TaskHandle) -> None:
        """`child` has the source open."""
        self._database = database
        self._texts = texts
        self._child = child
        self._handle = handle

    async def run(self, generation: Generation | None, base: GenerationRow | None) -> Totals:
        """Reads the source to its end and records its files. Without a generation, everything is read and counted."""
        totals, contents = Totals(), Counter[str]()
        await self._handle.report(step="reading")
        done = False
        while not done:
            looked = await self._child.ask(wire.Look(_LOOK), wire.Files)
            done = looked.done
            known = await self._known(generation, base, looked.files)
            entries = [_taken_over(row) for row in known.values()]
            unknown = [file for file in looked.files if file.path not in known]
            counting = [entry for entry in entries if not entry.skipped]
            await self._child.ask(
                wire.Read([], len(counting), sum(entry.size_bytes for entry in counting)), wire.Entries
            )
            for at in range(0, len(unknown), _READ_FILES):
                read = await self._child.ask(wire.Read(unknown[at : at + _READ_FILES], 0, 0), wire.Entries)
                for file in read.files:
                    totals.chunks += file.chunks
                    totals.tokens += file.tokens
                entries += map(_entry, read.files)
                if generation is not None:
                    digests = [file.blob_sha256 for file in read.files if file.blob_sha256]
                    await self._texts.keep(self._handle.tenant, digests)
                if generation is not None and at + _READ_FILES < len(unknown):
                    await self._keep(generation, entries, totals, contents)
                    entries = []
            await self._keep(generation, entries, totals, contents)
            totals.skipped = contents + Counter(looked.skipped)
            await self._handle.report(
                progress=READ_SHARE * totals.files / (totals.files + 500),
                counts={"files": totals.files, "bytes": totals.bytes}
                | {f"skipped.{reason}": count for reason, count in totals.skipped.items()},
            )
        return totals

    async def finish(self, generation: Generation, base: GenerationRow | None, revision: str) -> None:
        """Records that the source was read to its end, and takes over from `base` what did not change."""

        def finish(session: Session) -> None:
            row = session.get_one(GenerationRow, generation.id)
            documents.finish_scan(session, row, session.get(GenerationRow, base.id) if base is not None else None)

        await self._database.write(finish)
        manifest = await self._manifest(generation)

        def record(session: Session) -> None:
            row = session.get_one(GenerationRow, generation.id)
            row.manifest, row.revision = manifest, revision or f"snapshot-{manifest[:16]}"

        await self._database.write(record)

    async def totals_of(self, generation: Generation) -> Totals:
        """Returns what an earlier try counted."""
        totals = Totals()
        after = ""
        while found := await self._database.read(partial(_every, generation=generation.id, after=after)):
            for row in found:
                _count(totals, totals.skipped, row.skipped, row.size_bytes)
            after = found[-1].path
        return totals

    async def _known(
        self, generation: Generation | None, base: GenerationRow | None, files: list[wire.Seen]
    ) -> dict[str, DocumentRow]:
        """Returns the files that need not be read, by path."""
        if generation is None:
            return {}
        ids = [generation.id] + ([base.id] if base is not None else [])
        signatures = {file.path: file.signature for file in files if file.signature}
        rows = await self._database.read(lambda session: documents.known(session, ids, list(signatures)))
        return {path: row for path, row in rows.items() if row.signature == signatures[path]}

    async def _keep(
        self, generation: Generation | None, entries: list[DocumentEntry], totals: Totals, contents: Counter[str]
    ) -> None:
        for entry in entries:
            _count(totals, contents, entry.skipped, entry.size_bytes)
        if generation is not None:

            def keep(session: Session) -> None:
                documents.keep(session, session.get_one(GenerationRow, generation.id), entries)

            await self._database.write(keep)
            await self._handle.report(advanced=True)

    async def _manifest(self, generation: Generation) -> str:
        """Returns the digest of all files that count and of how they are cut."""
        settings = await self._database.read(lambda session: session.get_one(GenerationRow, generation.id).settings)
        digest = hashlib.sha256(settings.encode())
        after = ""
        while found := await self._database.read(partial(_page, generation=generation.id, after=after)):
            for row in found:
                digest.update(f"\0{row.path}\0{row.blob_sha256}".encode())
            after = found[-1].path
        return digest.hexdigest()


def _count(totals: Totals, skipped: Counter[str], reason: str, size: int) -> None:
    if reason:
        skipped[reason] += 1
    else:
        totals.files += 1
        totals.bytes += size


def _entry(file: wire.FileEntry) -> DocumentEntry:
    return DocumentEntry(
        file.path, file.language, file.size_bytes, file.line_count, file.blob_sha256, file.signature, file.skipped
    )


def _taken_over(row: DocumentRow) -> DocumentEntry:
    return DocumentEntry(
        row.path, row.language, row.size_bytes, row.line_count, row.blob_sha256, row.signature, row.skipped
    )


def _page(session: Session, generation: str, after: str) -> list[DocumentRow]:
    return documents.page(session, generation, after, _PAGE)


def _every(session: Session, generation: str, after: str) -> list[DocumentRow]:
    return documents.every(session, generation, after, _PAGE)
