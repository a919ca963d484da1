"""One index, from source to visible generation: the work of the task `index_corpus`.

Two stages, each of which goes on where it was if the process ends: first the source is read (`scan`), then what differs
from the generation that searches see is cut, embedded and written into a copy of that one (`writing`). Reading and
cutting happen in one child, writing vectors in another; this module and its two stages move data between them and the
records, and hold nothing larger than a batch.
"""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_service_pb2 as pb
from sluice.retrieval.v1.corpus_pb2 import Corpus
from sluice_kit.errors import NotFoundError, make_error
from sluice_kit.telemetry import current
from sluice_retrieval.blobs import tenant_folder
from sluice_retrieval.children.process import Child, ChildDied
from sluice_retrieval.chunking.spans import ChunkSizes
from sluice_retrieval.config import LimitsConfig
from sluice_retrieval.embedding import EmbedderSpec, EmbeddingClient
from sluice_retrieval.indexing import wire
from sluice_retrieval.indexing.points import settings_digest
from sluice_retrieval.indexing.scan import Scan, Totals
from sluice_retrieval.indexing.writing import Writing
from sluice_retrieval.kept_texts import KeptTexts
from sluice_retrieval.names import corpus_id_of, not_found
from sluice_retrieval.records import corpora as rows
from sluice_retrieval.records.database import Database
from sluice_retrieval.records.models import CorpusRow, GenerationRow
from sluice_retrieval.sources.policy import AllowedFolder, AllowedRepository, SourcePolicy
from sluice_retrieval.store.base import Generation
from sluice_retrieval.store.stores import Stores
from sluice_retrieval.tasks.handle import TaskHandle

KIND: Final = "index_corpus"


@dataclass(frozen=True, slots=True)
class _Begun:
    """A generation that this task makes, and how far it is."""

    generation: Generation
    revision: str
    is_read: bool
    """Whether the source was read to its end, so that only vectors are to be written."""


class Indexer:
    """Makes indexes."""

    def __init__(
        self,
        database: Database,
        store: Stores,
        embeddings: EmbeddingClient,
        policy: SourcePolicy,
        folder: Path,
        texts: KeptTexts,
        limits: LimitsConfig,
        sizes: ChunkSizes,
        on_abandon: Callable[[str], None],
        *,
        keep_fetched: bool = True,
    ) -> None:
        """`folder` is the service's own; fetched repositories go into `fetched` in it, where they are kept with their corpus
        if `keep_fetched` says so.

        `on_abandon` is told the tenant of an index that came to nothing, whose texts may be of no use.
        """
        self._database = database
        self._store = store
        self._embeddings = embeddings
        self._policy = policy
        self._texts = texts
        self._fetched = folder / "fetched"
        self._limits = limits
        self._sizes = sizes
        self._on_abandon = on_abandon
        self._keep_fetched = keep_fetched

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
        where = await asyncio.to_thread(self._policy.check, request.source, handle.tenant)
        begun: _Begun | None = None
        corpus_id = corpus_id_of(request.name)
        corpus = await self._database.read(lambda session: rows.get(session, handle.tenant, corpus_id))
        if not request.dry_run:
            begun = await self._begin(handle, corpus, request)
        # For a repository, the folder of its corpus, which one index at a time uses; else one that goes with the index.
        kept = self._keep_fetched and not request.dry_run
        scratch = self._fetched / (corpus.id if kept else handle.name.rpartition("/")[2])
        child = Child("indexer")
        await child.start()
        try:
            result = await self._with_child(child, handle, request, where, corpus, begun, scratch)
        except BaseException as error:
            child.kill()
            if begun is not None and not (handle.interrupted and isinstance(error, asyncio.CancelledError)):
                # Cancelled or failed: nothing of it stays. The child may be in the middle of anything.
                await asyncio.shield(self._abandon(begun.generation))
            if isinstance(error, ChildDied):
                raise make_error(
                    ErrorReason.ERROR_REASON_INTERNAL, "the process that reads the source ended unexpectedly"
                ) from None
            raise
        finally:
            await child.close()
            if not kept:
                await asyncio.to_thread(shutil.rmtree, scratch, True)
        return result

    async def _with_child(
        self,
        child: Child,
        handle: TaskHandle,
        request: pb.IndexCorpusRequest,
        where: AllowedFolder | AllowedRepository,
        corpus: CorpusRow,
        begun: _Begun | None,
        scratch: Path,
    ) -> pb.IndexResult:
        scan = Scan(self._database, self._texts, child, handle)
        totals = Totals()
        question = self._open(request, where, handle.tenant, scratch)
        if begun is not None and begun.is_read:
            question.cut_only = True
            await child.ask(question, wire.Opened)
            totals = await scan.totals_of(begun.generation)
        else:
            opened = await child.ask(question, wire.Opened)
            base = await self._usable_base(corpus) if begun is not None else None
            totals = await scan.run(begun.generation if begun is not None else None, base)
            if begun is None:
                await handle.report(counts={"chunks": totals.chunks, "tokens": totals.tokens})
                made = await self._database.read(lambda session: rows.to_proto(session, corpus))
                return _result(made, totals)
            await scan.finish(begun.generation, base, opened.revision)
        if await self._unchanged(corpus, begun.generation):
            await self._abandon(begun.generation)
            made = await self._database.read(lambda session: rows.to_proto(session, corpus))
            totals.chunks = made.chunk_count
            await handle.report(step="unchanged", counts={"chunks": totals.chunks, "tokens": 0})
            return _result(made, totals)
        writing = Writing(
            self._database, self._store, self._texts, self._embeddings, child, handle, embedder_of(corpus)
        )
        await writing.run(begun.generation, totals)
        await handle.report(step="publishing", progress=0.99)
        return _result(await self._publish(request.name, begun.generation, totals), totals)

    def _open(
        self, request: pb.IndexCorpusRequest, where: AllowedFolder | AllowedRepository, tenant: str, scratch: Path
    ) -> wire.Open:
        limits = self._limits
        question = wire.Open(
            root=str(where.path if isinstance(where, AllowedFolder) else scratch),
            blobs=str(tenant_folder(self._texts.root, tenant)),
            limits=wire.Limits(
                limits.max_files,
                limits.max_file_bytes,
                limits.max_total_bytes,
                limits.max_depth,
                limits.max_seconds,
                limits.max_objects,
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
            question.ca_file, question.login = where.ca_file, where.login
        return question

    async def _begin(self, handle: TaskHandle, corpus: CorpusRow, request: pb.IndexCorpusRequest) -> _Begun:
        source, settings = request.source.SerializeToString(), settings_digest(self._sizes)

        def begin(session: Session) -> _Begun:
            row = session.get(CorpusRow, corpus.id)
            if row is None:
                raise not_found(request.name)
            made = rows.begin_generation(session, row, handle.name, source, settings, self._store.kind)
            return _Begun(rows.generation_key(made), made.revision, bool(made.manifest))

        return await self._database.write(begin)

    async def _usable_base(self, corpus: CorpusRow) -> GenerationRow | None:
        """Returns the visible generation if it was cut as this one will be, and is whole in the store."""
        seen = await self._database.read(lambda session: rows.visible_of(session, corpus.id))
        if seen is None or (seen.settings, seen.store) != (settings_digest(self._sizes), self._store.kind):
            return None
        return seen if await self._is_whole(seen) else None

    async def _is_whole(self, row: GenerationRow) -> bool:
        try:
            return await self._store.count(rows.generation_key(row)) == row.chunk_count
        except NotFoundError:
            return False

    async def _unchanged(self, corpus: CorpusRow, generation: Generation) -> bool:
        """Tells whether the visible generation is what would be made, and whole."""

        def pair(session: Session) -> tuple[GenerationRow | None, GenerationRow | None]:
            return rows.visible_of(session, corpus.id), session.get(GenerationRow, generation.id)

        seen, made = await self._database.read(pair)
        if seen is None or made is None or seen.store != made.store:
            return False
        if (seen.revision, seen.manifest) != (made.revision, made.manifest):
            return False
        return await self._is_whole(seen)

    async def _publish(self, name: str, generation: Generation, totals: Totals) -> Corpus:
        def publish(session: Session) -> Corpus:
            corpus = rows.publish(session, generation, totals.chunks)
            if corpus is None:
                raise not_found(name)
            session.flush()
            return rows.to_proto(session, corpus)

        published = await self._database.write(publish)
        current().indexed(totals.chunks)
        return published

    async def _abandon(self, generation: Generation) -> None:
        """Removes a generation that nobody saw."""

        def remove(session: Session) -> None:
            row = session.get(GenerationRow, generation.id)
            if row is not None and row.index_time is None:
                rows.remove_generation(session, row)

        await self._database.write(remove)
        self._on_abandon(generation.tenant)
        await self._store.delete(generation)


def embedder_of(corpus: CorpusRow) -> EmbedderSpec | None:
    """Returns the embedder of a corpus, if it has one."""
    if corpus.provider is None or corpus.model is None or corpus.dimensions is None:
        return None
    return EmbedderSpec(corpus.provider, corpus.model, corpus.dimensions)


def _result(corpus: Corpus, totals: Totals) -> pb.IndexResult:
    return pb.IndexResult(
        corpus=corpus, files=totals.files, skipped=totals.skipped, chunks=totals.chunks, tokens=totals.tokens
    )
