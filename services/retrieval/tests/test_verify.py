"""Whether lines still stand."""

import hashlib

from sluice.chat.v1.passage_pb2 import Passage
from sluice.retrieval.v1 import corpus_pb2


async def test_a_change_on_disk_shows_at_once(client, source):
    await client.index(source)
    (tea, *_), (oil, *_) = await client.search("brew_tea oolong"), await client.search("descale")
    assert await client.verify(tea, oil) == ["VALID", "VALID"]
    path = source / tea.path
    before = path.read_text()
    path.write_text(before.replace("oolong", "sencha"))
    assert await client.verify(tea, oil) == ["CHANGED", "VALID"]
    path.write_text("# a new first line\n" + before)
    assert await client.verify(tea) == ["CHANGED"]
    path.write_text(before)
    assert await client.verify(tea) == ["VALID"]
    path.unlink()
    assert await client.verify(tea) == ["CHANGED"]


async def test_after_a_new_index_the_old_revision_still_counts(client, source):
    await client.index(source)
    (tea, *_), (oil, *_) = await client.search("brew_tea oolong"), await client.search("descale")
    (source / tea.path).write_text("nothing\n")
    await client.index(source)
    assert await client.verify(tea, oil) == ["CHANGED", "VALID"]


async def test_false_claims_and_lost_revisions(client, source):
    await client.index(source)
    (tea, *_) = await client.search("brew_tea oolong")

    def changed(**fields):
        passage = Passage()
        passage.CopyFrom(tea)
        for name, value in fields.items():
            setattr(passage, name, value)
        return passage

    assert await client.verify(
        changed(sha256="0" * 64),
        changed(path="../../etc/passwd"),
        changed(path="nothing.py"),
        changed(end_line=10_000),
        changed(end_line=tea.start_line, start_line=tea.end_line),
        changed(revision="snapshot-0123"),
        changed(corpus="corpora/nothing"),
        tea,
    ) == ["CHANGED"] * 5 + ["REVISION_EXPIRED"] * 2 + ["VALID"]


async def test_the_end_of_the_last_line_may_be_left_out(client, source):
    (source / "dos.txt").write_bytes(b"first\r\nsecond\r\n")
    await client.index(source)
    (found,) = await client.search("second first", filters=corpus_pb2.PathFilters(include=["dos.txt"]))
    for text in ("first\r\nsecond\r\n", "first\r\nsecond\r", "first\r\nsecond"):
        found.sha256 = hashlib.sha256(text.encode()).hexdigest()
        assert await client.verify(found) == ["VALID"]


async def test_a_link_that_takes_the_place_of_a_file_is_not_followed(client, source, tmp_path):
    await client.index(source)
    (oil, *_) = await client.search("descale")
    copy = tmp_path / "elsewhere.txt"
    copy.write_text((source / oil.path).read_text())
    (source / oil.path).unlink()
    (source / oil.path).symlink_to(copy)
    assert await client.verify(oil) == ["CHANGED"]


async def test_for_a_repository_the_visible_revision_counts(client, source, git):
    git(source, "init", "-q", "-b", "main")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "one")
    await client.index(corpus_pb2.GitSource(url=str(source)))
    (tea, *_), (oil, *_) = await client.search("brew_tea oolong"), await client.search("descale")
    (source / tea.path).write_text("nothing\n")
    assert await client.verify(tea, oil) == ["VALID", "VALID"]
    git(source, "commit", "-qam", "two")
    await client.index(corpus_pb2.GitSource(url=str(source)))
    assert await client.verify(tea, oil) == ["CHANGED", "VALID"]


async def test_expired_revisions_are_deleted_with_their_texts(start, source, tmp_path):
    async with start({"keep_revisions_seconds": 0.0}) as client:
        await client.index(source)
        (tea, *_) = await client.search("brew_tea oolong")
        blob = next((tmp_path / ".state" / "retrieval" / "blobs").glob(f"*/*/{tea.blob_sha256}"))
        (source / tea.path).write_text("nothing\n")
        await client.index(source)
        await client.service._sweep_if_idle()
        assert await client.verify(tea) == ["REVISION_EXPIRED"]
        assert not blob.exists()
        assert await client.search("descale")
