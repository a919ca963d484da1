"""The second stage of an index: chunks and vectors of what changed, written into a copy of the generation before."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from sqlalchemy.orm import Session

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import NotFoundError, SluiceError, make_error
from sluice_retrieval.children.process import Child
from sluice_retrieval.embedding import EmbedderSpec, EmbeddingClient
from sluice_retrieval.indexing import wire
from sluice_retrieval.indexing.scan import READ_SHARE, Totals
from sluice_retrieval.kept_texts import KeptTexts
from sluice_retrieval.records import corpora, documents
from sluice_retrieval.records.database import Database
from sluice_retrieval.records.models import DocumentRow, GenerationRow
from sluice_retrieval.store.base import Builder, Generation, Point, Store
from sluice_retrieval.tasks.handle import TaskHandle
from sluice_retrieval.text.lines import estimate_tokens

log = logging.getLogger(__name__)

_CUT_FILES: Final = 32
_CUT_BYTES: Final = 192 * 1024
_TRIES: Final = 3
_PAGE: Final = 1000
_REMOVE_PATHS: Final = 500
_CUT_SHARE: Final = 0.85


class Writing:
    """Writes one generation whose source was read."""

    def __init__(
        self,
        database: Database,
        store: Store,
        texts: KeptTexts,
        embeddings: EmbeddingClient,
        child: Child,
        handle: TaskHandle,
        spec: EmbedderSpec | None,
    ) -> None:
        """`child` can cut the texts. `spec` is the corpus's embedder, if it has one."""
        self._database = database
        self._store = store
        self._texts = texts
        self._embeddings = embeddings
        self._child = child
        self._handle = handle
        self._spec = spec

    async def run(self, generation: Generation, totals: Totals) -> None:
        """Brings the store up to the records. Goes on where an earlier try was, and where the store's process died."""
        for left in reversed(range(_TRIES)):
            try:
                await self._build(generation, totals)
                return
            except NotFoundError:
                # The base went away, or what an earlier try left: everything is made anew.
                await self._anew(generation)
            except SluiceError as error:
                if error.reason != ErrorReason.ERROR_REASON_STORE_UNAVAILABLE or not left:
                    raise
                log.warning("going on with the index", extra={"task": self._handle.name, "detail": error.message})
        raise make_error(ErrorReason.ERROR_REASON_STORE_UNAVAILABLE, "the store lost what was written, again and again")

    async def _build(self, generation: Generation, totals: Totals) -> None:
        row = await self._database.read(lambda session: session.get_one(GenerationRow, generation.id))
        base = await self._key(row.base) if row.base else None
        async with self._store.build(generation, base, resume=True) as builder:
            if base is not None:
                await self._remove(builder, row)
            await self._fill(builder, generation, totals)
            await self._handle.report(step="sealing", progress=READ_SHARE + _CUT_SHARE)
            written = await builder.seal()
        totals.chunks = await self._database.read(lambda session: documents.chunks(session, generation.id))
        if written != totals.chunks:
            # The disk lost what was acknowledged, as it may when the machine lost power.
            log.warning("the store has other chunks than the records", extra={"task": self._handle.name})
            await self._store.delete(generation)
            raise NotFoundError("the index is not whole")

    async def _key(self, generation_id: str) -> Generation | None:
        row = await self._database.read(lambda session: session.get(GenerationRow, generation_id))
        if row is None:
            raise NotFoundError("the index to go on from is gone")
        return corpora.generation_key(row)

    async def _anew(self, generation: Generation) -> None:
        await self._store.delete(generation)
        await self._database.write(
            lambda session: documents.set_pending(session, session.get_one(GenerationRow, generation.id))
        )

    async def _remove(self, builder: Builder, row: GenerationRow) -> None:
        """Removes what the base has of files that changed or are gone."""
        after = ""
        while True:
            paths = await self._database.read(lambda session, at=after: documents.gone(session, row, at, _REMOVE_PATHS))  # type: ignore[misc]  # a default binds the loop's variable
            if not paths:
                return
            await builder.remove(paths)
            after = paths[-1]

    async def _fill(self, builder: Builder, generation: Generation, totals: Totals) -> None:
        spec, handle = self._spec, self._handle
        await handle.report(step="chunking" if spec is None else "embedding")
        before = await self._visible(generation) if spec is not None else None
        to_do = await self._database.read(lambda session: documents.pending_bytes(session, generation.id))
        done, chunks = 0, await self._database.read(lambda session: documents.chunks(session, generation.id))
        batches = self._batches(generation)
        batch = await anext(batches, None)
        cutting = self._cut(batch) if batch else None
        while batch is not None and cutting is not None:
            cut = await cutting
            done += sum(file.size_bytes for file in batch)
            # The next batch is cut while this one is embedded and written.
            batch = await anext(batches, None)
            cutting = self._cut(batch) if batch else None
            try:
                if spec is not None:
                    totals.tokens += await self._embed(spec, before, cut)
                if cut.points:
                    await builder.add(cut.points)
                await self._database.write(
                    partial(documents.count_chunks, generation_id=generation.id, counts=cut.counts)
                )
            except BaseException:
                if cutting is not None:
                    cutting.cancel()
                raise
            chunks += len(cut.points)
            await handle.report(
                progress=READ_SHARE + _CUT_SHARE * done / max(1, to_do),
                counts={"chunks": chunks, "tokens": totals.tokens},
                advanced=True,
            )

    def _cut(self, batch: list[DocumentRow]) -> "asyncio.Task[wire.CutFiles]":
        files = [wire.FileToCut(file.path, file.language, file.blob_sha256) for file in batch]

        async def cut() -> wire.CutFiles:
            await self._texts.bring(self._handle.tenant, [file.blob_sha256 for file in files])
            return await self._child.ask(wire.Cut(files, self._spec is not None), wire.CutFiles)

        return asyncio.create_task(cut())

    async def _visible(self, generation: Generation) -> Generation | None:
        seen = await self._database.read(lambda session: corpora.visible_of(session, generation.corpus))
        return corpora.generation_key(seen) if seen is not None else None

    async def _embed(self, spec: EmbedderSpec, before: Generation | None, cut: wire.CutFiles) -> int:
        """Gives every point its dense vector; those that the visible generation has are not made again."""
        known: dict[str, list[float]] = {}
        if before is not None and cut.points:
            # A lost index is no reason to fail: then all are made again.
            with contextlib.suppress(NotFoundError):
                known = await self._store.dense_vectors(before, [point.id for point in cut.points])
        new: list[tuple[Point, str]] = []
        for point, text in zip(cut.points, cut.texts, strict=True):
            point.dense = known.get(point.id)
            if point.dense is None:
                new.append((point, text))
        texts = [text for _, text in new]
        vectors = await self._embeddings.documents(self._handle.identity, spec, texts)
        for (point, _), vector in zip(new, vectors, strict=True):
            point.dense = vector
        return sum(map(estimate_tokens, texts))

    async def _batches(self, generation: Generation) -> AsyncIterator[list[DocumentRow]]:
        """Yields the files that are to be written by path, in pieces of a bounded number and size."""
        after, batch, held = "", list[DocumentRow](), 0
        while True:
            found = await self._database.read(partial(_pending, generation=generation.id, after=after))
            for row in found:
                if batch and (len(batch) >= _CUT_FILES or held + row.size_bytes > _CUT_BYTES):
                    yield batch
                    batch, held = [], 0
                batch.append(row)
                held += row.size_bytes
            if not found:
                break
            after = found[-1].path
        if batch:
            yield batch


def _pending(session: Session, generation: str, after: str) -> list[DocumentRow]:
    return documents.pending(session, generation, after, _PAGE)
