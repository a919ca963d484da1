"""Corpora, search and documents."""

import uuid
from collections.abc import Sequence

from sluice.chat.v1 import passage_pb2
from sluice.retrieval.v1 import corpus_pb2
from sluice.retrieval.v1 import corpus_service_pb2 as pb
from sluice.retrieval.v1 import search_service_pb2 as search_pb
from sluice.retrieval.v1.corpus_service_pb2_grpc import CorpusServiceStub
from sluice.retrieval.v1.search_service_pb2_grpc import SearchServiceStub
from sluice.task.v1 import task_service_pb2
from sluice_client.connection import Connection
from sluice_client.pages import Pager
from sluice_client.requests import corpus_name


class CorpusCalls(Connection):
    """The calls of `sluice.retrieval.v1`. Corpora may be named `docs` or `corpora/docs`."""

    async def create_corpus(
        self,
        corpus_id: str,
        *,
        display_name: str | None = None,
        embedder: corpus_pb2.Embedder | None = None,
        request_id: str | None = None,
    ) -> corpus_pb2.Corpus:
        """Creates an empty corpus. Raises ConflictError if there is one of that id."""
        request = pb.CreateCorpusRequest(
            corpus_id=corpus_id.removeprefix("corpora/"),
            display_name=display_name,
            embedder=embedder,
            request_id=request_id or str(uuid.uuid4()),
        )
        return (await self.unary(self.stub(CorpusServiceStub).CreateCorpus, request)).corpus

    async def get_corpus(self, name: str) -> corpus_pb2.Corpus:
        """Returns a corpus."""
        request = pb.GetCorpusRequest(name=corpus_name(name))
        return (await self.unary(self.stub(CorpusServiceStub).GetCorpus, request)).corpus

    def list_corpora(self, page_size: int = 0) -> Pager[pb.ListCorporaResponse, corpus_pb2.Corpus]:
        """Lists the corpora, by name."""

        async def fetch(token: str) -> pb.ListCorporaResponse:
            request = pb.ListCorporaRequest(page_size=page_size, page_token=token)
            return await self.unary(self.stub(CorpusServiceStub).ListCorpora, request)

        return Pager(fetch, lambda page: page.corpora)

    async def delete_corpus(self, name: str) -> None:
        """Deletes a corpus with all its texts and vectors. Not repeated: a second try would not find it."""
        request = pb.DeleteCorpusRequest(name=corpus_name(name))
        await self.unary(self.stub(CorpusServiceStub).DeleteCorpus, request, repeatable=False)

    async def index_corpus(
        self,
        name: str,
        source: corpus_pb2.Source,
        *,
        filters: corpus_pb2.PathFilters | None = None,
        dry_run: bool = False,
        request_id: str | None = None,
    ) -> task_service_pb2.Task:
        """Starts to index a source and returns the task; its result is an IndexResult. The corpus must exist."""
        request = pb.IndexCorpusRequest(
            name=corpus_name(name),
            source=source,
            filters=filters,
            dry_run=dry_run,
            request_id=request_id or str(uuid.uuid4()),
        )
        return (await self.unary(self.stub(CorpusServiceStub).IndexCorpus, request)).task

    async def move_corpus(self, name: str, *, request_id: str | None = None) -> task_service_pb2.Task:
        """Starts to move a corpus's vectors into the configured store; the task's result is a MoveResult."""
        request = pb.MoveCorpusRequest(name=corpus_name(name), request_id=request_id or str(uuid.uuid4()))
        return (await self.unary(self.stub(CorpusServiceStub).MoveCorpus, request)).task

    def list_documents(self, corpus: str) -> Pager[pb.ListDocumentsResponse, corpus_pb2.Document]:
        """Lists the files of a corpus's visible revision, by path."""

        async def fetch(token: str) -> pb.ListDocumentsResponse:
            request = pb.ListDocumentsRequest(corpus=corpus_name(corpus), page_token=token)
            return await self.unary(self.stub(CorpusServiceStub).ListDocuments, request)

        return Pager(fetch, lambda page: page.documents)

    async def get_document(
        self,
        corpus: str,
        path: str,
        *,
        revision: str | None = None,
        start_line: int | None = None,
        end_line: int | None = None,
    ) -> pb.GetDocumentResponse:
        """Returns lines of a file; unset limits mean its first and last line."""
        request = pb.GetDocumentRequest(
            corpus=corpus_name(corpus), path=path, revision=revision, start_line=start_line, end_line=end_line
        )
        return await self.unary(self.stub(CorpusServiceStub).GetDocument, request)

    async def search(
        self,
        query: str,
        corpora: Sequence[str],
        *,
        top_k: int | None = None,
        filters: corpus_pb2.PathFilters | None = None,
        mode: "search_pb.SearchMode.ValueType | None" = None,
        pinned_paths: Sequence[str] = (),
        token_budget: int | None = None,
    ) -> list[passage_pb2.Passage]:
        """Returns the passages that match best, best first; none if nothing matches."""
        request = search_pb.SearchRequest(
            corpora=[corpus_name(name) for name in corpora],
            query=query,
            top_k=top_k,
            filters=filters,
            pinned_paths=pinned_paths,
            token_budget=token_budget,
        )
        if mode is not None:
            request.mode = mode
        return list((await self.unary(self.stub(SearchServiceStub).Search, request)).passages)

    async def verify_spans(self, spans: Sequence[search_pb.SpanToVerify]) -> "list[search_pb.SpanState.ValueType]":
        """Says of each span, in order, whether its lines still read as they did."""
        request = search_pb.VerifySpansRequest(spans=spans)
        return list((await self.unary(self.stub(SearchServiceStub).VerifySpans, request)).states)
