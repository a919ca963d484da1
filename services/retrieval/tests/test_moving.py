"""A corpus moves from one store to another without being read or embedded again."""

import asyncio

import pytest
from qdrant_client import AsyncQdrantClient

from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_pb2, corpus_service_pb2
from sluice.task.v1 import task_service_pb2
from sluice_kit.errors import SluiceError
from sluice_retrieval.config import QdrantConfig
from sluice_retrieval.store.server import ServerStore

# The engine inside the client stands for a server here: what matters is that the corpus is the same afterwards.
pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning")
EMBEDDER = corpus_pb2.Embedder(target=Target(provider="test", model="words"), dimensions=32)


class Kept(ServerStore):
    """A server that outlives the service."""

    async def close(self) -> None:
        pass


@pytest.fixture
async def server():
    store = Kept(QdrantConfig(), AsyncQdrantClient(":memory:"))
    yield store
    await ServerStore.close(store)


async def move(client, name: str = "docs") -> corpus_service_pb2.MoveResult:
    request = corpus_service_pb2.MoveCorpusRequest(name=f"corpora/{name}")
    task = await client.ended((await client.call("MoveCorpus", request)).task.name)
    assert task.state == task_service_pb2.TASK_STATE_SUCCEEDED, task.error
    result = corpus_service_pb2.MoveResult()
    assert task.result.Unpack(result)
    return result


def settings(embedder, kind: str) -> dict[str, object]:
    return {
        "gateway": {"address": embedder.address},
        "store": {"kind": kind, "qdrant": {"url": "http://127.0.0.1:1"}},
    }


async def test_a_corpus_moves_and_is_the_same(start, source, embedder, server, tmp_path):
    async with start(settings(embedder, "edge"), qdrant=server) as client:
        await client.create(embedder=EMBEDDER)
        indexed = (await client.index(source)).corpus
        assert indexed.store == "edge"
        before = await client.search("brew tea minutes")
        assert (await move(client)).chunks == 0, "it is there already"
    embedder.texts.clear()
    async with start(settings(embedder, "qdrant"), qdrant=server) as client:
        assert [passage.text for passage in await client.search("brew tea minutes")] == [one.text for one in before]
        result = await move(client)
        assert (result.corpus.store, result.chunks) == ("qdrant", indexed.chunk_count)
        assert (result.corpus.revision, result.corpus.chunk_count) == (indexed.revision, indexed.chunk_count)
        assert not list((tmp_path / ".state" / "retrieval" / "vectors").glob("*/*/*"))
        found = await client.search("brew tea minutes")
        # Two engines may order what is nearly alike in two ways.
        assert sorted((one.path, one.text) for one in found) == sorted((one.path, one.text) for one in before)
        assert await client.verify(*found) == ["VALID"] * len(found)
        assert embedder.texts == ["brew tea minutes"] * 2
        (source / "notes.txt").write_text("Descale the kettle every week.\n")
        embedder.texts.clear()
        await client.index(source)
        assert len(embedder.texts) == 1, "an index goes on from what was moved"
        assert (await client.search("every week"))[0].path == "notes.txt"
    async with start(settings(embedder, "edge"), qdrant=server) as client:
        assert (await move(client)).corpus.store == "edge"
        assert (await client.search("every week"))[0].path == "notes.txt"


async def test_an_index_in_another_store_embeds_nothing_again(start, source, embedder, server):
    async with start(settings(embedder, "edge"), qdrant=server) as client:
        await client.create(embedder=EMBEDDER)
        await client.index(source)
        embedder.texts.clear()
    async with start(settings(embedder, "qdrant"), qdrant=server) as client:
        (source / "more.txt").write_text("One more.\n")
        assert (await client.index(source)).corpus.store == "qdrant"
        assert embedder.texts == ["more.txt\nOne more.\n"]


async def test_a_corpus_that_was_never_indexed_cannot_move(client):
    await client.create()
    with pytest.raises(SluiceError) as failure:
        await client.call("MoveCorpus", corpus_service_pb2.MoveCorpusRequest(name="corpora/docs"))
    assert failure.value.reason == ErrorReason.ERROR_REASON_CORPUS_NOT_READY


async def test_a_store_that_is_not_configured_any_more_is_named(start, source, embedder, server):
    async with start(settings(embedder, "qdrant"), qdrant=server) as client:
        await client.index(source)
    async with start() as client:
        with pytest.raises(SluiceError) as failure:
            await client.search("tea")
        assert "retrieval.store.qdrant.url" in failure.value.message


async def test_a_move_that_is_interrupted_goes_on(start, source, embedder, server, monkeypatch):
    async with start(settings(embedder, "edge"), qdrant=server) as client:
        await client.index(source)
    waiting = asyncio.Event()
    put = ServerStore.put

    async def stuck(self, name, generation, points):
        await put(self, name, generation, points[:2])
        waiting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(ServerStore, "put", stuck)
    async with start(settings(embedder, "qdrant"), qdrant=server) as client:
        request = corpus_service_pb2.MoveCorpusRequest(name="corpora/docs")
        task = (await client.call("MoveCorpus", request)).task.name
        await asyncio.wait_for(waiting.wait(), 60)
        assert await client.search("brew tea")
    monkeypatch.setattr(ServerStore, "put", put)
    async with start(settings(embedder, "qdrant"), qdrant=server) as client:
        assert (await client.ended(task)).state == task_service_pb2.TASK_STATE_SUCCEEDED
        assert (await client.get()).store == "qdrant"
        assert await client.search("brew tea")
