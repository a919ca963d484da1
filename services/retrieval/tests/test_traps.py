"""Folders and repositories that are made of traps: a finished index with counted skips, or one clear error.

Nothing beside the root is ever read: canaries stand around it, and a witness sees who opens them.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sluice.retrieval.v1 import corpus_pb2, corpus_service_pb2
from sluice.task.v1 import task_service_pb2
from sluice_retrieval.children.runtime import ChildFailure
from sluice_retrieval.sources.local import LocalFolder
from sluice_retrieval.sources.patterns import PathFilter

from .canaries import CANARY, watching
from .repositories import budget


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
            while time.monotonic() < end or not outcomes["read"]:
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
