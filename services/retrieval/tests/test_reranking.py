"""A model that reads question and text together may order what was found."""

import grpc
import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.config import ConfigError
from sluice_kit.errors import SluiceError


def settings(embedder, **more):
    return {"gateway": {"address": embedder.address}, "reranker": {"model": "vendor/judge", **more}}


@pytest.fixture
def letters(source):
    for name, count in (("one", 1), ("two", 9), ("three", 4)):
        (source / f"{name}.txt").write_text("kettle zebra " + "q" * count + "\n")
    return source


async def test_the_reranker_decides_the_order(start, letters, embedder):
    async with start(settings(embedder)) as client:
        await client.index(letters)
        plain = await client.search("qqq kettle zebra", rerank=False)
        assert embedder.reranked == []
        ranked = await client.search("qqq kettle zebra")
        assert [passage.path for passage in ranked[:3]] == ["two.txt", "three.txt", "one.txt"]
        assert ranked[0].score == 9
        assert {passage.path for passage in ranked} == {passage.path for passage in plain}
        pinned = await client.search("qqq kettle zebra", pinned_paths=["one.txt"])
        assert [passage.path for passage in pinned[:2]] == ["one.txt", "two.txt"]
        assert not any("one.txt" in text for text in embedder.reranked[-1])


async def test_only_the_best_candidates_are_given_to_it(start, letters, embedder):
    async with start(settings(embedder, candidates=2)) as client:
        await client.index(letters)
        found = await client.search("qqq kettle zebra")
        assert [len(texts) for texts in embedder.reranked] == [2]
        assert len(found) >= 3, "the rest follows"


async def test_a_reranker_that_fails_is_left_out_unless_it_was_asked_for(start, letters, embedder):
    async with start(settings(embedder)) as client:
        await client.index(letters)
        embedder.failure = grpc.StatusCode.UNAVAILABLE
        assert await client.search("qqq kettle zebra")
        with pytest.raises(SluiceError) as failure:
            await client.search("qqq kettle zebra", rerank=True)
        assert failure.value.reason == ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE


async def test_asking_for_one_that_is_not_configured_names_the_setting(client, source):
    await client.index(source)
    with pytest.raises(SluiceError) as failure:
        await client.search("tea", rerank=True)
    assert failure.value.reason == ErrorReason.ERROR_REASON_INTEGRATION_MISCONFIGURED
    assert failure.value.metadata["setting"] == "retrieval.reranker.model"


@pytest.mark.parametrize(
    ("reranker", "named"),
    [({"model": "judge"}, "retrieval.reranker.model"), ({"model": "a/b", "candidates": 0}, "candidates")],
)
async def test_mistakes_of_the_configuration_are_named(reranker, named, start, embedder):
    with pytest.raises(ConfigError, match=named):
        async with start({"gateway": {"address": embedder.address}, "reranker": reranker}):
            pass
    with pytest.raises(ConfigError, match=r"retrieval\.gateway\.address"):
        async with start({"reranker": {"model": "a/b"}}):
            pass
