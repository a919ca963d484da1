"""Vectors by meaning, from a gateway's EmbeddingService, fused with those by words."""

import grpc
import pytest

from sluice.chat.v1.passage_pb2 import MatchKind
from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_pb2, search_service_pb2
from sluice.task.v1 import task_service_pb2
from sluice_kit.errors import SluiceError

EMBEDDER = corpus_pb2.Embedder(target=Target(provider="test", model="words"), dimensions=32)


async def test_hybrid_fuses_both_and_says_how_it_found(start, source, embedder):
    settings = {
        "gateway": {"address": embedder.address},
        "embedder": {"model": "test/some/words", "dimensions": 32},
    }
    async with start(settings) as client:
        made = await client.create()
        assert (made.embedder.target.provider, made.embedder.target.model) == ("test", "some/words")
        result = await client.index(source)
        assert result.tokens > 0
        assert len(embedder.texts) == result.chunks
        assert any("pot/server.py · TeapotServer" in text.split("\n")[0] for text in embedder.texts)
        for mode in (search_service_pb2.SEARCH_MODE_UNSPECIFIED, search_service_pb2.SEARCH_MODE_HYBRID):
            passages = await client.search("brew tea minutes", mode=mode)
            assert passages[0].match == MatchKind.MATCH_KIND_HYBRID
        dense = await client.search("brew tea minutes", mode=search_service_pb2.SEARCH_MODE_DENSE)
        assert {passage.match for passage in dense} == {MatchKind.MATCH_KIND_DENSE}
        sparse = await client.search("brew tea minutes", mode=search_service_pb2.SEARCH_MODE_SPARSE)
        assert {passage.match for passage in sparse} == {MatchKind.MATCH_KIND_SPARSE}
        assert {passage.path for passage in sparse} <= {passage.path for passage in dense}
        only = corpus_pb2.PathFilters(include=["*.txt"])
        assert {passage.path for passage in await client.search("tea", filters=only)} == {"notes.txt"}


async def test_only_what_changed_is_embedded_again(start, source, embedder):
    async with start({"gateway": {"address": embedder.address}}) as client:
        await client.create(embedder=EMBEDDER)
        first = await client.index(source)
        embedder.texts.clear()
        (source / "notes.txt").write_text("Descale the kettle every week.\n")
        second = await client.index(source)
        assert len(embedder.texts) == 1
        assert "every week" in embedder.texts[0]
        assert 0 < second.tokens < first.tokens
        found = await client.search("brew tea", mode=search_service_pb2.SEARCH_MODE_DENSE)
        assert found[0].path in ("README.md", "pot/server.py")


async def test_an_embedder_that_fails(start, source, embedder):
    async with start({"gateway": {"address": embedder.address}}) as client:
        await client.create(embedder=EMBEDDER)
        embedder.failure = grpc.StatusCode.UNAVAILABLE
        task = await client.ended((await client.start_index(source)).name)
        assert task.state == task_service_pb2.TASK_STATE_FAILED
        assert "SERVICE_UNREACHABLE" in str(task.error)
        embedder.failure = None
        await client.index(source)
        embedder.failure = grpc.StatusCode.UNAVAILABLE
        # Where the choice is left to the service, words alone are better than nothing.
        assert {passage.match for passage in await client.search("brew tea")} == {MatchKind.MATCH_KIND_SPARSE}
        with pytest.raises(SluiceError) as failure:
            await client.search("brew tea", mode=search_service_pb2.SEARCH_MODE_HYBRID)
        assert failure.value.reason == ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE


async def test_a_corpus_with_an_embedder_needs_a_gateway(client, source):
    await client.create(embedder=EMBEDDER)
    task = await client.ended((await client.start_index(source)).name)
    assert task.state == task_service_pb2.TASK_STATE_FAILED
    assert "retrieval.gateway.address" in task.error.message


async def test_vectors_of_a_wrong_length_are_refused(start, source, embedder):
    async with start({"gateway": {"address": embedder.address}}) as client:
        embedder.dimensions = 3
        await client.create(embedder=EMBEDDER)
        task = await client.ended((await client.start_index(source)).name)
        assert task.state == task_service_pb2.TASK_STATE_FAILED
        assert "UPSTREAM_PROTOCOL_ERROR" in str(task.error)
