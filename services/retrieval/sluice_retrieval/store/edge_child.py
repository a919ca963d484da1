"""The child that holds Qdrant Edge shards. The library keeps the interpreter's lock for the length of every call."""

import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import qdrant_edge as qdrant

from sluice_kit.copying import copy_folder
from sluice_retrieval.children.runtime import ChildFailure, connect, run
from sluice_retrieval.store import edge_wire as wire
from sluice_retrieval.store.base import RRF_K, Hit, Payload, Point, Query

SPARSE: Final = "bm25"
DENSE: Final = "dense"
_MAX_OPEN: Final = 32
_FIELDS: Final = ("path", "start_line", "end_line", "symbol", "language", "blob_sha256", "text_sha256")


def serve(descriptor: str) -> None:
    """Runs the child."""
    connection = connect(descriptor)
    shards = Shards()
    try:
        run(
            connection,
            {
                wire.Create: shards.create,
                wire.Remove: shards.remove,
                wire.Add: shards.add,
                wire.Seal: shards.seal,
                wire.Search: shards.search,
                wire.ChunksOf: shards.chunks_of,
                wire.Dense: shards.dense,
                wire.Page: shards.page,
                wire.Count: shards.count,
                wire.Release: shards.release,
            },
        )
    finally:
        shards.close()


class Shards:
    """Shards by folder, opened on demand; those used longest ago are closed."""

    def __init__(self, max_open: int = _MAX_OPEN) -> None:
        self._max_open = max_open
        self._open: OrderedDict[str, qdrant.EdgeShard] = OrderedDict()

    def create(self, question: wire.Create) -> wire.Done:
        """Makes a shard, or goes on with one."""
        self._drop(question.folder)
        folder = Path(question.folder)
        if question.resume and folder.is_dir():
            self._get(question.folder)
            return wire.Done()
        shutil.rmtree(folder, ignore_errors=True)
        if question.base is not None:
            return self._copy(Path(question.base), folder)
        # Made elsewhere and moved, so that a folder that is there is always a whole shard.
        making = _making(folder)
        making.mkdir(parents=True)
        vectors = None
        if question.dimensions is not None:
            vectors = {DENSE: qdrant.EdgeVectorParams(size=question.dimensions, distance=qdrant.Distance.Cosine)}
        config = qdrant.EdgeConfig(
            vectors=vectors,
            sparse_vectors={SPARSE: qdrant.EdgeSparseVectorParams(modifier=qdrant.Modifier.Idf)},
        )
        shard = _guard(lambda: qdrant.EdgeShard.create(str(making), config))
        shard.update(qdrant.UpdateOperation.create_field_index("path", qdrant.KeywordIndexParams()))
        shard.flush()
        shard.close()
        making.rename(folder)
        self._get(question.folder)
        return wire.Done()

    def _copy(self, base: Path, folder: Path) -> wire.Done:
        if not base.is_dir():
            raise ChildFailure("NOT_FOUND", "the index to go on from is gone")
        making = _making(folder)
        copy_folder(base, making)
        making.rename(folder)
        self._get(str(folder))
        return wire.Done()

    def remove(self, question: wire.Remove) -> wire.Done:
        """Removes the chunks of files."""
        if question.paths:
            only = qdrant.Filter(must=[_match_any(question.paths)])
            self._get(question.folder).update(qdrant.UpdateOperation.delete_points_by_filter(only))
        return wire.Done()

    def add(self, question: wire.Add) -> wire.Done:
        """Writes points."""
        points: list[qdrant.Point] = []
        for point in question.points:
            vectors: dict[str, Any] = {SPARSE: qdrant.SparseVector(point.indices, point.values)}
            if point.dense is not None:
                vectors[DENSE] = point.dense
            payload = dict(zip(_FIELDS, _row(point.payload), strict=True))
            points.append(qdrant.Point(point.id, vectors, payload))
        self._get(question.folder).update(qdrant.UpdateOperation.upsert_points(points))
        return wire.Done(len(points))

    def seal(self, question: wire.Seal) -> wire.Done:
        """Flushes, optimises and closes a shard."""
        shard = self._get(question.folder)
        shard.optimize()
        shard.flush()
        count = shard.count(qdrant.CountRequest(exact=True))
        self._drop(question.folder)
        return wire.Done(count)

    def search(self, question: wire.Search) -> wire.Hits:
        """Searches by words, by meaning, or both."""
        query = question.query
        stages: list[qdrant.Query] = []
        if query.indices:
            sparse = qdrant.SparseVector(query.indices, query.values)
            stages.append(qdrant.Query.Nearest(sparse, using=SPARSE))
        if query.dense is not None:
            stages.append(qdrant.Query.Nearest(query.dense, using=DENSE))
        if not stages:
            return wire.Hits([])
        only = _filter(query)
        requests = [qdrant.QueryRequest(limit=query.limit, query=stage, filter=only) for stage in stages]
        if len(stages) == 2:
            fused = qdrant.QueryRequest(
                limit=query.limit,
                query=qdrant.Fusion.Rrf(k=RRF_K),  # type: ignore[arg-type]  # the stubs nest it outside its base
                prefetches=[qdrant.Prefetch(limit=query.limit, query=stage, filter=only) for stage in stages],
                with_payload=True,
            )
            results = self._get(question.folder).query_batch(qdrant.QueryBatchRequest([fused, *requests]))
            by_words, by_meaning = ({point.id for point in result} for result in results[1:])
            found = results[0]
        else:
            requests = [qdrant.QueryRequest(limit=query.limit, query=stages[0], filter=only, with_payload=True)]
            found = self._get(question.folder).query_batch(qdrant.QueryBatchRequest(requests))[0]
            ids = {point.id for point in found}
            by_words, by_meaning = (ids, set[Any]()) if query.indices else (set[Any](), ids)
        return wire.Hits(
            [
                Hit(str(point.id), point.score, _payload(point.payload), point.id in by_words, point.id in by_meaning)
                for point in found
            ]
        )

    def chunks_of(self, question: wire.ChunksOf) -> wire.Payloads:
        """Returns the chunks of one file, by line."""
        shard = self._get(question.folder)
        only = qdrant.Filter(must=[_match_any([question.path])])
        payloads: list[Payload] = []
        offset = None
        while True:
            request = qdrant.ScrollRequest(offset=offset, limit=512, filter=only, with_payload=True)
            records, offset = shard.scroll(request)
            payloads += [_payload(record.payload) for record in records]
            if offset is None:
                break
        payloads.sort(key=lambda payload: payload.start_line)
        return wire.Payloads(payloads[: question.limit])

    def dense(self, question: wire.Dense) -> wire.Vectors:
        """Returns dense vectors."""
        records = self._get(question.folder).retrieve([*question.ids], with_payload=False, with_vector=[DENSE])
        vectors: dict[str, list[float]] = {}
        for record in records:
            vector = record.vector.get(DENSE) if isinstance(record.vector, dict) else None
            if isinstance(vector, list):
                vectors[str(record.id)] = vector  # type: ignore[assignment]  # one row: it was written as one
        return wire.Vectors(vectors)

    def page(self, question: wire.Page) -> wire.Points:
        """Returns points with their vectors, by id."""
        request = qdrant.ScrollRequest(
            offset=question.offset, limit=question.limit, with_payload=True, with_vector=True
        )
        records, offset = self._get(question.folder).scroll(request)
        return wire.Points([_point(record) for record in records], None if offset is None else str(offset))

    def count(self, question: wire.Count) -> wire.Done:
        """Returns the number of points."""
        return wire.Done(self._get(question.folder).count(qdrant.CountRequest(exact=True)))

    def release(self, question: wire.Release) -> wire.Done:
        """Closes a shard if it is open."""
        self._drop(question.folder)
        return wire.Done()

    def close(self) -> None:
        """Closes every shard."""
        for folder in list(self._open):
            self._drop(folder)

    def _get(self, folder: str) -> qdrant.EdgeShard:
        shard = self._open.get(folder)
        if shard is not None:
            self._open.move_to_end(folder)
            return shard
        if not Path(folder).is_dir():
            raise ChildFailure("NOT_FOUND", "this generation of the index is gone")
        shard = _guard(lambda: qdrant.EdgeShard.load(folder))
        self._keep(folder, shard)
        return shard

    def _keep(self, folder: str, shard: qdrant.EdgeShard) -> None:
        self._open[folder] = shard
        while len(self._open) > self._max_open:
            _, oldest = self._open.popitem(last=False)
            oldest.close()

    def _drop(self, folder: str) -> None:
        shard = self._open.pop(folder, None)
        if shard is not None:
            shard.close()


def _making(folder: Path) -> Path:
    """Returns an empty place beside a folder for what will become it."""
    making = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(making, ignore_errors=True)
    return making


def _guard(open_: Any) -> qdrant.EdgeShard:
    """Opens a shard. The library raises a bare Exception whose text alone tells what happened."""
    try:
        shard: qdrant.EdgeShard = open_()
    except Exception as error:
        if "WouldBlock" in str(error):
            raise ChildFailure("STORE_UNAVAILABLE", "another process holds the folder of this index") from error
        raise
    return shard


def _filter(query: Query) -> qdrant.Filter | None:
    must = [_match_any(query.include_paths)] if query.include_paths is not None else None
    must_not = [_match_any(query.exclude_paths)] if query.exclude_paths else None
    return qdrant.Filter(must=must, must_not=must_not) if must or must_not else None  # type: ignore[arg-type]  # a list of one kind of condition


def _match_any(paths: list[str]) -> qdrant.FieldCondition:
    return qdrant.FieldCondition("path", match=qdrant.MatchAny(paths))


def _row(payload: Payload) -> tuple[Any, ...]:
    return tuple(getattr(payload, name) for name in _FIELDS)


def _point(record: Any) -> Point:
    vectors = record.vector
    words = vectors[SPARSE]
    return Point(str(record.id), _payload(record.payload), words.indices, words.values, vectors.get(DENSE))


def _payload(values: dict[str, Any] | None) -> Payload:
    assert values is not None  # every point is written with one
    return Payload(**{name: values[name] for name in _FIELDS})
