"""Folders and repositories that are made of traps: a finished index with counted skips, or one clear error.

Nothing beside the root is ever read: canaries stand around it, and a witness sees who opens them.
"""

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice.retrieval.v1 import corpus_pb2, corpus_service_pb2
from sluice.task.v1 import task_service_pb2
from sluice_kit.errors import SluiceError
from sluice_retrieval.children.runtime import ChildFailure
from sluice_retrieval.sources.classify import skip_by_content
from sluice_retrieval.sources.folder import Folder, SkippedFile
from sluice_retrieval.sources.found import Budget
from sluice_retrieval.sources.git import GitReader
from sluice_retrieval.sources.git_process import Git
from sluice_retrieval.sources.local import LocalFolder
from sluice_retrieval.sources.patterns import IgnoreRules, PathFilter
from sluice_retrieval.text.lines import decode, join_lines, split_lines

from .canaries import watching
from .git_https import GitHandler, serving

CANARY = "canary of the kettle: nobody reads this\n"


def budget(**limits: Any) -> Budget:
    values = {
        "max_files": 200_000,
        "max_file_bytes": 1 << 20,
        "max_total_bytes": 1 << 31,
        "max_depth": 64,
        "max_seconds": 300.0,
        "max_objects": 1_000_000,
    }
    return Budget(**(values | limits))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What lies beside the root."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "canary.py").write_text(CANARY)
    (folder / "inner").mkdir()
    (folder / "inner" / "canary.md").write_text(CANARY)
    return folder


@pytest.fixture
def traps(tmp_path: Path, outside: Path) -> Path:
    """A folder with one of everything."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "plain.py").write_text("def plain():\n    return 'kettle'\n")
    for name in ("CON", "NUL", "aux.py", "COM1.txt", "...", "-rf", "$(reboot)", "ünï.md", "a b.py", "~"):
        (root / name).write_text(f"# {name}\n\nA device, on some machines.\n")
    for name in ("new\nline.py", "\x01start.py", "end\x7f", "back\\slash.py"):
        (root / name).write_text("x = 1\n")
    (root / os.fsdecode(b"in\xffvalid.py")).write_text("x = 1\n")
    (root / "Case.py").write_text("upper = 1\n")
    (root / "case.py").write_text("lower = 1\n")
    (root / "mixed.txt").write_bytes(b"one\r\ntwo\nthree\rfour\r\n\r\nfive")
    (root / "broken.txt").write_bytes(b"caf\xe9 au lait, and a good deal of text besides\n" * 4)
    (root / "bytes.txt").write_bytes(bytes(range(1, 256)) * 10)
    (root / "nul.txt").write_bytes(b"text\0text")
    (root / "empty.txt").touch()
    (root / "bom.md").write_bytes(b"\xef\xbb\xbf# Title\n\nText.\n")
    with (root / "sparse.py").open("wb") as file:
        file.truncate(1 << 30)
    (root / "picture.lfs").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456\n")
    (root / "link.py").symlink_to(outside / "canary.py")
    (root / "relative.py").symlink_to("../outside/canary.py")
    (root / "folder").symlink_to(outside)
    (root / "self").symlink_to(".")
    (root / "dangling").symlink_to("nothing")
    (root / "loop").symlink_to("loop")
    (root / "proc").symlink_to("/proc/self")
    (root / ".gitignore").symlink_to(outside / "canary.py")
    os.mkfifo(root / "pipe.py")
    with socket.socket(socket.AF_UNIX) as listener:
        # The path of a socket is short; the folder's own may be long.
        here = Path.cwd()
        os.chdir(root)
        try:
            listener.bind("socket.py")
        finally:
            os.chdir(here)
    (root / "module").mkdir()
    (root / "module" / ".git").write_text(f"gitdir: {outside}\n")
    (root / "module" / "part.py").write_text("part = 1\n")
    (root / "worktree").mkdir()
    (root / "worktree" / ".git").symlink_to(outside)
    deep = root.joinpath(*["d" * 200] * 20)  # a path of four thousand characters
    descriptor = os.open(root, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 200, dir_fd=descriptor)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    file_descriptor = os.open("deep.py", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor)
    os.write(file_descriptor, b"deep = 'kettle'\n")
    os.close(file_descriptor)
    os.close(descriptor)
    assert len(str(deep)) > 4000
    return root


FOUND = {
    "plain.py", "CON", "NUL", "aux.py", "COM1.txt", "...", "-rf", "$(reboot)", "ünï.md", "a b.py", "~", "Case.py",
    "case.py", "mixed.txt", "broken.txt", "bom.md", "module/part.py", "/".join(["d" * 200] * 20 + ["deep.py"]),
}  # fmt: skip
SKIPPED = {
    "bad_name": 5, "binary": 2, "empty": 1, "too_large": 1, "lfs_pointer": 1, "symlink": 9, "special": 2, "hidden": 1,
}  # fmt: skip


async def test_a_folder_of_traps_is_indexed(client, traps, outside):
    with watching(outside) as witness:
        result = await client.index(traps)
        assert (result.files, dict(result.skipped)) == (len(FOUND), SKIPPED)
        listed = await client.call("ListDocuments", corpus_service_pb2.ListDocumentsRequest(corpus="corpora/docs"))
        assert {document.path for document in listed.documents} == FOUND
        for passage in await client.search("canary nobody reads kettle", top_k=100):
            assert CANARY not in passage.text
        found = await client.search("deep kettle")
        assert found[0].path.endswith("deep.py")
        assert await client.verify(found[0]) == ["VALID"]
        # The same again, as one who was here before.
        assert (await client.index(traps)).files == len(FOUND)
        assert witness.seen() == []
        (outside / "canary.py").read_bytes()
        assert witness.seen(), "the witness is awake"


async def test_opens_of_all_processes_stay_below_the_root(tmp_path, traps, outside):
    """What the child opens by path, as the system is asked for it."""
    opened = opens_of(tmp_path, traps)
    beside = [name for name in opened if str(outside) in name or name in ("/proc/self", "../outside/canary.py")]
    assert beside == []
    assert any(name == "plain.py" for name in opened), "what is opened is seen"


def opens_of(tmp_path: Path, root: Path) -> list[str]:
    """Reads a folder in a process of its own under an audit of every open; returns their paths."""
    code = (
        "import sys, os\n"
        "from pathlib import Path\n"
        "from sluice_retrieval.sources.local import LocalFolder\n"
        "from sluice_retrieval.sources.found import Budget\n"
        "from sluice_retrieval.sources.patterns import PathFilter\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, args: seen.append(args[0]) if event in ('open', 'os.scandir') else None)\n"
        f"source = LocalFolder(Path({str(root)!r}), PathFilter(), Budget(10**6, 2**20, 2**31, 64, 60))\n"
        "for file in source.files():\n"
        "    source.read(file.path, file.ref)\n"
        "print('\\0'.join(ascii(name) for name in seen))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    return [name.strip("'") for name in done.stdout.split("\0")]


def test_a_folder_that_is_swapped_for_a_link_while_it_is_read(tmp_path, outside):
    root = tmp_path / "root"
    inner = root / "inner"
    inner.mkdir(parents=True)
    (inner / "canary.py").write_text("inside = 1\n")
    (inner / "canary.md").write_text("inside = 1\n")
    away = tmp_path / "away"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            inner.rename(away)
            inner.symlink_to(outside)
            inner.unlink()
            away.rename(inner)

    thread = threading.Thread(target=swap)
    with watching(outside) as witness:
        thread.start()
        try:
            outcomes = Counter[str]()
            end = time.monotonic() + 2
            while time.monotonic() < end:
                limits = budget()
                source = LocalFolder(root, PathFilter(), limits)
                for file in source.files():
                    data = source.read(file.path, file.ref)
                    assert data == b"inside = 1\n" or isinstance(data, str)
                    outcomes[data if isinstance(data, str) else "read"] += 1
                outcomes.update(limits.skipped)
                source.close()
        finally:
            stop.set()
            thread.join()
        assert witness.seen() == []
    assert outcomes["read"]


@pytest.fixture
def nobody() -> Iterator[None]:
    """Reads as a user without rights; root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_what_may_not_be_read_is_counted(tmp_path, request):
    root = tmp_path / "root"
    (root / "locked").mkdir(parents=True)
    (root / "locked" / "inner.py").write_text("x = 1\n")
    (root / "file.py").write_text("x = 1\n")
    (root / "open.py").write_text("x = 1\n")
    (root / "file.py").chmod(0)
    (root / "locked").chmod(0)
    limits = budget()
    source = LocalFolder(root, PathFilter(), limits)
    request.getfixturevalue("nobody")
    found = {file.path: source.read(file.path, file.ref) for file in source.files()}
    assert found == {"file.py": "unreadable", "open.py": b"x = 1\n"}
    assert limits.skipped == {"unreadable": 1}


@pytest.mark.slow
def test_a_hundred_thousand_tiny_files(tmp_path):
    root = tmp_path / "root"
    for folder in range(100):
        (root / str(folder)).mkdir(parents=True)
        descriptor = os.open(root / str(folder), os.O_RDONLY)
        for number in range(1000):
            file = os.open(f"{number}.py", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor)
            os.write(file, b"x\n")
            os.close(file)
        os.close(descriptor)
    source = LocalFolder(root, PathFilter(), budget())
    assert sum(source.read(file.path, file.ref) == b"x\n" for file in source.files()) == 100_000
    limits = budget(max_objects=50_000)
    with pytest.raises(ChildFailure) as failure:
        list(LocalFolder(root, PathFilter(), limits).files())
    assert failure.value.metadata == {"limit": "max_objects"}


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"max_files": 3}, "max_files"),
        ({"max_total_bytes": 40}, "max_total_bytes"),
        ({"max_depth": 3}, "max_depth"),
        ({"max_objects": 4}, "max_objects"),
        ({"max_seconds": 1e-6}, "max_seconds"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "git"])
async def test_each_limit_has_an_error_of_its_own(start, tmp_path, git, kind, limits, named):
    root = tmp_path / "root"
    (root / "a" / "b" / "c").mkdir(parents=True)
    for number in range(6):
        (root / "a" / "b" / "c" / f"{number}.py").write_text(f"number = {number}\n")
    source: Any = root
    if kind == "git":
        git(root, "init", "-q", "-b", "main")
        git(root, "add", "-A")
        git(root, "commit", "-qm", "one")
        source = corpus_pb2.GitSource(url=str(root))
    async with start({"limits": limits}) as client:
        await client.create()
        task = await client.ended((await client.start_index(source)).name)
        assert task.state == task_service_pb2.TASK_STATE_FAILED
        assert "SOURCE_LIMIT_EXCEEDED" in str(task.error)
        assert named in str(task.error)
        assert str(tmp_path) not in task.error.message


async def test_a_gitignore_that_is_too_large_is_an_error_and_not_passed_over(client, tmp_path, git):
    root = tmp_path / "root"
    root.mkdir()
    (root / "secret.txt").write_text("secret\n")
    (root / ".gitignore").write_text("secret.txt\n" + "#" * 300_000 + "\n")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A", "-f")
    git(root, "commit", "-qm", "one")
    await client.create()
    for source in (root, corpus_pb2.GitSource(url=str(root))):
        task = await client.ended((await client.start_index(source)).name)
        assert "max_ignore_bytes" in str(task.error)


@pytest.mark.slow
def test_patterns_of_a_repository_cannot_stand_still(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / ("a" * 250)).write_text("x\n")
    (root / ".gitignore").write_text("*a" * 60 + "b\n" + "**/" * 30 + "x\n" + "[\n*.log\n")
    (root / "x.log").write_text("x\n")
    limits = budget()
    assert {file.path[0] for file in LocalFolder(root, PathFilter(), limits).files()} == {"a", "."}
    assert limits.skipped == {"ignored": 1}


# Repositories


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """Makes a bare repository from a stream of `git fast-import`, or from trees made by hand."""

    def make(stream: bytes = b"", name: str = "made.git") -> Path:
        folder = tmp_path / name
        run(["git", "init", "-q", "--bare", "--template=", str(folder)])
        if stream:
            run(["git", "-C", str(folder), "fast-import", "--quiet"], stream)
        return folder

    return make


def run(words: list[str], data: bytes = b"") -> bytes:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "GIT_CONFIG_NOSYSTEM": "1"} | {
        f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    return subprocess.run(words, input=data, env=environment, check=True, capture_output=True).stdout


def tree(folder: Path, *entries: tuple[bytes, bytes, str]) -> str:
    """Writes a tree as it is told, whatever git thinks of it; returns its id."""
    data = b"".join(mode + b" " + name + b"\0" + bytes.fromhex(value) for mode, name, value in entries)
    words = ["git", "-C", str(folder), "hash-object", "-w", "-t", "tree", "--literally", "--stdin"]
    return run(words, data).decode().strip()


def blob(folder: Path, data: bytes) -> str:
    return run(["git", "-C", str(folder), "hash-object", "-w", "--stdin"], data).decode().strip()


def commit(folder: Path, made_tree: str) -> None:
    made = run(["git", "-C", str(folder), "commit-tree", "-m", "made", made_tree]).decode().strip()
    run(["git", "-C", str(folder), "update-ref", "refs/heads/main", made])
    run(["git", "-C", str(folder), "symbolic-ref", "HEAD", "refs/heads/main"])


def reader(tmp_path: Path, limits: Budget, filters: PathFilter | None = None) -> GitReader:
    return GitReader(Git(tmp_path / "fetched" / "one", limits), limits, filters or PathFilter())


def read_all(tmp_path: Path, repository: Path, limits: Budget) -> dict[str, bytes | str]:
    source = reader(tmp_path, limits)
    try:
        source.fetch(repository.as_uri(), None)
        found = {file.path: source.read(file.path, file.ref) for file in source.files()}
        limits.take(0, len(found))
        return found
    finally:
        source.close()


def test_a_repository_of_traps(tmp_path, made):
    folder = made()
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
async def test_a_git_bomb(start, made, limits, levels, leaf, named):
    folder = made()
    bomb(folder, levels, leaf)
    async with start({"limits": limits}) as client:
        await client.create()
        task = await client.ended((await client.start_index(corpus_pb2.GitSource(url=str(folder)))).name)
        assert "SOURCE_LIMIT_EXCEEDED" in str(task.error)
        assert named in str(task.error)


def test_a_tree_that_is_deeper_than_git_can_go(tmp_path, made):
    folder = made()
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


def test_a_pack_that_inflates_hugely(tmp_path, made):
    size = 1 << 28
    stream = b"blob\nmark :1\ndata %d\n" % size + bytes(size) + b"\nblob\nmark :2\ndata 6\nx = 1\n\n"
    stream += b"commit refs/heads/main\ncommitter t <t@example.org> 1 +0000\ndata 1\nx\n"
    stream += b"M 100644 :1 huge.py\nM 100644 :2 small.py\n\n"
    folder = made(stream)
    run(["git", "-C", str(folder), "symbolic-ref", "HEAD", "refs/heads/main"])
    del stream
    limits = budget(max_total_bytes=16 << 20)
    assert read_all(tmp_path, folder, limits) == {"small.py": b"x = 1\n"}
    assert limits.skipped == {"too_large": 1}


def test_a_fetch_of_too_much_ends(tmp_path, made):
    stream = b"".join(
        b"blob\nmark :%d\ndata %d\n%s\n" % (number + 1, 100_000, os.urandom(100_000)) for number in range(60)
    )
    stream += b"commit refs/heads/main\ncommitter t <t@example.org> 1 +0000\ndata 1\nx\n"
    stream += b"".join(b"M 100644 :%d f%d.py\n" % (number + 1, number) for number in range(60)) + b"\n"
    folder = made(stream)
    run(["git", "-C", str(folder), "symbolic-ref", "HEAD", "refs/heads/main"])
    for limits, named in (
        (budget(max_total_bytes=3 << 20), "max_total_bytes"),
        (budget(max_objects=40), "max_objects"),
    ):
        with pytest.raises(ChildFailure) as failure:
            read_all(tmp_path, folder, limits)
        assert failure.value.metadata == {"limit": named}
        assert not list((tmp_path / "fetched").glob("*")), "nothing of it stays"


@pytest.mark.slow
def test_a_hundred_thousand_entries_in_one_tree(tmp_path, made):
    folder = made()
    text = blob(folder, b"x\n")
    commit(folder, tree(folder, *((b"100644", b"f%06d.py" % number, text) for number in range(100_000))))
    limits = budget()
    source = reader(tmp_path, limits)
    source.fetch(folder.as_uri(), None)
    files = list(source.files())
    assert len(files) == 100_000
    assert source.read(files[-1].path, files[-1].ref) == b"x\n"
    source.close()


# Repositories on this machine that point elsewhere


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


# What was fetched before


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


def test_a_damaged_object_is_fetched_anew_while_it_is_read(tmp_path, made):
    stream = b"".join(
        b"blob\nmark :%d\ndata 5000\n%s\n" % (number + 1, os.urandom(2500).hex().encode()) for number in range(20)
    )
    stream += b"commit refs/heads/main\ncommitter t <t@example.org> 1 +0000\ndata 1\nx\n"
    stream += b"".join(b"M 100644 :%d f%d.py\n" % (number + 1, number) for number in range(20)) + b"\n"
    folder = made(stream)
    run(["git", "-C", str(folder), "symbolic-ref", "HEAD", "refs/heads/main"])
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


# The same rules for both kinds


async def test_a_folder_and_a_repository_of_it_have_the_same_index(client, tmp_path, git):
    root = tmp_path / "root"
    files = {
        ".gitignore": "\ufeff*.log\nbuild/\n/only-here.txt\n!keep.log\n",
        "a.py": "a = 1\n",
        "only-here.txt": "x\n",
        "x.log": "x\n",
        "keep.log": "x\n",
        "build/out.py": "x = 1\n",
        "pkg/.gitignore": "*.gen\n!special.log\nsub/\n",
        "pkg/a.gen": "x\n",
        "pkg/special.log": "x\n",
        "pkg/other.log": "x\n",
        "pkg/only-here.txt": "x\n",
        "pkg/sub/a.py": "x = 1\n",
        "pkg/$first/a.gen": "x\n",
        "node_modules/m/a.py": "x = 1\n",
        "node_modules/m/b.py": "x = 1\n",
        "vendor/v.py": "x = 1\n",
        "third_party/t.py": "t = 1\n",
        ".idea/i.xml": "<a/>\n",
        "yarn.lock": "x\n",
        "j.min.js": "x\n",
        "docs/a.md": "# A\n\nKettle.\n",
        "docs/b.md": "# B\n\nKettle.\n",
        "docs/drafts/c.md": "# C\n\nKettle.\n",
        "bin": "\0",
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "link").symlink_to("a.py")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A", "-f")
    git(root, "commit", "-qm", "one")
    for number, filters in enumerate(
        (
            corpus_pb2.PathFilters(),
            corpus_pb2.PathFilters(include=["*.md", "third_party/"], exclude=["drafts/"]),
            corpus_pb2.PathFilters(exclude=["docs/*", "!docs/b.md", "*.txt"]),
            corpus_pb2.PathFilters(include=["vendor/**", "pkg"]),
        )
    ):
        results, listed, found = [], [], []
        for kind, source in (("folder", root), ("git", corpus_pb2.GitSource(url=str(root)))):
            corpus = f"{kind}{number}"
            result = await client.index(source, corpus, filters=filters)
            skipped = Counter(dict(result.skipped))
            # The folder that git keeps for itself is in the one alone.
            skipped["hidden"] -= kind == "folder"
            results.append((result.files, +skipped))
            request = corpus_service_pb2.ListDocumentsRequest(corpus=f"corpora/{corpus}")
            listed.append([document.path for document in (await client.call("ListDocuments", request)).documents])
            at_search = corpus_pb2.PathFilters(include=["docs/"], exclude=["a.md"])
            found.append([one.path for one in await client.search("kettle", corpus, filters=at_search)])
        assert results[0] == results[1]
        assert listed[0] == listed[1]
        assert found[0] == found[1]
        assert "docs/a.md" not in found[0]
        if not number:
            assert listed[0] == [
                ".gitignore", "a.py", "docs/a.md", "docs/b.md", "docs/drafts/c.md", "keep.log", "pkg/.gitignore",
                "pkg/only-here.txt", "pkg/special.log",
            ]  # fmt: skip
            assert results[0][1] == {
                "ignored": 7, "vendored": 3, "hidden": 1, "generated": 1, "minified": 1, "binary": 1, "symlink": 1,
            }  # fmt: skip


# Hypothesis


words = st.sampled_from(["a", "b", "ab", "src", "test", "x.py", "y.md", "ünï"])
paths = st.lists(words, min_size=1, max_size=4).map("/".join)
segments = st.one_of(words, st.sampled_from(["*", "*.py", "a*", "?", "**"]))
# What nobody writes is left out: to pathspec, `a/**/` is the folder itself.
patterns = (
    st.tuples(st.booleans(), st.booleans(), st.lists(segments, min_size=1, max_size=3), st.booleans())
    .map(lambda made: "!" * made[0] + "/" * made[1] + "/".join(made[2]) + "/" * made[3])
    .filter(lambda pattern: not pattern.endswith("**/"))
)


def glob(text: str, name: str) -> bool:
    """Matches one part of a path, the slow and plain way."""
    if not text:
        return not name
    if text[0] == "*":
        return any(glob(text[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and (text[0] == "?" or text[0] == name[0]) and glob(text[1:], name[1:])


def along(pattern: list[str], parts: list[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(parts)  # all that is inside
        return any(along(pattern[1:], parts[at:]) for at in range(len(parts) + 1))
    return bool(parts) and glob(pattern[0], parts[0]) and along(pattern[1:], parts[1:])


def matches(pattern: str, path: str, *, is_folder: bool) -> bool:
    """Tells whether a pattern means a file or folder itself."""
    text = pattern.removeprefix("!")
    if text.endswith("/") and not is_folder:
        return False
    text = text.rstrip("/")
    wanted = text.lstrip("/").split("/")
    return along(wanted if "/" in text else ["**", *wanted], path.split("/"))


def model(listed: list[str], path: str) -> bool:
    """Says what patterns say of a file, as git does: the last that means a folder on the way, or the file, decides, and
    what lies in a folder that is meant is meant with it."""
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        said = False
        for pattern in listed:
            if matches(pattern, "/".join(parts[:end]), is_folder=end < len(parts)):
                said = not pattern.startswith("!")
        if said:
            return True
    return False


plain = patterns.map(lambda pattern: pattern.removeprefix("!"))


@settings(max_examples=300, deadline=None)
@given(st.lists(plain, max_size=3), st.lists(plain, max_size=3), paths)
def test_filters_do_as_the_model_does(include, exclude, path):
    wanted = (not include or model(include, path)) and not model(exclude, path)
    assert PathFilter(include, exclude).takes(path) == wanted


@settings(max_examples=300, deadline=None)
@given(st.lists(patterns, min_size=1, max_size=4), paths)
def test_ignore_files_do_as_the_model_does(listed, path):
    rules = IgnoreRules().within("", "\n".join(listed))
    parts = path.split("/")
    ignored = any(rules.ignores("/".join(parts[:end]), is_folder=end < len(parts)) for end in range(1, len(parts) + 1))
    assert ignored == model(listed, path)


@settings(max_examples=200, deadline=None)
@given(st.lists(patterns, min_size=1, max_size=3), paths)
def test_a_folder_that_is_not_entered_has_nothing_that_counts(exclude, path):
    filters = PathFilter((), exclude)
    *folders, _ = path.split("/")
    for end in range(1, len(folders) + 1):
        if filters.skips_folder("/".join(folders[:end])):
            assert not filters.takes(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_characters="\0/"), max_size=20), min_size=1, max_size=5))
def test_any_path_stays_below_the_root(tmp_path_factory, parts):
    beside = tmp_path_factory.mktemp("beside")
    (beside / "canary").write_text(CANARY)
    root = beside / "root"
    root.mkdir()
    (root / "inside").write_text("inside")
    with Folder.root(root) as folder:
        for path in (parts, ["..", *parts], [*parts, "..", "..", "canary"], ["inside", *parts]):
            with contextlib.suppress(SkippedFile):
                assert folder.read_path(path, 1000) == b"inside"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000))
def test_any_contents_are_text_or_are_counted(data):
    reason = skip_by_content("a.txt", data)
    assert reason in (None, "empty", "binary", "generated", "minified", "lfs_pointer")
    if reason is None:
        lines = split_lines(decode(data))
        assert join_lines(lines, 1, len(lines)) == "".join(lines) == decode(data)
