"""What every store does, on the local disk and on a server.

Where QDRANT_URL names a real server, that one runs the suite, too. Without it, the server's store is run against the
engine inside its own client, which knows filters, fusion and weights but is no server; what is sent to one is checked in
test_server_requests.py.
"""

import os
import uuid
from functools import partial
from pathlib import Path

import pytest
from qdrant_client import AsyncQdrantClient

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import SluiceError
from sluice_kit.secrets import Secret
from sluice_retrieval.config import QdrantConfig
from sluice_retrieval.store.base import Generation, Payload, Point, Query
from sluice_retrieval.store.edge import EdgeStore
from sluice_retrieval.store.server import ServerStore

ONE, TWO, THREE = (
    Generation("tenant", "corpus", name, number) for number, name in enumerate(("one", "two", "three"), 1)
)
# The engine inside the client has no indexes and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning")
STORES = ["edge", "client", *(["server"] if "QDRANT_URL" in os.environ else [])]


def point(number: int, *terms: int, dense: list[float] | None = None, path: str = "") -> Point:
    payload = Payload(path or f"file{number % 3}.py", number, number, f"f{number}", "python", "b" * 64, "t" * 64)
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))
    return Point(identity, payload, sorted(terms), [1.0] * len(terms), dense)


@pytest.fixture(params=STORES)
async def store(request, tmp_path: Path):
    if request.param == "edge":
        edge = EdgeStore(tmp_path / "vectors")
        await edge.start()
        yield edge
        await edge.close()
        return
    config = QdrantConfig()
    client: AsyncQdrantClient | None = AsyncQdrantClient(":memory:")
    if request.param == "server":
        key = Secret(os.environ.get("QDRANT_API_KEY", ""))
        config, client = (
            QdrantConfig(os.environ["QDRANT_URL"], api_key=key, collection=f"test-{uuid.uuid4().hex}"),
            None,
        )
    server = ServerStore(config, client)
    await server.start()
    yield server
    for name in await server._server.collections():
        await server._server.call(partial(_delete_collection, name=name))
    await server.close()


async def _delete_collection(client: AsyncQdrantClient, name: str) -> None:
    await client.delete_collection(name)


async def build(store, generation: Generation, *points: Point, base: Generation | None = None, gone=()) -> int:
    async with store.build(generation, base) as builder:
        await builder.remove(gone)
        await builder.add(points)
        count: int = await builder.seal()
        return count


async def found(store, generation: Generation, *terms: int, **fields) -> list[int]:
    query = Query(100, list(terms), [1.0] * len(terms), **fields)
    return [hit.payload.start_line for hit in await store.search(generation, query)]


async def scores(store, generation: Generation, *terms: int) -> list[tuple[str, float]]:
    query = Query(100, list(terms), [1.0] * len(terms))
    return sorted((hit.id, hit.score) for hit in await store.search(generation, query))


async def test_rare_terms_weigh_more_and_filters_hold(store):
    points = [point(number, 1, 10 + number) for number in range(6)] + [point(6, 1, 2)]
    assert await build(store, ONE, *points) == 7
    all_of_them = await found(store, ONE, 1, 2)
    assert all_of_them[0] == 6
    assert sorted(all_of_them) == list(range(7))
    assert sorted(await found(store, ONE, 1, include_paths=["file0.py"])) == [0, 3, 6]
    assert sorted(await found(store, ONE, 1, exclude_paths=["file0.py", "file1.py"])) == [2, 5]
    assert await found(store, ONE, 99) == []
    assert await store.search(ONE, Query(10)) == []
    assert len(await store.search(ONE, Query(2, [1], [1.0]))) == 2


async def test_fusion_and_what_found_it(store):
    generation = Generation("tenant", "corpus", "one", 1, 2)
    points = [point(0, 1, dense=[1.0, 0.0]), point(1, 2, dense=[0.9, 0.1]), point(2, 1, 3, dense=[0.0, 1.0])]
    await build(store, generation, *points)
    hits = await store.search(generation, Query(2, [1], [1.0], [1.0, 0.0]))
    assert hits[0].payload.start_line == 0
    assert (hits[0].sparse, hits[0].dense) == (True, True)
    assert {(hit.sparse, hit.dense) for hit in hits[1:]} <= {(True, False), (False, True)}
    assert [hit.payload.start_line for hit in await store.search(generation, Query(2, dense=[0.0, 1.0]))] == [2, 1]
    ids = [entry.id for entry in points]
    assert set(await store.dense_vectors(generation, [*ids, str(uuid.uuid4())])) == set(ids)


async def test_a_generation_is_a_changed_copy_and_the_one_before_stays(store):
    await build(store, ONE, *(point(number, 1, 10 + number) for number in range(6)))
    before = await scores(store, ONE, 1)
    assert await build(store, TWO, point(7, 1, path="file1.py"), base=ONE, gone=["file1.py", "nothing.py"]) == 5
    assert sorted(await found(store, TWO, 1)) == [0, 2, 3, 5, 7]
    assert await scores(store, ONE, 1) == before
    assert (await store.count(ONE), await store.count(TWO)) == (6, 5)
    assert [payload.start_line for payload in await store.chunks_of(TWO, "file1.py", 9)] == [7]
    assert [payload.start_line for payload in await store.chunks_of(ONE, "file1.py", 9)] == [1, 4]


async def test_what_was_there_before_may_come_back(store):
    await build(store, ONE, point(0, 1, path="a"), point(1, 1, path="b"))
    await build(store, TWO, base=ONE, gone=["a"])
    await build(store, THREE, point(0, 1, path="a"), base=TWO)
    assert [sorted(await found(store, one, 1)) for one in (ONE, TWO, THREE)] == [[0, 1], [1], [0, 1]]


async def test_building_goes_on_where_it_was(store):
    await build(store, ONE, point(0, 1, path="a"), point(1, 1, path="b"))
    async with store.build(TWO, ONE) as builder:
        await builder.remove(["a"])
        await builder.add([point(2, 1, path="c")])
    async with store.build(TWO, ONE, resume=True) as builder:
        await builder.add([point(2, 1, path="c"), point(3, 1, path="d")])
        assert await builder.seal() == 3
    assert sorted(await found(store, TWO, 1)) == [1, 2, 3]
    assert sorted(await found(store, ONE, 1)) == [0, 1]


async def test_building_anew_drops_what_was_left(store):
    await build(store, ONE, point(0, 1, path="a"))
    async with store.build(TWO, ONE) as builder:
        await builder.remove(["a"])
        await builder.add([point(2, 1, path="c")])
    assert await build(store, TWO, point(3, 1, path="d"), base=ONE) == 2
    assert sorted(await found(store, TWO, 1)) == [0, 3]


async def test_a_generation_without_a_base_has_nothing_of_those_before(store):
    await build(store, ONE, point(0, 1))
    assert await build(store, TWO, point(1, 1)) == 1
    assert await found(store, TWO, 1) == [1]
    assert await found(store, ONE, 1) == [0]


async def test_what_came_to_nothing_leaves_the_one_before_whole(store):
    await build(store, ONE, point(0, 1, path="a"), point(1, 1, path="b"))
    async with store.build(TWO, ONE) as builder:
        await builder.remove(["a"])
        await builder.add([point(2, 1, path="c")])
    await store.delete(TWO)
    await store.delete(TWO)
    assert sorted(await found(store, ONE, 1)) == [0, 1]
    assert await build(store, THREE, point(3, 1, path="d"), base=ONE) == 3
    assert sorted(await found(store, THREE, 1)) == [0, 1, 3]


async def test_only_generations_in_use_are_kept(store):
    await build(store, ONE, point(0, 1, path="a"), point(1, 1, path="b"))
    await build(store, TWO, point(2, 1, path="c"), base=ONE, gone=["a"])
    await build(store, THREE, point(3, 1, path="d"), base=TWO, gone=["b"])
    assert await store.keep_only([THREE]) > 0
    assert sorted(await found(store, THREE, 1)) == [2, 3]
    assert await store.count(THREE) == 2


async def test_a_corpus_is_dropped_whole_and_others_stay(store):
    other = Generation("tenant", "another", "other", 1)
    await build(store, ONE, point(0, 1))
    await build(store, TWO, point(1, 1), base=ONE)
    await build(store, other, point(2, 1))
    await store.drop("tenant", "corpus")
    assert await found(store, other, 1) == [2]
    if isinstance(store, EdgeStore):
        with pytest.raises(SluiceError) as failure:
            await found(store, TWO, 1)
        assert failure.value.reason == ErrorReason.ERROR_REASON_NOT_FOUND
    else:
        assert await found(store, TWO, 1) == []


async def test_another_tenant_changes_no_score_and_no_order(store):
    """To the bit: neither what is found nor how it is weighed may tell that somebody else is there."""
    await build(store, ONE, *(point(number, 1, 10 + number % 4) for number in range(40)))
    before = {terms: await scores(store, ONE, *terms) for terms in ((1,), (10,), (1, 11, 12))}
    order = await found(store, ONE, 1, 11, 12)
    for number, tenant in enumerate(("another", "tenant")):
        stranger = Generation(tenant, f"theirs{number}", f"g{number}", 1)
        await build(store, stranger, *(point(1000 * (number + 1) + at, 1, 10, 11) for at in range(200)))
    assert {terms: await scores(store, ONE, *terms) for terms in before} == before
    assert await found(store, ONE, 1, 11, 12) == order


async def test_what_is_not_there_is_not_found(store):
    with pytest.raises(SluiceError) as failure:
        await store.search(Generation("tenant", "corpus", "none", 7, 3), Query(5, [1], [1.0]))
    assert failure.value.reason == ErrorReason.ERROR_REASON_NOT_FOUND
    with pytest.raises(SluiceError) as failure:
        await build(store, TWO, point(1, 1), base=ONE)
    assert failure.value.reason == ErrorReason.ERROR_REASON_NOT_FOUND


async def test_a_file_s_chunks_come_by_line(store):
    await build(store, ONE, *(point(number, 1) for number in range(700, 0, -1)))
    chunks = await store.chunks_of(ONE, "file1.py", 1000)
    assert [payload.start_line for payload in chunks] == list(range(1, 701, 3))
    assert len(await store.chunks_of(ONE, "file1.py", 5)) == 5
    assert await store.chunks_of(ONE, "nothing.py", 5) == []
