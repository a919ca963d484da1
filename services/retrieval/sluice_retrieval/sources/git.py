"""Reads a git repository: fetched bare and shallow, read blob by blob, never checked out."""

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from typing import IO, Final

from sluice_retrieval.sources.found import Budget, SeenFile, exceeded, unreadable
from sluice_retrieval.sources.git_fetch import Fetch
from sluice_retrieval.sources.git_process import Git
from sluice_retrieval.sources.patterns import IgnoreRules, PathFilter
from sluice_retrieval.sources.selection import (
    IGNORE_FILE,
    IGNORE_FILE_BYTES,
    ignore_file_too_large,
    skip_file,
    skip_folder,
)

_REGULAR: Final = ("100644", "100755", "100664")
_SYMLINK: Final = "120000"
_MAX_ROW_BYTES: Final = 1 << 20


class _DamagedError(Exception):
    """An object that was fetched is not what its id says."""


class GitReader:
    """One commit of a repository. A `Source` once `fetch` returned."""

    def __init__(self, git: Git, budget: Budget, filters: PathFilter) -> None:
        """`git` is in the folder that the repository is fetched into, and that may hold what an earlier fetch left."""
        self._git = git
        self._budget = budget
        self._filters = filters
        self._fetch = Fetch(git.folder, budget, git.within)
        self._wanted: tuple[str, str | None] = ("", None)
        self._commit = ""
        self._reader: subprocess.Popen[bytes] | None = None

    def fetch(self, url: str, revision: str | None) -> str:
        """Fetches one commit and returns its id. Raises ChildFailure: SOURCE_UNREADABLE, SOURCE_LIMIT_EXCEEDED."""
        self._wanted = (url, revision)
        self._commit = self._fetch.run(url, revision)
        return self._commit

    def files(self) -> Iterator[SeenFile]:
        """Yields the files of the commit that may count, and counts the others in the budget by reason."""
        walk = _Walk(self._budget, self._filters, self._ignore_files(), self._text)
        for row in self._list("-l"):
            self._budget.see()
            head, _, name = row.partition(b"\t")
            mode, kind, blob, size = head.decode().split()
            try:
                path = name.decode()
            except UnicodeDecodeError:
                self._budget.skip("bad_name")
                continue
            file = walk.file(path, mode, kind, blob, size)
            if file is not None:
                yield file

    def read(self, path: str, ref: str) -> bytes | str:
        """Reads a blob. Raises ChildFailure: SOURCE_UNREADABLE."""
        try:
            return self._object(ref)
        except _DamagedError:
            # What an earlier fetch left may have suffered on the disk since.
            self.close()
            if self._fetch.anew(*self._wanted) != self._commit:
                raise unreadable("the repository changed while it was read; index it again") from None
        try:
            return self._object(ref)
        except _DamagedError:
            raise unreadable("what was fetched of the repository cannot be read") from None

    def close(self) -> None:
        """Ends git."""
        if self._reader is not None:
            with self._reader:
                self._reader.kill()
            self._reader = None

    def _ignore_files(self) -> dict[str, str]:
        """Returns the .gitignore files of the commit, as blobs by their folder."""
        found: dict[str, str] = {}
        seen = 0
        for row in self._list():
            self._budget.check_time()
            seen += 1
            if seen > self._budget.max_objects:
                raise exceeded("max_objects", f"more than {self._budget.max_objects} entries to look at")
            head, _, name = row.partition(b"\t")
            self._budget.check_depth(name.count(b"/") + 1)
            folder, _, last = name.rpartition(b"/")
            if last != IGNORE_FILE.encode() or not head.startswith(b"100"):
                continue
            if len(found) >= self._budget.max_files:
                raise exceeded("max_files", f"more than {self._budget.max_files} files")
            found[folder.decode(errors="replace")] = head.split()[2].decode()
        return found

    def _list(self, *options: str) -> Iterator[bytes]:
        """Yields the rows of `ls-tree`, which git writes as they are read. Raises SOURCE_UNREADABLE."""
        with self._git.start("ls-tree", "-r", "-z", *options, "--full-tree", self._commit) as listing:
            assert listing.stdout is not None
            try:
                yield from _records(listing.stdout)
            except BaseException:
                listing.kill()
                raise
        if listing.returncode:
            # Else files that were not listed would be taken for files that are gone.
            raise unreadable("the files of the commit cannot be listed to the end")

    def _text(self, blob: str) -> str:
        """Returns a .gitignore."""
        data = self.read("", blob)
        assert isinstance(data, bytes)
        if len(data) > IGNORE_FILE_BYTES:
            raise ignore_file_too_large()
        return data.decode("utf-8-sig", errors="replace")

    def _object(self, ref: str) -> bytes:
        if self._reader is None:
            self._reader = self._git.start("cat-file", "--batch", stdin=subprocess.PIPE)
        reader = self._reader
        assert reader.stdin is not None
        assert reader.stdout is not None
        try:
            reader.stdin.write(ref.encode() + b"\n")
            reader.stdin.flush()
        except BrokenPipeError:
            raise _DamagedError from None
        head = reader.stdout.readline().split()
        if len(head) != 3 or head[1] != b"blob":
            raise _DamagedError
        most = max(self._budget.max_file_bytes, IGNORE_FILE_BYTES) + 1
        size = int(head[2])
        data = reader.stdout.read(min(size, most))
        if size > most:
            # A .gitignore of any size; what follows is not waited for.
            self.close()
            return data
        if reader.stdout.read(1) != b"\n" or len(data) != size or _blob_id(data, len(ref)) != ref:
            raise _DamagedError
        return data


class _Walk:
    """Goes along the sorted paths of a commit, as one who enters its folders, and counts a folder that is left out once.

    Only the rules on the way to where it is are held.
    """

    def __init__(
        self, budget: Budget, filters: PathFilter, ignore_files: dict[str, str], text: Callable[[str], str]
    ) -> None:
        self._budget = budget
        self._filters = filters
        self._ignore_files = ignore_files
        self._text = text
        self._folders: list[str] = []
        self._rules = [self._within(IgnoreRules(), "")]
        self._skipped: str | None = None
        """The folder that is left out now, with a slash at its end."""

    def file(self, path: str, mode: str, kind: str, blob: str, size: str) -> SeenFile | None:
        """Returns a file that may count; counts the others."""
        if self._skipped is not None:
            if path.startswith(self._skipped):
                return None
            self._skipped = None
        *folders, name = path.split("/")
        self._budget.check_depth(len(folders) + 1)
        if not self._enter(folders):
            return None
        reason = self._skip(path, name, mode, kind, size)
        if reason is not None:
            self._budget.skip(reason)
            return None
        return SeenFile(path, int(size), f"git:{blob}", blob)

    def _enter(self, folders: list[str]) -> bool:
        """Goes to a folder; tells whether it is read."""
        same = 0
        for one, other in zip(self._folders, folders, strict=False):
            if one != other:
                break
            same += 1
        del self._folders[same:], self._rules[same + 1 :]
        for name in folders[same:]:
            inner = "/".join((*self._folders, name))
            reason = skip_folder(inner, name, self._rules[-1], self._filters)
            if reason is not None:
                self._skipped = inner + "/"
                self._budget.skip(reason)
                return False
            self._folders.append(name)
            self._rules.append(self._within(self._rules[-1], inner))
        return True

    def _within(self, rules: IgnoreRules, folder: str) -> IgnoreRules:
        blob = self._ignore_files.get(folder)
        return rules.within(folder, self._text(blob)) if blob is not None else rules

    def _skip(self, path: str, name: str, mode: str, kind: str, size: str) -> str | None:
        if kind == "commit":
            return "submodule"
        if mode == _SYMLINK:
            return "symlink"
        if mode not in _REGULAR:
            return "special"
        reason = skip_file(path, name, self._rules[-1], self._filters)
        if reason is None and int(size) > self._budget.max_file_bytes:
            return "too_large"
        return reason


def _records(stream: IO[bytes]) -> Iterator[bytes]:
    """Yields what NUL ends."""
    rest = b""
    while piece := stream.read(65536):
        *whole, rest = (rest + piece).split(b"\0")
        if len(rest) > _MAX_ROW_BYTES:
            raise exceeded("max_depth", "a path of more than a million characters")
        yield from whole


def _blob_id(data: bytes, length: int) -> str:
    algorithm = hashlib.sha256 if length == 64 else hashlib.sha1
    return algorithm(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
