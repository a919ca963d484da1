"""One index, from source to visible generation: the work of the task `index_corpus`.

Reading and cutting happen in one child, writing vectors in another; this module moves data between them and the
records, and holds nothing larger than a batch. Everything can be repeated: an index that was interrupted is made again
from its beginning, in a generation of its own.
"""

import asyncio
import contextlib
import hashlib
import logging
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_service_pb2 as pb
from sluice.retrieval.v1.corpus_pb2 import Corpus
from sluice_kit.errors import NotFoundError, SluiceError, make_error
from sluice_retrieval.blobs import tenant_folder
from sluice_retrieval.children.process import Child, ChildDied
from sluice_retrieval.chunking.spans import ChunkSizes
from sluice_retrieval.config import LimitsConfig
from sluice_retrieval.embedding import EmbedderSpec, EmbeddingClient
from sluice_retrieval.indexing import wire
from sluice_retrieval.indexing.points import settings_digest
from sluice_retrieval.names import corpus_id_of, not_found
from sluice_retrieval.records import corpora as rows
from sluice_retrieval.records.database import Database
from sluice_retrieval.records.models import CorpusRow, DocumentRow, GenerationRow
from sluice_retrieval.sources.policy import AllowedFolder, AllowedRepository, SourcePolicy
from sluice_retrieval.store.base import Builder, Generation, Point, Store
from sluice_retrieval.tasks.runner import TaskHandle
from sluice_retrieval.text.lines import estimate_tokens

log = logging.getLogger(__name__)

KIND: Final = "index_corpus"
_READ_FILES: Final = 128
_CUT_FILES: Final = 32
_CUT_BYTES: Final = 192 * 1024
_BUILD_TRIES: Final = 3
_PAGE: Final = 1000
_READ_SHARE: Final = 0.1
"""Part of the progress that reading is; how much there is to read is not known while it is read."""
_CUT_SHARE: Final = 0.85


@dataclass
class _Totals:
    files: int = 0
    bytes: int = 0
    chunks: int = 0
    tokens: int = 0
    revision: str = ""
    manifest: str = ""


class Indexer:
    """Makes indexes."""

    def __init__(
        self,
        database: Database,
        store: Store,
        embeddings: EmbeddingClient,
        policy: SourcePolicy,
        folder: Path,
        limits: LimitsConfig,
        sizes: ChunkSizes,
        on_abandon: Callable[[str], None],
    ) -> None:
        """`folder` is the service's own; texts go into `blobs` in it, fetched repositories into `fetched`.

        `on_abandon` is told the tenant of an index that came to nothing, whose texts may be of no use.
        """
        self._database = database
        self._store = store
        self._embeddings = embeddings
        self._policy = policy
        self._blobs = folder / "blobs"
        self._fetched = folder / "fetched"
        self._limits = limits
        self._sizes = sizes
        self._on_abandon = on_abandon

    async def run(self, handle: TaskHandle) -> pb.IndexResult:
        """Carries out an IndexCorpusRequest. Raises SluiceError."""
        request = pb.IndexCorpusRequest.FromString(handle.request)
        try:
            async with asyncio.timeout(self._limits.max_seconds):
                return await self._index(handle, request)
        except TimeoutError:
            raise make_error(
                ErrorReason.ERROR_REASON_SOURCE_LIMIT_EXCEEDED,
                f"the index takes more than {self._limits.max_seconds:g} seconds",
                metadata={"limit": "max_seconds"},
            ) from None

    async def _index(self, handle: TaskHandle, request: pb.IndexCorpusRequest) -> pb.IndexResult:
        await handle.report(step="opening")
        where = await asyncio.to_thread(self._policy.check, request.source)
        generation: Generation | None = None
        corpus_id = corpus_id_of(request.name)
        corpus = await self._database.read(lambda session: rows.get(session, handle.tenant, corpus_id))
        if not request.dry_run:
            generation = await self._begin(corpus, request)
        # For a repository, a folder of its own that goes with the index.
        scratch = self._fetched / handle.name.rpartition("/")[2]
        child = Child("indexer")
        await child.start()
        try:
            result = await self._with_child(child, handle, request, where, corpus, generation, scratch)
        except BaseException as error:
            # Cancelled or failed: nothing of it stays. The child may be in the middle of anything.
            child.kill()
            if generation is not None:
                await asyncio.shield(self._abandon(generation))
            if isinstance(error, ChildDied):
                raise make_error(
                    ErrorReason.ERROR_REASON_INTERNAL, "the process that reads the source ended unexpectedly"
                ) from None
            raise
        finally:
            await child.close()
            await asyncio.to_thread(shutil.rmtree, scratch, True)
        return result

    async def _with_child(
        self,
        child: Child,
        handle: TaskHandle,
        request: pb.IndexCorpusRequest,
        where: AllowedFolder | AllowedRepository,
        corpus: CorpusRow,
        generation: Generation | None,
        scratch: Path,
    ) -> pb.IndexResult:
        totals, skipped = _Totals(), dict[str, int]()
        opened = await child.ask(self._open(request, where, handle.tenant, scratch), wire.Opened)
        await handle.report(step="reading")
        done = False
        while not done:
            files = await child.ask(wire.More(_READ_FILES), wire.Files)
            done, skipped = files.done, files.skipped
            for file in files.files:
                totals.files += 1
                totals.bytes += file.size_bytes
                totals.chunks += file.chunks
                totals.tokens += file.tokens
            if generation is not None:
                await self._keep(generation, files.files)
            await handle.report(
                progress=_READ_SHARE * totals.files / (totals.files + 500),
                counts={"files": totals.files, "bytes": totals.bytes}
                | {f"skipped.{reason}": count for reason, count in skipped.items()},
            )
        if generation is None:
            await handle.report(counts={"chunks": totals.chunks, "tokens": totals.tokens})
            made = await self._database.read(lambda session: rows.to_proto(session, corpus))
            return _result(made, totals, skipped)
        totals.manifest = await self._manifest(generation)
        totals.revision = opened.revision or f"snapshot-{totals.manifest[:16]}"
        if await self._unchanged(corpus, totals):
            await self._abandon(generation)
            made = await self._database.read(lambda session: rows.to_proto(session, corpus))
            totals.chunks = made.chunk_count
            await handle.report(step="unchanged", counts={"chunks": totals.chunks, "tokens": 0})
            return _result(made, totals, skipped)
        await self._build(child, handle, corpus, generation, totals)
        await handle.report(step="publishing", progress=0.99)
        return _result(await self._publish(request.name, generation, totals), totals, skipped)

    def _open(
        self, request: pb.IndexCorpusRequest, where: AllowedFolder | AllowedRepository, tenant: str, scratch: Path
    ) -> wire.Open:
        limits = self._limits
        question = wire.Open(
            root=str(where.path if isinstance(where, AllowedFolder) else scratch),
            blobs=str(tenant_folder(self._blobs, tenant)),
            limits=wire.Limits(
                limits.max_files,
                limits.max_file_bytes,
                limits.max_total_bytes,
                limits.max_depth,
                limits.max_seconds,
            ),
            target_chars=self._sizes.target,
            small_chars=self._sizes.small,
            include=list(request.filters.include),
            exclude=list(request.filters.exclude),
            dry_run=request.dry_run,
        )
        if isinstance(where, AllowedRepository):
            question.url, question.revision = where.url, where.revision
            question.host, question.port, question.addresses = where.host, where.port, where.addresses
            question.ca_file = where.ca_file
        return question

    async def _begin(self, corpus: CorpusRow, request: pb.IndexCorpusRequest) -> Generation:
        def begin(session: Session) -> Generation:
            row = session.get(CorpusRow, corpus.id)
            if row is None:
                raise not_found(request.name)
            return rows.generation_key(rows.begin_generation(session, row, request.source.SerializeToString()))

        return await self._database.write(begin)

    async def _keep(self, generation: Generation, files: list[wire.FileEntry]) -> None:
        entries = [
            rows.DocumentEntry(file.path, file.language, file.size_bytes, file.line_count, file.blob_sha256)
            for file in files
        ]
        await self._database.write(lambda session: rows.add_documents(session, generation, entries))

    async def _manifest(self, generation: Generation) -> str:
        """Returns the digest of all files and of how they are cut."""
        digest = hashlib.sha256(settings_digest(self._sizes).encode())
        async for batch in self._batches(generation):
            for file in batch:
                digest.update(f"\0{file.path}\0{file.blob_sha256}".encode())
        return digest.hexdigest()

    async def _unchanged(self, corpus: CorpusRow, totals: _Totals) -> bool:
        """Tells whether the visible generation is what would be made, and whole."""
        seen = await self._database.read(lambda session: rows.visible_of(session, corpus.id))
        if seen is None or (seen.revision, seen.manifest) != (totals.revision, totals.manifest):
            return False
        try:
            return await self._store.count(rows.generation_key(seen)) == seen.chunk_count
        except NotFoundError:
            return False

    async def _build(
        self, child: Child, handle: TaskHandle, corpus: CorpusRow, generation: Generation, totals: _Totals
    ) -> None:
        """Writes the vectors; again from their beginning if the process that writes them ends."""
        spec = embedder_of(corpus)
        for left in reversed(range(_BUILD_TRIES)):
            totals.chunks = totals.tokens = 0
            try:
                async with self._store.build(generation, spec.dimensions if spec is not None else None) as builder:
                    await self._fill(builder, child, handle, corpus, spec, generation, totals)
                    await handle.report(step="sealing", progress=_READ_SHARE + _CUT_SHARE)
                    await builder.seal()
                return
            except SluiceError as error:
                if error.reason != ErrorReason.ERROR_REASON_STORE_UNAVAILABLE or not left:
                    raise
                log.warning("writing the index again", extra={"task": handle.name, "detail": error.message})

    async def _fill(
        self,
        builder: Builder,
        child: Child,
        handle: TaskHandle,
        corpus: CorpusRow,
        spec: EmbedderSpec | None,
        generation: Generation,
        totals: _Totals,
    ) -> None:
        await handle.report(step="chunking" if spec is None else "embedding")
        before: Generation | None = None
        if spec is not None:
            seen = await self._database.read(lambda session: rows.visible_of(session, corpus.id))
            before = rows.generation_key(seen) if seen is not None else None
        done_bytes = 0
        batches = self._batches(generation)
        batch = await anext(batches, None)
        cutting = self._cut(child, batch, texts=spec is not None) if batch else None
        while batch is not None and cutting is not None:
            cut = await cutting
            done_bytes += sum(file.size_bytes for file in batch)
            # The next batch is cut while this one is embedded and written.
            batch = await anext(batches, None)
            cutting = self._cut(child, batch, texts=spec is not None) if batch else None
            try:
                if spec is not None:
                    totals.tokens += await self._embed(handle, spec, before, cut)
                if cut.points:
                    await builder.add(cut.points)
                await self._database.write(partial(rows.count_chunks, generation=generation, counts=cut.counts))
            except BaseException:
                if cutting is not None:
                    cutting.cancel()
                raise
            totals.chunks += len(cut.points)
            await handle.report(
                progress=_READ_SHARE + _CUT_SHARE * done_bytes / max(1, totals.bytes),
                counts={"chunks": totals.chunks, "tokens": totals.tokens},
            )

    @staticmethod
    def _cut(child: Child, batch: list[rows.DocumentEntry], *, texts: bool) -> "asyncio.Task[wire.CutFiles]":
        files = [wire.FileToCut(file.path, file.language, file.blob_sha256) for file in batch]
        return asyncio.create_task(child.ask(wire.Cut(files, texts), wire.CutFiles))

    async def _embed(
        self, handle: TaskHandle, spec: EmbedderSpec, before: Generation | None, cut: wire.CutFiles
    ) -> int:
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
        for (point, _), vector in zip(new, await self._embeddings.documents(handle.identity, spec, texts), strict=True):
            point.dense = vector
        return sum(map(estimate_tokens, texts))

    async def _batches(self, generation: Generation) -> AsyncIterator[list[rows.DocumentEntry]]:
        """Yields the files of a generation by path, in pieces of a bounded number and size."""
        after, batch, held = "", list[rows.DocumentEntry](), 0
        while True:
            found = await self._database.read(partial(_documents, generation=generation.id, after=after))
            for row in found:
                if batch and (len(batch) >= _CUT_FILES or held + row.size_bytes > _CUT_BYTES):
                    yield batch
                    batch, held = [], 0
                batch.append(
                    rows.DocumentEntry(row.path, row.language, row.size_bytes, row.line_count, row.blob_sha256)
                )
                held += row.size_bytes
            if not found:
                break
            after = found[-1].path
        if batch:
            yield batch

    async def _publish(self, name: str, generation: Generation, totals: _Totals) -> Corpus:
        def publish(session: Session) -> Corpus:
            corpus = rows.publish(session, generation, totals.revision, totals.manifest, totals.chunks)
            if corpus is None:
                raise not_found(name)
            session.flush()
            return rows.to_proto(session, corpus)

        return await self._database.write(publish)

    async def _abandon(self, generation: Generation) -> None:
        """Removes a generation that nobody saw."""

        def remove(session: Session) -> None:
            row = session.get(GenerationRow, generation.id)
            if row is not None and row.index_time is None:
                rows.remove_generation(session, row)

        await self._database.write(remove)
        self._on_abandon(generation.tenant)
        await self._store.delete(generation)


def _documents(session: Session, generation: str, after: str) -> Sequence[DocumentRow]:
    return rows.documents(session, generation, after, _PAGE)


def embedder_of(corpus: CorpusRow) -> EmbedderSpec | None:
    """Returns the embedder of a corpus, if it has one."""
    if corpus.provider is None or corpus.model is None or corpus.dimensions is None:
        return None
    return EmbedderSpec(corpus.provider, corpus.model, corpus.dimensions)


def _result(corpus: Corpus, totals: _Totals, skipped: dict[str, int]) -> pb.IndexResult:
    return pb.IndexResult(
        corpus=corpus, files=totals.files, skipped=skipped, chunks=totals.chunks, tokens=totals.tokens
    )
