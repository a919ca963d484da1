"""CorpusService."""

import asyncio
from collections.abc import Awaitable, Callable

from sqlalchemy.orm import Session

from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_service_pb2 as pb
from sluice.retrieval.v1.corpus_pb2 import Corpus, Document, Embedder, PathFilters
from sluice_kit.call import Call
from sluice_kit.errors import make_error
from sluice_kit.rpc import invalid_field
from sluice_retrieval.config import EmbedderConfig
from sluice_retrieval.embedding import why_not_local
from sluice_retrieval.indexing.indexer import KIND
from sluice_retrieval.indexing.moving import KIND as MOVE_KIND
from sluice_retrieval.names import (
    DEFAULT_PAGE,
    corpus_id_of,
    corpus_name,
    decode_page,
    encode_page,
    fingerprint,
    not_found,
)
from sluice_retrieval.records import corpora as rows
from sluice_retrieval.records import documents
from sluice_retrieval.records import tasks as task_rows
from sluice_retrieval.records.database import Database
from sluice_retrieval.records.models import DocumentRow, GenerationRow
from sluice_retrieval.search.texts import Texts
from sluice_retrieval.sources.patterns import PathFilter, PatternError
from sluice_retrieval.sources.policy import SourcePolicy
from sluice_retrieval.store.base import Store
from sluice_retrieval.tasks.runner import TaskRunner
from sluice_retrieval.text.lines import join_lines


def path_filter(filters: PathFilters) -> PathFilter:
    """Returns the filter that a request asks for. Raises InvalidRequestError, naming the pattern."""
    try:
        return PathFilter(filters.include, filters.exclude)
    except PatternError as error:
        index, kind = error.index, "include"
        if index >= len(filters.include):
            index, kind = index - len(filters.include), "exclude"
        raise invalid_field(f"filters.{kind}[{index}]", str(error)) from None


class CorpusService:
    """Corpora and their contents."""

    def __init__(
        self,
        database: Database,
        store: Store,
        texts: Texts,
        runner: TaskRunner,
        policy: SourcePolicy,
        embedder: EmbedderConfig | None,
        on_delete: Callable[[str, str], Awaitable[None]],
    ) -> None:
        """`on_delete` is told the tenant whose corpus was deleted, and the corpus's own id."""
        self._database = database
        self._store = store
        self._texts = texts
        self._runner = runner
        self._policy = policy
        self._embedder = embedder
        self._on_delete = on_delete

    async def CreateCorpus(self, request: pb.CreateCorpusRequest, call: Call) -> pb.CreateCorpusResponse:
        embedder = request.embedder if request.HasField("embedder") else self._default_embedder()
        if embedder is not None:
            target = embedder.target
            problem = why_not_local(target.provider, target.model, embedder.dimensions)
            if problem is not None:
                raise invalid_field("embedder", problem)

        def create(session: Session) -> Corpus:
            row = rows.create(
                session,
                call.tenant,
                request.corpus_id,
                request.display_name or request.corpus_id,
                embedder,
                request.request_id or None,
                fingerprint(request),
            )
            session.flush()
            return rows.to_proto(session, row)

        return pb.CreateCorpusResponse(corpus=await self._database.write(create))

    async def GetCorpus(self, request: pb.GetCorpusRequest, call: Call) -> pb.GetCorpusResponse:
        corpus = await self._database.read(
            lambda session: rows.to_proto(session, rows.get(session, call.tenant, corpus_id_of(request.name)))
        )
        return pb.GetCorpusResponse(corpus=corpus)

    async def ListCorpora(self, request: pb.ListCorporaRequest, call: Call) -> pb.ListCorporaResponse:
        size, after = request.page_size or DEFAULT_PAGE, decode_page(request.page_token)

        def page(session: Session) -> list[Corpus]:
            return [rows.to_proto(session, row) for row in rows.page(session, call.tenant, after, size + 1)]

        found = await self._database.read(page)
        token = encode_page(corpus_id_of(found[size - 1].name)) if len(found) > size else ""
        return pb.ListCorporaResponse(corpora=found[:size], next_page_token=token)

    async def DeleteCorpus(self, request: pb.DeleteCorpusRequest, call: Call) -> pb.DeleteCorpusResponse:
        def remove(session: Session) -> str:
            row = rows.get(session, call.tenant, corpus_id_of(request.name))
            task_rows.refuse_if_busy(session, call.tenant, request.name)
            return rows.remove(session, row)

        corpus = await self._database.write(remove)
        await self._store.drop(call.tenant, corpus)
        await self._on_delete(call.tenant, corpus)
        return pb.DeleteCorpusResponse()

    async def IndexCorpus(self, request: pb.IndexCorpusRequest, call: Call) -> pb.IndexCorpusResponse:
        path_filter(request.filters)
        # Refused now rather than by a task that fails; the task checks again, because time passes.
        await asyncio.to_thread(self._policy.check, request.source, call.tenant)
        await self._database.read(lambda session: rows.get(session, call.tenant, corpus_id_of(request.name)))
        task = await self._runner.submit(
            call.identity,
            KIND,
            request.name,
            request,
            exclusive=not request.dry_run,
            request_id=request.request_id or None,
            fingerprint=fingerprint(request),
        )
        return pb.IndexCorpusResponse(task=task)

    async def MoveCorpus(self, request: pb.MoveCorpusRequest, call: Call) -> pb.MoveCorpusResponse:
        await self._database.read(lambda session: rows.visible(session, call.tenant, corpus_id_of(request.name)))
        task = await self._runner.submit(
            call.identity,
            MOVE_KIND,
            request.name,
            request,
            exclusive=True,
            request_id=request.request_id or None,
            fingerprint=fingerprint(request),
        )
        return pb.MoveCorpusResponse(task=task)

    async def ListDocuments(self, request: pb.ListDocumentsRequest, call: Call) -> pb.ListDocumentsResponse:
        size, after = request.page_size or DEFAULT_PAGE, decode_page(request.page_token)

        def page(session: Session) -> list[DocumentRow]:
            _, seen = rows.visible(session, call.tenant, corpus_id_of(request.corpus))
            return documents.page(session, seen.id, after, size + 1)

        found = await self._database.read(page)
        token = encode_page(found[size - 1].path) if len(found) > size else ""
        return pb.ListDocumentsResponse(documents=map(_document, found[:size]), next_page_token=token)

    async def GetDocument(self, request: pb.GetDocumentRequest, call: Call) -> pb.GetDocumentResponse:
        revision = request.revision if request.HasField("revision") and request.revision else None

        def find(session: Session) -> tuple[GenerationRow, DocumentRow]:
            corpus, seen = rows.visible(session, call.tenant, corpus_id_of(request.corpus))
            if revision is not None and revision != seen.revision:
                kept = rows.at_revision(session, corpus, revision)
                if kept is None:
                    raise _expired(revision)
                seen = kept
            row = documents.one(session, seen.id, request.path)
            if row is None:
                raise not_found(f"{corpus_name(corpus.corpus_id)}/{request.path}")
            return seen, row

        generation, row = await self._database.read(find)
        lines = await self._texts.lines(call.tenant, row.blob_sha256)
        if lines is None:
            raise _expired(generation.revision)
        start = request.start_line if request.HasField("start_line") else 1
        end = min(request.end_line, len(lines)) if request.HasField("end_line") else len(lines)
        if start > len(lines):
            raise invalid_field("start_line", f"the file has {len(lines)} lines")
        if end < start:
            raise invalid_field("end_line", "before start_line")
        return pb.GetDocumentResponse(
            document=_document(row),
            revision=generation.revision,
            text=join_lines(lines, start, end),
            start_line=start,
            end_line=end,
        )

    def _default_embedder(self) -> Embedder | None:
        if self._embedder is None:
            return None
        provider, _, model = self._embedder.model.partition("/")
        return Embedder(target=Target(provider=provider, model=model), dimensions=self._embedder.dimensions)


def _document(row: DocumentRow) -> Document:
    return Document(
        path=row.path,
        language=row.language,
        size_bytes=row.size_bytes,
        line_count=row.line_count,
        blob_sha256=row.blob_sha256,
        chunk_count=row.chunk_count,
    )


def _expired(revision: str) -> Exception:
    return make_error(
        ErrorReason.ERROR_REASON_REVISION_EXPIRED,
        "this revision is not kept any more; leave it out to read the visible one",
        metadata={"revision": revision},
    )
