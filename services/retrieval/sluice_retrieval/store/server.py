"""The store on a Qdrant server or cluster, by its own client over grpc.

One collection for each length of dense vectors, and one for corpora that have none, shared by all tenants. See
`server_filters` for how generations are kept apart. Writes are repeated when the connection breaks: point ids are
deterministic, and the other changes say what is, not what to add.
"""

import asyncio
import contextlib
import hashlib
import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final

from qdrant_client import AsyncQdrantClient
from qdrant_client.http import models

from sluice_retrieval.config import QdrantConfig
from sluice_retrieval.store import server_filters as filters
from sluice_retrieval.store.base import RRF_K, Builder, Generation, Hit, Payload, Point, Query
from sluice_retrieval.store.server_client import DENSE, SPARSE, ServerClient, gone

_FIELDS: Final = ("path", "start_line", "end_line", "symbol", "language", "blob_sha256", "text_sha256")
_PAGE: Final = 512
_ORDER: Final = models.WriteOrdering.WEAK
"""Every change here may be made in any order with its neighbours, and twice."""


class ServerStore:
    """Generations as points of shared collections. A `Store`."""

    def __init__(self, config: QdrantConfig, client: AsyncQdrantClient | None = None) -> None:
        """`client` is used instead of one made from the configuration, by tests."""
        self._config = config
        self._server = ServerClient(config, client)

    async def start(self) -> None:
        """Makes the client; it connects when first used."""
        self._server.start()

    async def ping(self) -> None:
        """Raises if the server does not answer."""
        await self._server.ping()

    async def close(self) -> None:
        """Closes the connections."""
        await self._server.close()

    @contextlib.asynccontextmanager
    async def build(
        self, generation: Generation, base: Generation | None = None, *, resume: bool = False
    ) -> AsyncIterator[Builder]:
        """Begins a generation, or goes on with it: what the base has is left as it is, and shared."""
        name = await self._server.collection(generation.dimensions)
        if not resume:
            await self._undo(name, generation)
        if base is None:
            await self.end(name, generation, filters.outdated(generation))
        elif not await self._count(name, filters.visible(base)):
            raise gone()
        yield _ServerBuilder(self, name, generation)

    async def search(self, generation: Generation, query: Query) -> list[Hit]:
        """Searches. Words are weighed by how often they stand in this generation alone."""
        only = filters.searched(generation, query)
        # Every tenant's points are in the collection, but none counts for another's weights.
        own = models.SearchParams(idf=models.IdfCorpusParams(corpus=filters.visible(generation)))
        stages: list[models.Prefetch] = []
        if query.indices:
            words = models.SparseVector(indices=query.indices, values=query.values)
            stages.append(models.Prefetch(query=words, using=SPARSE, filter=only, params=own, limit=query.limit))
        if query.dense is not None:
            stages.append(models.Prefetch(query=query.dense, using=DENSE, filter=only, limit=query.limit))
        if not stages:
            return []
        requests = [
            models.QueryRequest(
                query=stage.query,
                using=stage.using,
                filter=stage.filter,
                params=stage.params,
                limit=stage.limit,
                with_payload=len(stages) == 1,
            )
            for stage in stages
        ]
        if len(stages) == 2:
            fused = models.RrfQuery(rrf=models.Rrf(k=RRF_K))
            requests.insert(0, models.QueryRequest(query=fused, prefetch=stages, limit=query.limit, with_payload=True))
        name = await self._server.where(generation.dimensions)
        answers = await self._server.call(
            lambda client: client.query_batch_points(name, requests, timeout=round(self._config.timeout_seconds))
        )
        by_words, by_meaning = _found_by(query, answers)
        hits = [
            Hit(
                str((point.payload or {})[filters.CHUNK]),
                point.score,
                _payload(point.payload),
                point.id in by_words,
                point.id in by_meaning,
            )
            for point in answers[0].points
        ]
        # Equal scores come as the points happen to lie among those of others.
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))

    async def chunks_of(self, generation: Generation, path: str, limit: int) -> list[Payload]:
        """Returns chunks of a file by line."""
        name = await self._server.where(generation.dimensions)
        records = await self._scroll(name, filters.visible(generation, filters.paths([path])))
        payloads = sorted((_payload(record.payload) for record in records), key=lambda payload: payload.start_line)
        return payloads[:limit]

    async def dense_vectors(self, generation: Generation, ids: Sequence[str]) -> dict[str, list[float]]:
        """Returns the dense vectors of those of the points that exist."""
        name = await self._server.where(generation.dimensions)
        records = await self._scroll(name, filters.visible(generation, filters.chunks(ids)), vectors=True)
        found: dict[str, list[float]] = {}
        for record in records:
            vector = record.vector.get(DENSE) if isinstance(record.vector, dict) else None
            if isinstance(vector, list):
                found[str((record.payload or {})[filters.CHUNK])] = vector  # type: ignore[assignment]  # one row each
        return found

    async def points(self, generation: Generation, size: int) -> AsyncIterator[list[Point]]:
        """Yields every point with its vectors."""
        name, only, offset = await self._server.where(generation.dimensions), filters.visible(generation), None
        while True:
            records, offset = await self._server.call(
                partial(_page, name=name, only=only, offset=offset, vectors=True, limit=size)
            )
            if records:
                yield [_point(record) for record in records]
            if offset is None:
                return

    async def count(self, generation: Generation) -> int:
        """Returns the number of points."""
        return await self._count(await self._server.where(generation.dimensions), filters.visible(generation))

    async def delete(self, generation: Generation) -> None:
        """Undoes what a generation wrote. What it shares with others stays."""
        for name in await self._server.collections():
            await self._undo(name, generation)

    async def drop(self, tenant: str, corpus: str) -> None:
        """Deletes every generation of a corpus."""
        only = models.Filter(must=filters.corpus_of(Generation(tenant, corpus, "")))
        for name in await self._server.collections():
            await self._delete(name, only)

    async def keep_only(self, generations: Sequence[Generation]) -> int:
        """Deletes the points that none of the generations has, of the corpora that they are of."""
        kept: dict[tuple[str, str], list[Generation]] = {}
        for generation in generations:
            kept.setdefault((generation.tenant, generation.corpus), []).append(generation)
        removed = 0
        for group in kept.values():
            group.sort(key=lambda generation: generation.number)
            edges = [None, *(generation.number for generation in group), None]
            for name in await self._server.collections():
                before = await self._count(name, models.Filter(must=filters.corpus_of(group[0])))
                for after, until in itertools.pairwise(edges):
                    await self._delete(name, filters.between(group[0], after, until))
                # What a generation that came to nothing had marked is there again.
                await self._unmark(name, models.Filter(must=[*filters.corpus_of(group[0]), filters.later(group[-1])]))
                removed += before - await self._count(name, models.Filter(must=filters.corpus_of(group[0])))
        return removed

    async def put(self, name: str, generation: Generation, points: Sequence[Point]) -> None:
        """Writes points of a generation, in small batches, a few at a time."""
        config = self._config
        rows = [_row(generation, point) for point in points]
        slots = asyncio.Semaphore(config.concurrent_writes)

        async def write(batch: list[models.PointStruct]) -> None:
            async with slots:
                await self._server.call(lambda client: client.upsert(name, batch, wait=True, ordering=_ORDER))

        size = config.batch_points
        async with asyncio.TaskGroup() as group:
            for at in range(0, len(rows), size):
                group.create_task(write(rows[at : at + size]))

    async def end(self, name: str, generation: Generation, only: models.Filter) -> None:
        """Marks points as none of this generation any more."""
        payload = {filters.UNTIL: generation.number}
        await self._server.call(lambda client: client.set_payload(name, payload, only, wait=True, ordering=_ORDER))

    async def _undo(self, name: str, generation: Generation) -> None:
        await self._delete(name, filters.written(generation))
        await self._unmark(name, filters.ended(generation))

    async def _unmark(self, name: str, only: models.Filter) -> None:
        await self._server.call(
            lambda client: client.delete_payload(name, [filters.UNTIL], only, wait=True, ordering=_ORDER)
        )

    async def _delete(self, name: str, only: models.Filter) -> None:
        await self._server.call(
            lambda client: client.delete(name, models.FilterSelector(filter=only), wait=True, ordering=_ORDER)
        )

    async def _count(self, name: str, only: models.Filter) -> int:
        return (await self._server.call(lambda client: client.count(name, only, exact=True))).count

    async def _scroll(self, name: str, only: models.Filter, *, vectors: bool = False) -> list[models.Record]:
        records: list[models.Record] = []
        offset: Any = None
        while True:
            page, offset = await self._server.call(partial(_page, name=name, only=only, offset=offset, vectors=vectors))
            records += page
            if offset is None:
                return records


class _ServerBuilder:
    def __init__(self, store: ServerStore, name: str, generation: Generation) -> None:
        self._store = store
        self._name = name
        self._generation = generation

    async def remove(self, paths: Sequence[str]) -> None:
        if paths:
            only = filters.outdated(self._generation, filters.paths(paths))
            await self._store.end(self._name, self._generation, only)

    async def add(self, points: Sequence[Point]) -> None:
        await self._store.put(self._name, self._generation, points)

    async def seal(self) -> int:
        return await self._store.count(self._generation)


async def _page(
    client: AsyncQdrantClient, name: str, only: models.Filter, offset: Any, *, vectors: bool, limit: int = _PAGE
) -> tuple[list[models.Record], Any]:
    return await client.scroll(name, only, limit=limit, offset=offset, with_payload=True, with_vectors=vectors)


def _found_by(query: Query, answers: Sequence[models.QueryResponse]) -> tuple[set[Any], set[Any]]:
    """Returns the points that were found by words, and by meaning."""
    sets = [{point.id for point in answer.points} for answer in answers]
    if len(answers) > 1:
        return sets[1], sets[2]
    return (sets[0], set()) if query.indices else (set(), sets[0])


def _row(generation: Generation, point: Point) -> models.PointStruct:
    """Returns a point as the server takes it. Its id is of the generation, too: an earlier one may have the same
    chunk, ended."""
    digest = hashlib.blake2b(f"{generation.id}\0{point.id}".encode(), digest_size=16).digest()
    vectors: dict[str, Any] = {SPARSE: models.SparseVector(indices=point.indices, values=point.values)}
    if point.dense is not None:
        vectors[DENSE] = point.dense
    payload = {name: getattr(point.payload, name) for name in _FIELDS} | {
        filters.TENANT: generation.tenant,
        filters.CORPUS: generation.corpus,
        filters.CHUNK: point.id,
        filters.SINCE: generation.number,
    }
    return models.PointStruct(id=str(uuid.UUID(bytes=digest)), vector=vectors, payload=payload)


def _point(record: models.Record) -> Point:
    vectors: dict[str, Any] = record.vector if isinstance(record.vector, dict) else {}
    words = vectors[SPARSE]
    payload = record.payload or {}
    return Point(str(payload[filters.CHUNK]), _payload(payload), words.indices, words.values, vectors.get(DENSE))


def _payload(values: dict[str, Any] | None) -> Payload:
    assert values is not None  # every point is written with one, and asked for with it
    return Payload(**{name: values[name] for name in _FIELDS})
