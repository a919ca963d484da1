"""Passages: the right ones, whole lines, in order, within limits."""

import asyncio
import hashlib

import pytest

from sluice.chat.v1.passage_pb2 import MatchKind
from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_pb2, search_service_pb2
from sluice_kit.errors import SluiceError
from sluice_retrieval.search.standing import asks_for_tests, is_test
from sluice_retrieval.text.lines import estimate_tokens


async def test_a_passage_says_where_it_is_from(client, source):
    corpus = (await client.index(source)).corpus
    passage, *_ = await client.search("how does the TeapotServer brew tea?")
    assert (passage.id, passage.corpus, passage.path) == ("p1", "corpora/docs", "pot/server.py")
    lines = (source / passage.path).read_text().splitlines(keepends=True)
    assert passage.text == "".join(lines[passage.start_line - 1 : passage.end_line])
    assert passage.sha256 == hashlib.sha256(passage.text.encode()).hexdigest()
    assert passage.blob_sha256 == hashlib.sha256((source / passage.path).read_bytes()).hexdigest()
    assert passage.revision == corpus.revision
    assert passage.symbol.startswith("TeapotServer")
    assert (passage.language, passage.match) == ("python", MatchKind.MATCH_KIND_SPARSE)
    assert passage.score > 0


@pytest.mark.parametrize(
    "query",
    ["parse_kettle_config", "parseKettleConfig", "ParseKettle", "parsing the config of kettles", "KETTLE config"],
)
async def test_identifiers_are_found_by_their_parts(client, source, query):
    await client.index(source)
    assert (await client.search(query))[0].symbol == "parse_kettle_config"


@pytest.mark.parametrize("query", ["zeppelin", "the", "?!", "  ", "\x00", "🫖"])
async def test_nothing_found_is_an_empty_list(client, source, query):
    await client.index(source)
    assert await client.search(query) == []


async def test_a_long_query_is_shortened(client, source):
    await client.index(source)
    passages = await client.search("brew_tea " + " ".join(f"zz{number}" for number in range(9000)))
    assert passages[0].path in ("README.md", "pot/server.py")


async def test_filters_at_search(client, source):
    await client.index(source)

    async def found(*include, exclude=()):
        filters = corpus_pb2.PathFilters(include=include, exclude=exclude)
        return {passage.path for passage in await client.search("kettle tea cup", filters=filters)}

    assert await found() == {"README.md", "notes.txt", "pot/client.py", "pot/server.py"}
    assert await found("pot/") == {"pot/client.py", "pot/server.py"}
    assert await found("*.md", "*.txt") == {"README.md", "notes.txt"}
    assert await found(exclude=["pot"]) == {"README.md", "notes.txt"}
    assert await found("*.py", exclude=["server.py"]) == {"pot/client.py"}
    assert await found("*.rs") == set()
    with pytest.raises(SluiceError) as failure:
        await found("**/**/**/**/**/x")
    assert failure.value.violations[0].field == "filters.include[0]"


async def test_pinned_files_come_first(client, source):
    await client.index(source)
    passages = await client.search("brew tea minutes", pinned_paths=["notes.txt", "pot/client.py", "nothing.txt"])
    kinds = [(passage.path, passage.match) for passage in passages]
    assert {path for path, kind in kinds[:2]} == {"notes.txt", "pot/client.py"}
    assert all(kind == MatchKind.MATCH_KIND_PINNED for _, kind in kinds[:2])
    assert all(kind == MatchKind.MATCH_KIND_SPARSE for _, kind in kinds[2:])
    assert [passage.id for passage in passages] == [f"p{number}" for number in range(1, len(passages) + 1)]


async def test_top_k_and_budget(client, source):
    await client.index(source)
    everything = await client.search("kettle tea cup")
    assert len(everything) > 2
    assert await client.search("kettle tea cup", top_k=1) == everything[:1]
    budget = 60
    within = await client.search("kettle tea cup", token_budget=budget)
    assert 0 < sum(estimate_tokens(passage.text) for passage in within) <= budget
    (cut,) = await client.search("steeps leaves TeapotServer", top_k=1, token_budget=12)
    assert cut.text
    assert estimate_tokens(cut.text) <= 12
    assert await client.verify(cut) == ["VALID"]
    assert await client.search("kettle tea cup", token_budget=1) == []


async def test_neighbours_are_merged_and_copies_dropped(client, source):
    methods = "".join(
        f"    def wash_{name}(self):\n        return self.sink.rinse('{name}', {number})\n\n"
        for number, name in enumerate(("saucer", "spoon", "strainer"))
    )
    body = f"class Dishwasher:\n    {'x' * 900} = 1\n\n{methods}"
    for name in ("dishes.py", "copy_of_dishes.py"):
        (source / name).write_text(body)
    await client.index(source)
    passages = await client.search("wash saucer spoon strainer rinse")
    assert len([passage for passage in passages if "wash_spoon" in passage.text]) == 1
    assert "wash_saucer" in passages[0].text
    assert "wash_strainer" in passages[0].text
    assert passages[0].symbol == "Dishwasher"


async def test_what_is_tested_comes_before_its_test(client, source):
    (source / "pot" / "spout.py").write_text("def tilt_spout(degrees):\n    lid.hold()\n    return degrees * flow\n")
    (source / "tests").mkdir()
    (source / "tests" / "test_spout.py").write_text("def test_tilt_spout():\n    assert tilt_spout(9) == 9 * flow\n")
    await client.index(source)
    asked = [passage.path for passage in await client.search("how is the spout tilted by degrees")]
    assert asked[:2] == ["pot/spout.py", "tests/test_spout.py"]
    asked = [passage.path for passage in await client.search("test tilt spout")]
    assert asked[:2] == ["tests/test_spout.py", "pot/spout.py"]
    pinned = await client.search("how is the spout tilted by degrees", pinned_paths=["tests/test_spout.py"])
    assert pinned[0].path == "tests/test_spout.py"


@pytest.mark.parametrize(
    "path",
    [
        "tests/a.py",
        "x/__tests__/a.ts",
        "a/test_b.py",
        "conftest.py",
        "b_test.go",
        "a.spec.ts",
        "a.test.js",
        "FooTest.java",
    ],
)
def test_files_of_tests_are_known_by_their_names(path):
    assert is_test(path)


@pytest.mark.parametrize("path", ["a.py", "contest.py", "latest.go", "testimony/a.py", "attest.rs", "protest_a.py"])
def test_other_files_are_none(path):
    assert not is_test(path)


def test_a_question_about_tests_is_known_by_its_words():
    assert asks_for_tests("where is the pump tested?")
    assert asks_for_tests("fixtures of the mesh")
    assert not asks_for_tests("what is the latest request")


LICENCE = """# Copyright 2016 A Person
#
# Licensed under the Teapot License, Version 2.0: you may not pour except in compliance with its conditions.
# Unless required by applicable law, tea is distributed without warranties or conditions of any kind.
"""


async def test_the_licence_of_every_file_stands_behind_what_the_file_is_about(client, source):
    for name in ("strainer", "saucer", "spoon"):
        (source / f"{name}.py").write_text(f"{LICENCE}\nimport {name}s\n\n\ndef polish():\n    return {name}s.shine\n")
    (source / "lid.py").write_text(
        f"{LICENCE}\n\ndef steam(lid):\n    # Conditions: the lid is on, and hot.\n    hiss()\n"
    )
    await client.index(source)

    def first(passages):
        return passages[0].path, "Copyright" in passages[0].text

    found = await client.search("under which conditions is there steam without a lid")
    assert first(found) == ("lid.py", False)
    assert [passage.score for passage in found] == sorted((passage.score for passage in found), reverse=True)
    assert not any(
        "Copyright" in passage.text
        for passage in (await client.search("applicable conditions for tea in a kettle"))[:1]
    )
    assert first(await client.search("conditions of the license"))[1]
    pinned = await client.search("under which conditions is there steam", pinned_paths=["spoon.py"])
    assert pinned[0].path == "spoon.py"


async def test_a_long_section_is_found_by_its_heading(client, source):
    steps = " ".join(f"Then do step {number} with the kettle and wait for water." for number in range(60))
    (source / "GUIDE.md").write_text(f"# Guide\n\n## Descale the machine\n\n{steps[:1500]}\n")
    for number in range(4):
        (source / f"pump{number}.py").write_text(f"def machine_{number}(x):\n    return x\n")
    await client.index(source)
    assert (await client.search("how do I descale a machine"))[0].symbol == "Guide > Descale the machine"


async def test_several_corpora_at_once(client, source, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "coffee.md").write_text("# Coffee\n\nGrind the beans before the kettle boils.\n")
    await client.index(source)
    await client.index(other, "beans")
    passages = await client.search("kettle", "docs", "beans")
    assert {passage.corpus for passage in passages} == {"corpora/docs", "corpora/beans"}
    assert [passage.score for passage in passages] == sorted((passage.score for passage in passages), reverse=True)


async def test_corpora_that_are_not_ready_or_not_there(client):
    await client.create()
    with pytest.raises(SluiceError) as failure:
        await client.search("tea")
    assert failure.value.reason == ErrorReason.ERROR_REASON_CORPUS_NOT_READY
    with pytest.raises(SluiceError) as failure:
        await client.search("tea", "nothing")
    assert failure.value.reason == ErrorReason.ERROR_REASON_NOT_FOUND


async def test_dense_needs_an_embedder(client, source):
    await client.index(source)
    with pytest.raises(SluiceError) as failure:
        await client.search("tea", mode=search_service_pb2.SEARCH_MODE_DENSE)
    assert failure.value.violations[0].field == "mode"
    hybrid = await client.search("brew tea", mode=search_service_pb2.SEARCH_MODE_HYBRID)
    assert hybrid == await client.search("brew tea", mode=search_service_pb2.SEARCH_MODE_SPARSE)


async def test_tenants_see_and_change_nothing_of_each_other(client, source, tmp_path):
    await client.index(source)
    before = await client.search("kettle tea")
    other = client.as_tenant("other & co/../x")
    with pytest.raises(SluiceError) as failure:
        await other.search("kettle tea")
    assert failure.value.reason == ErrorReason.ERROR_REASON_NOT_FOUND
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for number in range(40):
        (theirs / f"{number}.md").write_text(f"# Kettle {number}\n\nkettle tea kettle tea {number}\n")
    await other.index(theirs)
    assert await client.search("kettle tea") == before
    assert {passage.path for passage in await other.search("kettle tea", top_k=100)} <= {
        f"{number}.md" for number in range(40)
    }
    assert await other.verify(before[0]) == ["REVISION_EXPIRED"]
    task = await client.start_index(source)
    with pytest.raises(SluiceError) as failure:
        await other.ended(task.name)
    assert failure.value.reason == ErrorReason.ERROR_REASON_NOT_FOUND


async def test_while_an_index_is_made_the_old_one_answers(start, source, embedder):
    async with start({"gateway": {"address": embedder.address}}) as client:
        target = Target(provider="test", model="words")
        await client.create(embedder=corpus_pb2.Embedder(target=target, dimensions=32))
        first = await client.index(source)
        words = search_service_pb2.SEARCH_MODE_SPARSE
        before = await client.search("descale kettle", mode=words)
        (source / "notes.txt").write_text("Polish the samovar.\n")
        embedder.called.clear()
        embedder.gate.clear()
        task = await client.start_index(source)
        await asyncio.wait_for(embedder.called.wait(), 60)
        assert await client.search("descale kettle", mode=words) == before
        assert await client.search("samovar", mode=words) == []
        assert (await client.get()).revision == first.corpus.revision
        embedder.gate.set()
        await client.ended(task.name)
        assert [passage.path for passage in await client.search("samovar", mode=words)] == ["notes.txt"]


async def test_an_index_that_was_lost_is_named_and_made_again(client, source, tmp_path):
    await client.index(source)
    before = await client.search("brew tea")
    await client.service.store.keep_only([])
    with pytest.raises(SluiceError) as failure:
        await client.search("brew tea")
    assert failure.value.reason == ErrorReason.ERROR_REASON_STORE_UNAVAILABLE
    assert "index it again" in failure.value.message
    await client.index(source)
    assert await client.search("brew tea") == before


async def test_a_text_that_was_damaged_is_left_out(client, source, tmp_path):
    await client.index(source)
    (oil, *_) = await client.search("descale")
    blob = next((tmp_path / ".state" / "retrieval" / "blobs").glob(f"*/*/{oil.blob_sha256}"))
    blob.write_bytes(b"Descale the kettle never.\n")
    client.service._search._searcher._texts._cache.clear()
    assert await client.search("descale") == []
    assert await client.verify(oil) == ["REVISION_EXPIRED"]
