"""What the store sends to a Qdrant server, over real grpc: conformance of its requests, not the server's behaviour."""

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest
from qdrant_client.grpc import (
    collections_pb2,
    collections_service_pb2_grpc,
    points_pb2,
    points_service_pb2_grpc,
)

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import SluiceError
from sluice_kit.secrets import Secret
from sluice_retrieval.config import QdrantConfig
from sluice_retrieval.store import server_client
from sluice_retrieval.store.base import Generation, Payload, Point, Query
from sluice_retrieval.store.server import ServerStore

R = ErrorReason
ONE, TWO = Generation("acme", "c0ffee", "one", 1, 2), Generation("acme", "c0ffee", "two", 2, 2)
_DONE = points_pb2.PointsOperationResponse(
    result=points_pb2.UpdateResult(status=points_pb2.UpdateStatus.Completed, operation_id=1)
)


class Recorder(points_service_pb2_grpc.PointsServicer, collections_service_pb2_grpc.CollectionsServicer):
    """A server that keeps what it is asked, and fails first as it is told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.keys: set[str] = set()
        self.failures: list[grpc.StatusCode] = []
        self.at_once = self.most_at_once = 0
        self.collections: set[str] = set()

    async def _take(self, name: str, request: Any, context: Any) -> None:
        self.keys |= {str(value) for key, value in context.invocation_metadata() if key == "api-key"}
        self.asked.append((name, request))
        if self.failures:
            code = self.failures.pop(0)
            if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
                context.set_trailing_metadata((("retry-after", "1"),))
            await context.abort(code, "words of the server")

    def of(self, name: str) -> list[Any]:
        return [request for asked, request in self.asked if asked == name]

    async def CollectionExists(self, request: Any, context: Any) -> Any:
        await self._take("CollectionExists", request, context)
        exists = collections_pb2.CollectionExists(exists=request.collection_name in self.collections)
        return collections_pb2.CollectionExistsResponse(result=exists)

    async def Create(self, request: Any, context: Any) -> Any:
        await self._take("Create", request, context)
        self.collections.add(request.collection_name)
        return collections_pb2.CollectionOperationResponse(result=True)

    async def List(self, request: Any, context: Any) -> Any:
        await self._take("List", request, context)
        names = [collections_pb2.CollectionDescription(name=name) for name in sorted(self.collections)]
        return collections_pb2.ListCollectionsResponse(collections=names)

    async def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        await self._take("CreateFieldIndex", request, context)
        return _DONE

    async def Upsert(self, request: Any, context: Any) -> Any:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self._take("Upsert", request, context)
            await asyncio.sleep(0.01)
        finally:
            self.at_once -= 1
        return _DONE

    async def SetPayload(self, request: Any, context: Any) -> Any:
        await self._take("SetPayload", request, context)
        return _DONE

    async def DeletePayload(self, request: Any, context: Any) -> Any:
        await self._take("DeletePayload", request, context)
        return _DONE

    async def Delete(self, request: Any, context: Any) -> Any:
        await self._take("Delete", request, context)
        return _DONE

    async def Count(self, request: Any, context: Any) -> Any:
        await self._take("Count", request, context)
        return points_pb2.CountResponse(result=points_pb2.CountResult(count=3))

    async def QueryBatch(self, request: Any, context: Any) -> Any:
        await self._take("QueryBatch", request, context)
        return points_pb2.QueryBatchResponse(result=[points_pb2.BatchResult() for _ in request.query_points])


@pytest.fixture
async def server():
    """A recorder on a free port, as (recorder, port)."""
    recorder = Recorder()
    running = grpc.aio.server()
    points_service_pb2_grpc.add_PointsServicer_to_server(recorder, running)
    collections_service_pb2_grpc.add_CollectionsServicer_to_server(recorder, running)
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    yield recorder, port
    await running.stop(None)


@pytest.fixture
async def store(server, monkeypatch):
    monkeypatch.setattr(server_client, "_FIRST_PAUSE_SECONDS", 0.01)
    _, port = server
    found = ServerStore(
        QdrantConfig("http://127.0.0.1:1", grpc_port=port, collection="mesh", shards=3, write_consistency=2, tries=3)
    )
    await found.start()
    yield found
    await found.close()


def conditions(only: Any) -> tuple[Counter[str], Counter[str]]:
    """Returns the fields that a filter demands, and those that it rules out."""
    return (
        Counter(one.field.key or "is_empty" for one in only.must),
        Counter(one.field.key for one in only.must_not),
    )


def words_of(only: Any, key: str) -> list[str]:
    return [one.field.match.keyword for one in only.must if one.field.key == key]


def point(number: int) -> Point:
    payload = Payload(f"f{number}.py", number, number, "", "python", "b" * 64, "t" * 64)
    return Point(f"00000000-0000-4000-8000-{number:012d}", payload, [1, 5], [1.0, 0.5], [0.6, 0.8])


async def test_a_collection_is_made_for_a_cluster(store, server):
    async with store.build(ONE):
        pass
    recorder, _ = server
    (made,) = recorder.of("Create")
    assert made.collection_name == "mesh-2"
    assert (made.shard_number, made.replication_factor, made.write_consistency_factor) == (3, 2, 2)
    assert made.vectors_config.params_map.map["dense"].size == 2
    assert made.sparse_vectors_config.map["bm25"].modifier == collections_pb2.Modifier.Idf
    indexes = {one.field_name: one for one in recorder.of("CreateFieldIndex")}
    assert set(indexes) == {"tenant", "corpus", "path", "chunk", "since", "until"}
    assert indexes["tenant"].field_index_params.keyword_index_params.is_tenant
    async with store.build(TWO):
        pass
    assert len(recorder.of("Create")) == 1


async def test_every_search_holds_tenant_corpus_and_generation(store, server):
    recorder, _ = server
    recorder.collections.add("mesh-2")
    await store.search(TWO, Query(7, [1], [1.0], [0.6, 0.8], ["a.py"], ["b.py"]))
    (batch,) = recorder.of("QueryBatch")
    assert batch.collection_name == "mesh-2"
    fused, words, meaning = batch.query_points
    assert fused.query.rrf.k == 10
    for one in (*fused.prefetch, words, meaning):
        must, must_not = conditions(one.filter)
        assert must == Counter(["tenant", "corpus", "since", "path"])
        assert must_not == Counter(["until", "path"])
        assert (words_of(one.filter, "tenant"), words_of(one.filter, "corpus")) == (["acme"], ["c0ffee"])
        assert one.limit == 7
    for one in (fused.prefetch[0], words):
        assert one.using == "bm25"
        must, must_not = conditions(one.params.idf.corpus)
        assert must == Counter(["tenant", "corpus", "since"])
        assert must_not == Counter(["until"])
    assert {one.using for one in (fused.prefetch[1], meaning)} == {"dense"}


async def test_writes_go_in_small_batches_a_few_at_a_time(store, server):
    recorder, _ = server
    async with store.build(ONE) as builder:
        await builder.add([point(number) for number in range(1000)])
    sizes = [len(request.points) for request in recorder.of("Upsert")]
    assert sum(sizes) == 1000
    assert max(sizes) == 128
    assert recorder.most_at_once == 2
    written = recorder.of("Upsert")[0].points[0]
    assert {"tenant", "corpus", "chunk", "since", "path", "text_sha256"} <= set(written.payload)
    assert "until" not in written.payload
    assert all(request.wait for request in recorder.of("Upsert"))
    ids = {one.id.uuid for request in recorder.of("Upsert") for one in request.points}
    assert len(ids) == 1000
    async with store.build(ONE, resume=True) as builder:
        await builder.add([point(3)])
    assert recorder.of("Upsert")[-1].points[0].id.uuid in ids, "the same chunk of the same generation is the same point"


async def test_a_new_generation_marks_and_does_not_delete(store, server):
    recorder, _ = server
    async with store.build(TWO, ONE, resume=True) as builder:
        await builder.remove(["a.py", "b.py"])
        await builder.remove([])
    assert recorder.of("Delete") == []
    (marked,) = recorder.of("SetPayload")
    assert marked.payload["until"].integer_value == 2
    assert conditions(marked.points_selector.filter)[0] == Counter(["tenant", "corpus", "since", "is_empty", "path"])


async def test_failures_that_pass_are_asked_again(store, server):
    recorder, _ = server
    recorder.collections.add("mesh-2")
    recorder.failures = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert await store.count(ONE) == 3
    assert len(recorder.of("CollectionExists")) == 3


@pytest.mark.parametrize(
    ("code", "times", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, 3, R.ERROR_REASON_STORE_UNAVAILABLE),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 3, R.ERROR_REASON_STORE_UNAVAILABLE),
        (grpc.StatusCode.UNAUTHENTICATED, 1, R.ERROR_REASON_INTEGRATION_MISCONFIGURED),
        (grpc.StatusCode.PERMISSION_DENIED, 1, R.ERROR_REASON_INTEGRATION_MISCONFIGURED),
    ],
)
async def test_failures_that_stay_are_told_without_the_server_s_words(code, times, reason, store, server):
    recorder, _ = server
    recorder.failures = [code] * 10
    with pytest.raises(SluiceError) as failure:
        await store.count(ONE)
    assert failure.value.reason == reason
    assert "words of the server" not in failure.value.message
    assert len(recorder.asked) == times


async def test_nobody_listens():
    store = ServerStore(QdrantConfig("http://127.0.0.1:1", grpc_port=1, tries=1, timeout_seconds=2))
    await store.start()
    try:
        with pytest.raises(SluiceError) as failure:
            await store.count(ONE)
        assert failure.value.reason == R.ERROR_REASON_STORE_UNAVAILABLE
    finally:
        await store.close()


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")
async def test_the_key_goes_with_every_request(server):
    recorder, port = server
    store = ServerStore(QdrantConfig("http://127.0.0.1:1", grpc_port=port, api_key=Secret("qd-secret")))
    await store.start()
    try:
        async with store.build(ONE):
            pass
    finally:
        await store.close()
    assert recorder.keys == {"qd-secret"}
    assert "qd-secret" not in repr(store._config)


async def test_a_corpus_is_dropped_from_every_collection(store, server):
    recorder, _ = server
    recorder.collections |= {"mesh-2", "mesh-words", "other-2"}
    await store.drop("acme", "c0ffee")
    assert {request.collection_name for request in recorder.of("Delete")} == {"mesh-2", "mesh-words"}
    for request in recorder.of("Delete"):
        assert conditions(request.points.filter)[0] == Counter(["tenant", "corpus"])


async def test_a_key_whose_variable_is_not_set_is_named(server):
    _, port = server
    store = ServerStore(QdrantConfig("http://127.0.0.1:1", grpc_port=port, api_key=Secret(None, "QDRANT_API_KEY")))
    await store.start()
    try:
        with pytest.raises(SluiceError) as failure:
            await store.count(ONE)
        assert failure.value.reason == R.ERROR_REASON_INTEGRATION_MISCONFIGURED
        assert failure.value.metadata["setting"] == "QDRANT_API_KEY"
    finally:
        await store.close()
