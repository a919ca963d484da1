"""What nobody can ask for any more goes, and nothing else."""

from pathlib import Path

from sluice.retrieval.v1 import corpus_service_pb2
from sluice.task.v1 import task_service_pb2


def kept(tmp_path: Path, kind: str) -> set[str]:
    return {path.name for path in (tmp_path / ".state" / "retrieval" / kind).glob("*/*/*")}


async def test_what_a_crash_left_is_removed_at_the_next_start(start, source, tmp_path):
    state = tmp_path / ".state" / "retrieval"
    async with start() as client:
        await client.index(source)
        await client.service._sweep_if_idle()
        before = kept(tmp_path, "blobs")
        folder = next(state.glob("blobs/*"))
    (folder / "00").mkdir(exist_ok=True)
    (folder / "00" / (".new-" + "x")).write_text("half written")
    (folder / "00" / ("0" * 64)).write_text("of an index that was never finished")
    nobody = state / "blobs" / ("f" * 24) / "11"
    nobody.mkdir(parents=True)
    (nobody / ("1" * 64)).write_text("of a tenant without corpora")
    (state / "vectors" / "tenant" / "corpus" / "generation").mkdir(parents=True)
    (state / "fetched" / "ret-old").mkdir(parents=True)
    async with start() as client:
        await client.service._sweep_if_idle()
        assert kept(tmp_path, "blobs") == before
        assert len(kept(tmp_path, "vectors")) == 1
        assert not (state / "fetched").exists()
        assert await client.search("brew tea")


async def test_replaced_vectors_stay_for_searches_that_began_before(client, source, tmp_path):
    await client.index(source)
    first = kept(tmp_path, "vectors")
    (source / "notes.txt").write_text("new\n")
    await client.index(source)
    await client.service._sweep_if_idle()
    assert first < kept(tmp_path, "vectors")


async def test_old_tasks_are_forgotten(start, source):
    async with start({"keep_tasks_seconds": 0.0}) as client:
        result = await client.index(source)
        request = task_service_pb2.ListTasksRequest()
        assert len((await client.call("ListTasks", request)).tasks) == 1
        await client.service._sweep_if_idle()
        assert len((await client.call("ListTasks", request)).tasks) == 0
        assert (await client.get()) == result.corpus


async def test_texts_that_another_corpus_shares_stay(client, source, tmp_path):
    await client.index(source, "one")
    await client.index(source, "two")
    before = kept(tmp_path, "blobs")
    await client.call("DeleteCorpus", corpus_service_pb2.DeleteCorpusRequest(name="corpora/one"))
    assert kept(tmp_path, "blobs") == before
    assert await client.search("brew tea", "two")
