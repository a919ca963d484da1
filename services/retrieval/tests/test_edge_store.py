"""The store on the local disk: real shards in real processes."""

import asyncio
import os
import signal
import uuid
from pathlib import Path

import msgspec
import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import SluiceError
from sluice_retrieval.children.process import Child, ChildDied
from sluice_retrieval.store import edge_wire
from sluice_retrieval.store.base import Generation, Payload, Point, Query
from sluice_retrieval.store.edge import EdgeStore
from sluice_retrieval.store.edge_child import Shards

R = ErrorReason
ONE = Generation("tenant", "corpus", "one")


def point(number: int, *terms: int, dense: list[float] | None = None) -> Point:
    payload = Payload(f"file{number % 3}.py", number, number, f"f{number}", "python", "b" * 64, "t" * 64)
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))
    return Point(identity, payload, sorted(terms), [1.0] * len(terms), dense)


@pytest.fixture
async def store(tmp_path: Path):
    found = EdgeStore(tmp_path / "vectors")
    await found.start()
    yield found
    await found.close()


async def build(store: EdgeStore, generation: Generation, *points: Point, dimensions: int | None = None) -> int:
    async with store.build(msgspec.structs.replace(generation, dimensions=dimensions)) as builder:
        await builder.add(points)
        return await builder.seal()


async def lines(store: EdgeStore, generation: Generation, query: Query) -> list[int]:
    return [hit.payload.start_line for hit in await store.search(generation, query)]


async def test_rare_terms_weigh_more_and_filters_hold(store):
    points = [point(number, 1, 10 + number) for number in range(6)] + [point(6, 1, 2)]
    assert await build(store, ONE, *points) == 7
    query = Query(10, [1, 2], [1.0, 1.0])
    found = await lines(store, ONE, query)
    assert found[0] == 6
    assert sorted(found) == list(range(7))
    only = Query(10, [1], [1.0], include_paths=["file0.py"])
    assert sorted(await lines(store, ONE, only)) == [0, 3, 6]
    without = Query(10, [1], [1.0], exclude_paths=["file0.py", "file1.py"])
    assert sorted(await lines(store, ONE, without)) == [2, 5]
    assert await lines(store, ONE, Query(10, [99], [1.0])) == []
    assert await lines(store, ONE, Query(10)) == []
    assert len(await lines(store, ONE, Query(2, [1], [1.0]))) == 2


async def test_writing_twice_is_writing_once(store):
    points = [point(number, 1) for number in range(5)]
    async with store.build(ONE) as builder:
        await builder.add(points)
        await builder.add(points[:3])
        assert await builder.seal() == 5
    assert await store.count(ONE) == 5


async def test_fusion_and_what_found_it(store):
    points = [
        point(0, 1, dense=[1.0, 0.0]),
        point(1, 2, dense=[0.9, 0.1]),
        point(2, 1, 3, dense=[0.0, 1.0]),
    ]
    await build(store, ONE, *points, dimensions=2)
    hits = await store.search(ONE, Query(2, [1], [1.0], [1.0, 0.0]))
    assert hits[0].payload.start_line == 0
    assert (hits[0].sparse, hits[0].dense) == (True, True)
    assert {(hit.sparse, hit.dense) for hit in hits[1:]} <= {(True, False), (False, True)}
    assert [hit.payload.start_line for hit in await store.search(ONE, Query(2, dense=[0.0, 1.0]))] == [2, 1]
    ids = [entry.id for entry in points]
    assert set(await store.dense_vectors(ONE, [*ids, str(uuid.uuid4())])) == set(ids)


async def test_generations_are_apart_and_deleted_whole(store, tmp_path):
    two, other = Generation("tenant", "corpus", "two"), Generation("../evil/tenant", "corpus", "one")
    for number, generation in enumerate((ONE, two, other)):
        await build(store, generation, point(number, 1))
    assert [await lines(store, generation, Query(5, [1], [1.0])) for generation in (ONE, two, other)] == [[0], [1], [2]]
    assert all(path.is_relative_to(tmp_path / "vectors") for path in (tmp_path / "vectors").glob("*/*/*"))
    await store.delete(two)
    await store.delete(two)
    with pytest.raises(SluiceError) as failure:
        await store.search(two, Query(5, [1], [1.0]))
    assert failure.value.reason == R.ERROR_REASON_NOT_FOUND
    assert await store.keep_only([ONE]) == 1
    assert await lines(store, ONE, Query(5, [1], [1.0])) == [0]


async def test_building_again_begins_anew(store):
    await build(store, ONE, point(1, 1), point(2, 1))
    await lines(store, ONE, Query(5, [1], [1.0]))
    await build(store, ONE, point(3, 1))
    assert await lines(store, ONE, Query(5, [1], [1.0])) == [3]


async def test_a_file_s_chunks_come_by_line(store):
    await build(store, ONE, *(point(number, 1) for number in range(700, 0, -1)))
    found = await store.chunks_of(ONE, "file1.py", 1000)
    assert [payload.start_line for payload in found] == list(range(1, 701, 3))
    assert len(await store.chunks_of(ONE, "file1.py", 5)) == 5
    assert await store.chunks_of(ONE, "nothing.py", 5) == []


async def test_a_folder_held_by_another_process_is_named(store, tmp_path):
    await build(store, ONE, point(1, 1))
    assert await lines(store, ONE, Query(5, [1], [1.0])) == [1]
    other = EdgeStore(tmp_path / "vectors")
    await other.start()
    try:
        with pytest.raises(SluiceError) as failure:
            await other.search(ONE, Query(5, [1], [1.0]))
        assert failure.value.reason == R.ERROR_REASON_STORE_UNAVAILABLE
        assert "another process" in failure.value.message
        assert str(tmp_path) not in failure.value.message
    finally:
        await other.close()


async def test_a_defect_is_logged_and_hides_its_text(store, caplog):
    await build(store, ONE, point(1, 1))
    with pytest.raises(SluiceError) as failure:
        await store.search(ONE, Query(5, dense=[1.0, 2.0]))
    assert failure.value.reason == R.ERROR_REASON_INTERNAL
    assert "dense" not in failure.value.message
    assert failure.value.metadata["error_id"] in str([record.__dict__ for record in caplog.records])
    assert await lines(store, ONE, Query(5, [1], [1.0])) == [1]


async def test_a_child_that_keeps_dying_is_unavailable(store, monkeypatch):
    async def die(self, question, answer):
        raise ChildDied("edge")

    monkeypatch.setattr(Child, "ask", die)
    with pytest.raises(SluiceError) as failure:
        await store.search(ONE, Query(5, [1], [1.0]))
    assert failure.value.reason == R.ERROR_REASON_STORE_UNAVAILABLE
    assert failure.value.retryable


async def test_killed_while_it_writes_what_was_sealed_stays(store):
    await build(store, ONE, point(1, 1))
    two = Generation("tenant", "corpus", "two")
    with pytest.raises(SluiceError) as failure:
        async with store.build(two) as builder:
            await builder.add([point(2, 1)])
            os.kill(builder._child.pid, signal.SIGKILL)
            await builder.seal()
    assert failure.value.reason == R.ERROR_REASON_STORE_UNAVAILABLE
    assert await lines(store, ONE, Query(5, [1], [1.0])) == [1]
    await build(store, two, point(3, 1))
    assert await lines(store, two, Query(5, [1], [1.0])) == [3]


async def test_many_questions_at_once_get_their_own_answers(store):
    await build(store, ONE, *(point(number, number) for number in range(1, 60)))
    found = await asyncio.gather(*(lines(store, ONE, Query(1, [number], [1.0])) for number in range(1, 60)))
    assert found == [[number] for number in range(1, 60)]


async def test_a_question_given_up_does_not_confuse_the_next(store):
    await build(store, ONE, *(point(number, number) for number in range(1, 10)))
    asking = [asyncio.create_task(lines(store, ONE, Query(1, [number], [1.0]))) for number in range(1, 9)]
    await asyncio.sleep(0)
    for task in asking[:4]:
        task.cancel()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[:4])
    assert results[4:] == [[number] for number in range(5, 9)]
    assert await lines(store, ONE, Query(1, [9], [1.0])) == [9]


def test_shards_used_longest_ago_are_closed(tmp_path):
    shards = Shards(max_open=2)
    folders = [str(tmp_path / str(number)) for number in range(5)]
    for number, folder in enumerate(folders):
        shards.create(edge_wire.Create(folder, None))
        shards.add(edge_wire.Add(folder, [point(number, 1)]))
        shards.seal(edge_wire.Seal(folder))
    for _ in range(2):
        for number, folder in enumerate(folders):
            hits = shards.search(edge_wire.Search(folder, Query(1, [1], [1.0]))).hits
            assert [hit.payload.start_line for hit in hits] == [number]
            assert len(shards._open) <= 2
    shards.close()
    assert not shards._open
