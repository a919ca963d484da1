"""What was fetched of a repository is gone on from, unless it is damaged or of another."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sluice.retrieval.v1 import corpus_pb2

from .git_https import GitHandler, serving
from .repositories import budget, make, read_all


@pytest.fixture
def remote(tmp_path, git) -> Iterator[tuple[Path, dict[str, Any], corpus_pb2.GitSource]]:
    """A work tree that is pushed to a server, the settings to fetch from there, and the source."""
    work = tmp_path / "work"
    work.mkdir()
    for number in range(200):
        (work / f"f{number}.py").write_text(f"number = {number}\n{os.urandom(2000).hex()}\n")
    git(work, "init", "-q", "-b", "main")
    git(work, "add", "-A")
    git(work, "commit", "-qm", "one")
    with serving(tmp_path) as (port, certificate):
        git(work, "clone", "-q", "--bare", str(work), str(tmp_path / "served" / "tea.git"))
        git(work, "remote", "add", "origin", str(tmp_path / "served" / "tea.git"))
        values = {"git": {"private_hosts": ["localhost"], "ca_file": str(certificate)}}
        yield work, values, corpus_pb2.GitSource(url=f"https://localhost:{port}/tea.git")


def push(git: Callable[..., str], work: Path, number: int) -> None:
    (work / "f7.py").write_text(f"kettle = {number}\n")
    git(work, "commit", "-qam", "change")
    git(work, "push", "-q", "origin", "+main")


async def test_a_new_commit_is_fetched_as_a_difference(start, remote, git, tmp_path):
    work, values, source = remote
    async with start(values) as client:
        await client.index(source)
        whole = GitHandler.bytes_sent
        push(git, work, 1)
        result = await client.index(source)
        assert GitHandler.bytes_sent - whole < whole / 20
        assert result.corpus.revision == git(work, "rev-parse", "HEAD")
        assert (await client.search("kettle"))[0].path == "f7.py"
        # History that was written anew is no obstacle.
        git(work, "commit", "-q", "--amend", "-m", "other")
        push(git, work, 2)
        assert (await client.index(source)).corpus.revision == git(work, "rev-parse", "HEAD")


def damage(kept: Path, how: str) -> None:
    pack = next((kept / "objects" / "pack").glob("*.pack"))
    if how == "gone":
        for path in (kept / "objects" / "pack").glob("*"):
            path.unlink()
    elif how == "no head":
        (kept / "HEAD").write_text("nonsense")
    elif how == "bits":
        pack.chmod(0o600)
        data = bytearray(pack.read_bytes())
        # Not its head, nor where its trees and commits are: the contents of files.
        for at in range(len(data) // 2, len(data) - 40, 500):
            data[at] ^= 0xFF
        pack.write_bytes(data)
    elif how == "short":
        pack.chmod(0o600)
        pack.write_bytes(pack.read_bytes()[: pack.stat().st_size // 2])
    elif how == "lock":
        (kept / "shallow.lock").touch()


@pytest.mark.parametrize("how", ["gone", "no head", "bits", "short", "lock"])
async def test_what_was_fetched_and_is_damaged_is_fetched_anew(start, remote, git, tmp_path, how):
    work, values, source = remote
    async with start(values) as client:
        await client.index(source)
        (kept,) = (tmp_path / ".state" / "retrieval" / "fetched").glob("*")
        damage(kept, how)
        push(git, work, 1)
        await client.index(source)
        # Every file is read again: nothing is taken over from the index before.
        again = await client.index(source, "again")
        assert again.files == 200
        result = await client.index(source)
        assert (result.files, dict(result.skipped)) == (200, {})


def test_a_damaged_object_is_fetched_anew_while_it_is_read(tmp_path):
    stream = b"".join(
        b"blob\nmark :%d\ndata 5000\n%s\n" % (number + 1, os.urandom(2500).hex().encode()) for number in range(20)
    )
    stream += b"commit refs/heads/main\ncommitter t <t@example.org> 1 +0000\ndata 1\nx\n"
    stream += b"".join(b"M 100644 :%d f%d.py\n" % (number + 1, number) for number in range(20)) + b"\n"
    folder = make(tmp_path, stream)
    whole = read_all(tmp_path, folder, budget())
    kept = tmp_path / "fetched" / "one"
    pack = next((kept / "objects" / "pack").glob("*.pack"))
    pack.chmod(0o600)
    data = bytearray(pack.read_bytes())
    for at in range(len(data) // 2, len(data) - 40, 100):
        data[at] ^= 0xFF
    pack.write_bytes(data)
    assert read_all(tmp_path, folder, budget()) == whole


async def test_another_address_goes_on_from_nothing(client, source, git, tmp_path):
    git(source, "init", "-q", "-b", "main")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "one")
    head = git(source, "rev-parse", "HEAD")
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q", "-b", "main")
    git(other, "commit", "-qm", "one", "--allow-empty")
    await client.index(corpus_pb2.GitSource(url=str(source)))
    # The commit is here, but not there.
    task = await client.ended((await client.start_index(corpus_pb2.GitSource(url=str(other), revision=head))).name)
    assert "SOURCE_UNREADABLE" in str(task.error)
