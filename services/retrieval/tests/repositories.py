"""Repositories made from nothing, and limits to read them within."""

import os
import subprocess
from pathlib import Path
from typing import Any

from sluice_retrieval.sources.found import Budget
from sluice_retrieval.sources.git import GitReader
from sluice_retrieval.sources.git_process import Git
from sluice_retrieval.sources.patterns import PathFilter


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


def make(folder: Path, stream: bytes = b"") -> Path:
    """Makes a bare repository below a folder, of what a stream of `git fast-import` says."""
    made = folder / "made.git"
    run(["git", "init", "-q", "--bare", "--template=", str(made)])
    if stream:
        run(["git", "-C", str(made), "fast-import", "--quiet"], stream)
        run(["git", "-C", str(made), "symbolic-ref", "HEAD", "refs/heads/main"])
    return made


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
