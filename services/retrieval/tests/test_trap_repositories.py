"""Repositories that are made of traps, or that point elsewhere: counted skips, or one clear error."""

import hashlib
import os
import zlib
from pathlib import Path

import pytest

from sluice.retrieval.v1 import corpus_pb2
from sluice_kit.errors import SluiceError
from sluice_retrieval.children.runtime import ChildFailure

from .canaries import CANARY, watching
from .repositories import blob, budget, commit, make, read_all, reader, run, tree


def test_a_repository_of_traps(tmp_path):
    folder = make(tmp_path)
    text, big = blob(folder, b"x = 1\n"), blob(folder, b"y = 2\n" * 300_000)
    link, empty = blob(folder, b"/etc/passwd"), blob(folder, b"")
    module = "1" * 40
    inner = tree(folder, (b"100644", b"config", text))
    commit(
        folder,
        tree(
            folder,
            (b"120000", b".gitignore", link),
            (b"40000", b".git", inner),
            (b"40000", b"..", inner),
            (b"100644", b".", text),
            (b"100644", b"CON", text),
            (b"100644", b"NUL.txt", text),
            (b"100644", b"a" * 4000, text),
            (b"100644", b"big.py", big),
            (b"100644", b"case.py", text),
            (b"100644", b"Case.py", text),
            (b"100644", b"dev\\null", text),
            (b"100644", b"empty", empty),
            (b"100644", b"in\xffvalid", text),
            (b"120000", b"link", link),
            (b"160000", b"module", module),
            (b"100644", b"new\nline", text),
            (b"100755", b"run", text),
            (b"100644", b"with\ttab", text),
            (b"100644", b"with/slash/../../../etc/passwd", text),
        ),
    )
    limits = budget()
    found = read_all(tmp_path, folder, limits)
    assert set(found) == {"CON", "NUL.txt", "a" * 4000, "case.py", "Case.py", "empty", "run"}
    assert limits.skipped == {"symlink": 2, "hidden": 1, "bad_name": 7, "too_large": 1, "submodule": 1}


def bomb(folder: Path, levels: int, leaf: bytes = b"100644") -> None:
    """Trees that each hold the next ten times: with twelve, a million million files in a pack of a few hundred bytes."""
    at = tree(folder, *((leaf, b"f%d.py" % number, blob(folder, b"boom = 1\n")) for number in range(10)))
    for _ in range(levels):
        at = tree(folder, *((b"40000", b"d%d" % number, at) for number in range(10)))
    commit(folder, at)


@pytest.mark.parametrize(
    ("limits", "levels", "leaf", "named"),
    [
        ({}, 12, b"100644", "max_objects"),
        ({}, 12, b"120000", "max_objects"),
        ({"max_depth": 12}, 12, b"120000", "max_depth"),
        ({"max_seconds": 0.5, "max_objects": 10**15}, 12, b"120000", "max_seconds"),
        ({"max_files": 2000}, 4, b"100644", "max_files"),
    ],
)
async def test_a_git_bomb(start, tmp_path, limits, levels, leaf, named):
    folder = make(tmp_path)
    bomb(folder, levels, leaf)
    async with start({"limits": limits}) as client:
        await client.create()
        task = await client.ended((await client.start_index(corpus_pb2.GitSource(url=str(folder)))).name)
        assert "SOURCE_LIMIT_EXCEEDED" in str(task.error)
        assert named in str(task.error)


def test_a_tree_that_is_deeper_than_git_can_go(tmp_path):
    folder = make(tmp_path)
    at = tree(folder, (b"100644", b"f", blob(folder, b"deep\n")))
    for _ in range(8_000):
        data = b"40000 d\0" + bytes.fromhex(at)
        body = b"tree %d\0" % len(data) + data
        at = hashlib.sha1(body, usedforsecurity=False).hexdigest()
        path = folder / "objects" / at[:2] / at[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(zlib.compress(body, 1))
    commit(folder, at)
    with pytest.raises(ChildFailure) as failure:
        read_all(tmp_path, folder, budget())
    assert failure.value.reason in ("SOURCE_LIMIT_EXCEEDED", "SOURCE_UNREADABLE")


def test_a_pack_that_inflates_hugely(tmp_path):
    size = 1 << 28
    stream = b"blob\nmark :1\ndata %d\n" % size + bytes(size) + b"\nblob\nmark :2\ndata 6\nx = 1\n\n"
    stream += b"commit refs/heads/main\ncommitter t <t@example.org> 1 +0000\ndata 1\nx\n"
    stream += b"M 100644 :1 huge.py\nM 100644 :2 small.py\n\n"
    folder = make(tmp_path, stream)
    del stream
    limits = budget(max_total_bytes=16 << 20)
    assert read_all(tmp_path, folder, limits) == {"small.py": b"x = 1\n"}
    assert limits.skipped == {"too_large": 1}


def test_a_fetch_of_too_much_ends(tmp_path):
    stream = b"".join(
        b"blob\nmark :%d\ndata %d\n%s\n" % (number + 1, 100_000, os.urandom(100_000)) for number in range(60)
    )
    stream += b"commit refs/heads/main\ncommitter t <t@example.org> 1 +0000\ndata 1\nx\n"
    stream += b"".join(b"M 100644 :%d f%d.py\n" % (number + 1, number) for number in range(60)) + b"\n"
    folder = make(tmp_path, stream)
    for limits, named in (
        (budget(max_total_bytes=3 << 20), "max_total_bytes"),
        (budget(max_objects=40), "max_objects"),
    ):
        with pytest.raises(ChildFailure) as failure:
            read_all(tmp_path, folder, limits)
        assert failure.value.metadata == {"limit": named}
        assert not list((tmp_path / "fetched").glob("*")), "nothing of it stays"


@pytest.mark.slow
def test_a_hundred_thousand_entries_in_one_tree(tmp_path):
    folder = make(tmp_path)
    text = blob(folder, b"x\n")
    commit(folder, tree(folder, *((b"100644", b"f%06d.py" % number, text) for number in range(100_000))))
    limits = budget()
    source = reader(tmp_path, limits)
    source.fetch(folder.as_uri(), None)
    files = list(source.files())
    assert len(files) == 100_000
    assert source.read(files[-1].path, files[-1].ref) == b"x\n"
    source.close()


def elsewhere(kind: str, root: Path, outside: Path) -> Path:
    """Makes a repository in the root whose objects lie outside."""
    secret, here = outside / "secret", root / "here"
    run(["git", "init", "-q", "-b", "main", str(secret)])
    (secret / "canary.py").write_text(CANARY)
    run(["git", "-C", str(secret), "add", "-A"])
    run(["git", "-C", str(secret), "commit", "-qm", "secret"])
    head = run(["git", "-C", str(secret), "rev-parse", "HEAD"]).decode().strip()
    here.mkdir(parents=True)
    inner = here / ".git"
    if kind == "file":
        inner.write_text(f"gitdir: {secret}/.git\n")
    elif kind == "relative file":
        inner.write_text("gitdir: ../../outside/secret/.git\n")
    elif kind == "link":
        inner.symlink_to(secret / ".git")
    elif kind == "worktree":
        here.rmdir()
        run(["git", "-C", str(secret), "worktree", "add", "-q", str(here), "-b", "other"])
    else:
        run(["git", "init", "-q", "-b", "main", str(here)])
        (inner / "refs" / "heads" / "main").write_text(head + "\n")
        objects = inner / "objects"
        if kind == "alternates":
            (objects / "info" / "alternates").write_text(f"{secret}/.git/objects\n")
        elif kind == "relative alternates":
            (objects / "info" / "alternates").write_text("# of a friend\n../../../../outside/secret/.git/objects\n")
        elif kind == "quoted alternates":
            (objects / "info" / "alternates").write_text(f'"{secret}/.git/objects"\n')
        elif kind == "objects":
            for entry in (objects / "info", objects / "pack", objects):
                entry.rmdir()
            objects.symlink_to(secret / ".git" / "objects")
        elif kind == "one object":
            for path in (secret / ".git" / "objects").glob("??/*"):
                (objects / path.parent.name).mkdir(exist_ok=True)
                (objects / path.parent.name / path.name).symlink_to(path)
        elif kind == "common":
            (inner / "commondir").write_text(f"{secret}/.git\n")
    return here


@pytest.mark.parametrize(
    "kind",
    [
        "file", "relative file", "link", "worktree", "alternates", "relative alternates", "quoted alternates", "objects",
        "one object", "common",
    ],
)  # fmt: skip
async def test_a_repository_that_points_elsewhere_is_refused(start, tmp_path, kind):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    here = elsewhere(kind, root, outside)
    async with start({"allowed_roots": [str(root)]}) as client:
        await client.create()
        with watching(outside) as witness:
            with pytest.raises(SluiceError) as failure:
                await client.start_index(corpus_pb2.GitSource(url=str(here)))
            assert failure.value.metadata == {"rule": "allowed_roots"}
            # To tell where a link leads is not to read what is there.
            assert witness.seen() == []
    async with start({"allowed_roots": [str(tmp_path)]}) as client:
        if kind != "quoted alternates":
            assert (await client.index(corpus_pb2.GitSource(url=str(here)))).files == 1
