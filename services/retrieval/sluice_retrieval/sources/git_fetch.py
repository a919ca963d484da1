"""Fetches one commit into a bare repository of our own, and as a difference where an earlier one was kept."""

import contextlib
import hashlib
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sluice_retrieval.sources.found import Budget, exceeded, unreadable
from sluice_retrieval.sources.git_process import Git

_REF: Final = "refs/sluice/wanted"
_URL_FILE: Final = "sluice-url"
_PACK_HEAD: Final = struct.Struct(">4sII")
_PIECE: Final = 1 << 20
_MAX_PACKS: Final = 32
"""Packs of a repository that is kept; each fetch adds one, with what nobody needs any more."""
_CANNOT: Final = (
    "the repository, or the revision in it, cannot be fetched: check the address, that it is public or that the "
    "credential may read it, and that the revision is a branch, a tag or a full commit id"
)


class Fetch:
    """Brings one commit here. The folder is a whole repository, or is not there: a new one is made beside it."""

    def __init__(self, folder: Path, budget: Budget, make_git: Callable[[Path], Git]) -> None:
        """`folder` is what an earlier fetch left, if anything, and is what this one leaves."""
        self._folder = folder
        self._budget = budget
        self._make_git = make_git

    def run(self, url: str, revision: str | None) -> str:
        """Returns the id of the commit. Raises ChildFailure: SOURCE_UNREADABLE, SOURCE_LIMIT_EXCEEDED."""
        if self._is_of_use(url):
            commit = self._again(url, revision)
            if commit is not None:
                return commit
        return self.anew(url, revision)

    def anew(self, url: str, revision: str | None) -> str:
        """Fetches everything, whatever was kept. Raises as `run`."""
        making = self._folder.with_name(f"{self._folder.name}.new")
        _remove(making)
        making.mkdir(parents=True)
        try:
            git = self._make_git(making)
            if not git.run("init", "--bare", "--quiet", "--template=", "."):
                raise unreadable("git cannot make a repository")
            if not self._fetch(git, url, revision):
                raise unreadable(_CANNOT)
            commit = _commit(git)
            if not commit:
                raise unreadable("the revision is not a commit")
            self._check(making)
            # Without it, the folder would not be gone on from.
            (making / _URL_FILE).write_text(url, encoding="utf-8")
            _remove(self._folder)
            making.rename(self._folder)
        except BaseException:
            _remove(making)
            raise
        return commit

    def _again(self, url: str, revision: str | None) -> str | None:
        """Fetches what is missing. None if that cannot be told from a repository that is damaged."""
        git = self._make_git(self._folder)
        left = self._budget.max_total_bytes
        if not self._fetch(git, url, revision, patient=True) or _bytes_below(self._folder) > left:
            return None
        commit = _commit(git)
        # A fetch looks at what is new alone. This looks for every object of the commit.
        if not commit or not git.run("rev-list", "--objects", "--quiet", "--max-count=1", "--end-of-options", commit):
            return None
        return commit

    def _fetch(self, git: Git, url: str, revision: str | None, *, patient: bool = False) -> bool:
        """`patient` says that a repository which grew too large is a reason to begin anew, not an error."""
        there = set((git.folder / "objects" / "pack").glob("*.pack"))

        def watch() -> None:
            new = [path for path in (git.folder / "objects" / "pack").glob("*pack*") if path not in there]
            self._count(new)
            held = sum(map(_size, new)) if patient else _bytes_below(git.folder)
            if held > self._budget.max_total_bytes:
                raise self._too_large()

        done = git.fetch(url, f"+{revision or 'HEAD'}:{_REF}", watch)
        watch()
        return done

    def _check(self, folder: Path) -> None:
        if _bytes_below(folder) > self._budget.max_total_bytes:
            raise self._too_large()

    def _count(self, packs: list[Path]) -> None:
        objects = sum(map(_objects_in, packs))
        if objects > self._budget.max_objects:
            raise exceeded("max_objects", f"more than {self._budget.max_objects} objects to fetch")

    def _too_large(self) -> Exception:
        return exceeded("max_total_bytes", f"more than {self._budget.max_total_bytes} bytes to fetch")

    def _is_of_use(self, url: str) -> bool:
        """Tells whether an earlier fetch ended, was from the same address, and is not mostly of the past."""
        try:
            if (self._folder / _URL_FILE).read_text(encoding="utf-8") != url:
                return False
        except (OSError, UnicodeDecodeError):
            return False
        packs = list((self._folder / "objects" / "pack").glob("*.pack"))
        if len(packs) > _MAX_PACKS or sum(map(_objects_in, packs)) > self._budget.max_objects:
            return False
        if _bytes_below(self._folder) > self._budget.max_total_bytes:
            return False
        # A bit that fell over would be seen when its object is read, but not in what git only tells of one, as its size.
        return all(self._is_whole(path) for pack in packs for path in (pack, pack.with_suffix(".idx")))

    def _is_whole(self, path: Path) -> bool:
        """Tells whether a pack, or its index, ends with the hash of what is before that."""
        digest, held = hashlib.sha1(usedforsecurity=False), b""
        try:
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    self._budget.check_time()
                    held += piece
                    digest.update(held[: -digest.digest_size])
                    held = held[-digest.digest_size :]
        except OSError:
            return False
        return held == digest.digest()


def _commit(git: Git) -> str:
    return git.output("rev-parse", "--verify", "--quiet", f"{_REF}^{{commit}}")


def _objects_in(pack: Path) -> int:
    """Returns how many objects the head of a pack promises; 0 if it has no head yet."""
    if pack.suffix == ".idx":
        return 0
    with contextlib.suppress(OSError), pack.open("rb") as file:
        head = file.read(_PACK_HEAD.size)
        if len(head) == _PACK_HEAD.size:
            magic, _, count = _PACK_HEAD.unpack(head)
            return int(count) if magic == b"PACK" else 0
    return 0


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.lstat().st_size
    return 0


def _bytes_below(folder: Path) -> int:
    return sum(_size(Path(path) / name) for path, _, names in os.walk(folder) for name in names)
