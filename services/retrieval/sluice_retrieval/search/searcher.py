"""Searches: every corpus at once, pinned files first, then what matches best."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sluice.chat.v1.passage_pb2 import MatchKind, Passage
from sluice.retrieval.v1 import search_service_pb2 as pb
from sluice_kit.call import Call
from sluice_kit.errors import NotFoundError, SluiceError
from sluice_kit.rpc import invalid_field
from sluice_retrieval.embedding import EmbedderSpec, EmbeddingClient
from sluice_retrieval.indexing.indexer import embedder_of
from sluice_retrieval.names import corpus_id_of
from sluice_retrieval.records import corpora as rows
from sluice_retrieval.records import documents
from sluice_retrieval.records.database import Database
from sluice_retrieval.search.candidates import Candidate, Selection, merge_neighbours
from sluice_retrieval.search.reranking import Reranker
from sluice_retrieval.search.standing import (
    BY_MEANING,
    BY_WORDS,
    asks_for_licences,
    asks_for_tests,
    may_begin_with_notice,
    notice_behind,
    tests_behind,
)
from sluice_retrieval.search.texts import Texts
from sluice_retrieval.sources.patterns import PathFilter
from sluice_retrieval.store.base import Generation, Hit, Payload, Query, Store
from sluice_retrieval.text.bm25 import SparseVector, query_vector
from sluice_retrieval.text.lines import text_sha256

log = logging.getLogger(__name__)

DEFAULT_TOP_K: Final = 10
_OVERFETCH: Final = 4
_MIN_CANDIDATES: Final = 32
_PINNED_CHUNKS: Final = 8
"""Chunks of each pinned file that are looked at."""
_MAX_EMBEDDED_CHARS: Final = 6000
_CACHED_PATHS: Final = 8
_Mode = pb.SearchMode
_Kind = MatchKind


@dataclass(frozen=True, slots=True)
class _Place:
    """One corpus as this search sees it."""

    name: str
    generation: Generation
    revision: str
    embedder: EmbedderSpec | None
    dense: list[float] | None = None


class Searcher:
    """Answers SearchRequests."""

    def __init__(
        self, database: Database, store: Store, texts: Texts, embeddings: EmbeddingClient, reranker: Reranker
    ) -> None:
        self._database = database
        self._store = store
        self._texts = texts
        self._embeddings = embeddings
        self._reranker = reranker
        self._paths: OrderedDict[str, list[str]] = OrderedDict()

    async def search(self, request: pb.SearchRequest, filters: PathFilter, call: Call) -> list[Passage]:
        """Returns passages, best first. Raises SluiceError."""
        asked = request.rerank if request.HasField("rerank") else None
        reranked = self._reranker.wanted(asked)
        places = [await self._place(call, name) for name in request.corpora]
        if request.mode == _Mode.SEARCH_MODE_DENSE:
            for place in places:
                if place.embedder is None:
                    raise invalid_field("mode", f"{place.name} has no embedder, so it cannot be searched by meaning")
        places = await self._with_vectors(places, request, call)
        words = query_vector(request.query)
        if request.mode == _Mode.SEARCH_MODE_DENSE:
            words = SparseVector([], [])
        top_k = request.top_k if request.HasField("top_k") else DEFAULT_TOP_K
        parts = await asyncio.gather(
            *(self._candidates(place, words, filters, request.pinned_paths, top_k, call) for place in places)
        )
        found = [candidate for part in _comparable(places, parts) for candidate in part]
        if not asks_for_tests(request.query):
            found = tests_behind(found, BY_WORDS if words.indices else BY_MEANING)
        selection = Selection(top_k, request.token_budget if request.HasField("token_budget") else None)
        if not asks_for_licences(request.query):
            found = [await self._without_notice(candidate, call) for candidate in found]
        merged = merge_neighbours(found)
        if reranked:
            best = [read for one in merged[:reranked] if (read := await self._read(one, call)) is not None]
            merged = [*await self._reranker.order(request.query, best, asked, call), *merged[reranked:]]
        for candidate in merged:
            read = candidate if candidate.lines else await self._read(candidate, call)
            if read is not None:
                selection.offer(read)
            if selection.full:
                break
        return [_passage(number, candidate) for number, candidate in enumerate(selection.result(), 1)]

    async def _without_notice(self, candidate: Candidate, call: Call) -> Candidate:
        """Returns a candidate with its file's licence, if it begins with that, where it belongs."""
        if not may_begin_with_notice(candidate):
            return candidate
        read = await self._read(candidate, call)
        return candidate if read is None else notice_behind(read)

    async def _read(self, candidate: Candidate, call: Call) -> Candidate | None:
        """Returns a candidate with its lines; None if its text is not kept any more."""
        lines = await self._texts.lines(call.tenant, candidate.blob_sha256)
        return replace(candidate, lines=lines) if lines is not None else None

    async def _place(self, call: Call, name: str) -> _Place:
        corpus, seen = await self._database.read(lambda session: rows.visible(session, call.tenant, corpus_id_of(name)))
        return _Place(name, rows.generation_key(seen), seen.revision, embedder_of(corpus))

    async def _with_vectors(self, places: Sequence[_Place], request: pb.SearchRequest, call: Call) -> list[_Place]:
        """Embeds the question once for each embedder in use."""
        if request.mode == _Mode.SEARCH_MODE_SPARSE:
            return list(places)
        question = request.query[:_MAX_EMBEDDED_CHARS]
        specs = {place.embedder for place in places if place.embedder is not None}
        vectors: dict[EmbedderSpec, list[float]] = {}
        for spec in specs:
            try:
                vectors[spec] = await self._embeddings.query(call.identity, spec, question)
            except SluiceError as error:
                if request.mode != _Mode.SEARCH_MODE_UNSPECIFIED:
                    raise
                # The caller left the choice to us, and words alone find something too.
                log.warning("searching by words alone", extra={"reason": error.reason_name, "detail": error.message})
        return [
            replace(place, dense=vectors.get(place.embedder) if place.embedder is not None else None)
            for place in places
        ]

    async def _candidates(
        self,
        place: _Place,
        words: SparseVector,
        filters: PathFilter,
        pinned: Sequence[str],
        top_k: int,
        call: Call,
    ) -> list[Candidate]:
        """Returns what one corpus has; once more if its generation was replaced and deleted under our feet."""
        try:
            return await self._look(place, words, filters, pinned, top_k)
        except NotFoundError:
            again = await self._place(call, place.name)
            if again.generation == place.generation:
                raise rows.lost_index(place.name) from None
            return await self._look(replace(again, dense=place.dense), words, filters, pinned, top_k)

    async def _look(
        self, place: _Place, words: SparseVector, filters: PathFilter, pinned: Sequence[str], top_k: int
    ) -> list[Candidate]:
        limit = max(_MIN_CANDIDATES, _OVERFETCH * top_k)
        only = await self._only(place, filters)
        if only is None:
            return []
        query = Query(limit, words.indices, words.values, place.dense, only.include_paths, only.exclude_paths)
        found: list[tuple[Payload, float, _Kind.ValueType]] = []
        if words.indices or place.dense is not None:
            hits = await self._store.search(place.generation, query)
            found = [(hit.payload, hit.score, _kind(hit)) for hit in hits if hit.payload.path not in pinned]
        for path in pinned:
            # What the request pins, it wants: the filters are for the rest.
            found += await self._pinned(place, path, words)
        return [_candidate(place, payload, score, kind) for payload, score, kind in found]

    async def _pinned(
        self, place: _Place, path: str, words: SparseVector
    ) -> "list[tuple[Payload, float, _Kind.ValueType]]":
        """Returns chunks of a pinned file: those that match, else its first ones."""
        hits: list[Hit] = []
        if words.indices or place.dense is not None:
            query = Query(_PINNED_CHUNKS, words.indices, words.values, place.dense, [path])
            hits = await self._store.search(place.generation, query)
        if hits:
            return [(hit.payload, hit.score, _Kind.MATCH_KIND_PINNED) for hit in hits]
        payloads = await self._store.chunks_of(place.generation, path, _PINNED_CHUNKS)
        return [(payload, 0.0, _Kind.MATCH_KIND_PINNED) for payload in payloads]

    async def _only(self, place: _Place, filters: PathFilter) -> Query | None:
        """Returns the filter as the paths to take, or the fewer to leave; None if nothing is left."""
        if filters.is_open:
            return Query(0)
        paths = await self._paths_of(place.generation.id)
        taken = await asyncio.to_thread(lambda: [path for path in paths if filters.takes(path)])
        if not taken:
            return None
        if len(taken) <= len(paths) // 2:
            return Query(0, include_paths=taken)
        kept = set(taken)
        return Query(0, exclude_paths=[path for path in paths if path not in kept])

    async def _paths_of(self, generation_id: str) -> list[str]:
        paths = self._paths.get(generation_id)
        if paths is None:
            paths = await self._database.read(lambda session: documents.paths(session, generation_id))
            self._paths[generation_id] = paths
            while len(self._paths) > _CACHED_PATHS:
                self._paths.popitem(last=False)
        return paths


def _comparable(places: Sequence[_Place], parts: Sequence[list[Candidate]]) -> Sequence[list[Candidate]]:
    """Makes scores of several corpora comparable: BM25 scores are, ranks are, but not one with the other."""
    fused = [place.dense is not None for place in places]
    if all(fused) or not any(fused):
        return parts
    scaled: list[list[Candidate]] = []
    for part in parts:
        best = max((candidate.score for candidate in part), default=0.0) or 1.0
        scaled.append([replace(candidate, score=candidate.score / best) for candidate in part])
    return scaled


def _kind(hit: Hit) -> "_Kind.ValueType":
    if hit.sparse and hit.dense:
        return _Kind.MATCH_KIND_HYBRID
    return _Kind.MATCH_KIND_DENSE if hit.dense else _Kind.MATCH_KIND_SPARSE


def _candidate(place: _Place, payload: Payload, score: float, kind: "_Kind.ValueType") -> Candidate:
    return Candidate(
        corpus=place.name,
        path=payload.path,
        revision=place.revision,
        blob_sha256=payload.blob_sha256,
        start_line=payload.start_line,
        end_line=payload.end_line,
        symbol=payload.symbol,
        language=payload.language,
        score=score,
        match=kind,
    )


def _passage(number: int, candidate: Candidate) -> Passage:
    text = candidate.text
    return Passage(
        id=f"p{number}",
        corpus=candidate.corpus,
        path=candidate.path,
        start_line=candidate.start_line,
        end_line=candidate.end_line,
        revision=candidate.revision,
        blob_sha256=candidate.blob_sha256,
        sha256=text_sha256(text),
        text=text,
        score=candidate.score,
        symbol=candidate.symbol,
        language=candidate.language,
        match=candidate.match,
    )
