"""Reads a git repository: fetched bare and shallow, read blob by blob, never checked out.

Nothing of the user's or the system's git configuration is used, and nothing that a repository could run: no hooks, no
submodules, no filters, no helpers. A remote is fetched over https alone, without redirects, from the addresses that
were checked.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from sluice_retrieval.children.runtime import die_with_parent
from sluice_retrieval.sources.classify import HIDDEN_FOLDERS, VENDORED_FOLDERS, skip_by_name
from sluice_retrieval.sources.found import Budget, SeenFile, exceeded, unreadable
from sluice_retrieval.sources.patterns import PathFilter

_REGULAR: Final = ("100644", "100755", "100664")
_SYMLINK: Final = "120000"
_POLL_SECONDS: Final = 0.2


class GitReader:
    """One repository, fetched into a folder of its own. A `Source` once `fetch` returned."""

    def __init__(
        self,
        folder: Path,
        budget: Budget,
        *,
        host: str,
        port: int,
        addresses: Sequence[str],
        ca_file: str | None = None,
        filters: PathFilter,
    ) -> None:
        """`host` is empty for a repository on this machine. `ca_file` None: the system's certificates."""
        self._folder = folder
        self._budget = budget
        self._remote = bool(host)
        self._ca_file = ca_file
        self._filters = filters
        self._commit = ""
        self._reader: subprocess.Popen[bytes] | None = None
        self._resolve = f"{host}:{port}:{','.join(addresses)}" if host else ""

    def fetch(self, url: str, revision: str | None) -> str:
        """Fetches one commit and returns its id. Raises ChildFailure: SOURCE_UNREADABLE, SOURCE_LIMIT_EXCEEDED."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._run("init", "--bare", "--quiet", "--template=", ".") != 0:
            raise unreadable("git cannot make a repository")
        wanted = revision or "HEAD"
        fetch = ("fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head")
        code = self._run(*fetch, "--end-of-options", url, f"{wanted}:refs/sluice/wanted")
        if code != 0:
            raise unreadable(
                "the repository, or the revision in it, cannot be fetched: check the address, that it is public, and "
                "that the revision is a branch, a tag or a full commit id"
            )
        commit = self._output("rev-parse", "--verify", "--quiet", "refs/sluice/wanted^{commit}").decode().strip()
        if not commit:
            raise unreadable("the revision is not a commit")
        self._commit = commit
        return commit

    def files(self) -> Iterator[SeenFile]:
        """Yields the files of the commit that may count, and counts the others in the budget by reason."""
        with self._start("ls-tree", "-r", "-z", "-l", "--full-tree", self._commit) as listing:
            assert listing.stdout is not None
            for row in _records(listing.stdout):
                self._budget.check_time()
                head, _, name = row.partition(b"\t")
                mode, kind, blob, size = head.decode().split()
                try:
                    path = name.decode()
                except UnicodeDecodeError:
                    self._budget.skipped["bad_name"] += 1
                    continue
                reason = self._skip(path, mode, kind, size, self._filters)
                if reason is not None:
                    self._budget.skipped[reason] += 1
                    continue
                yield SeenFile(path, int(size), f"git:{blob}", blob)

    def read(self, path: str, ref: str) -> bytes | str:
        """Reads a blob."""
        if self._reader is None:
            self._reader = self._start("cat-file", "--batch", stdin=subprocess.PIPE)
        assert self._reader.stdin is not None
        assert self._reader.stdout is not None
        self._reader.stdin.write(ref.encode() + b"\n")
        self._reader.stdin.flush()
        data = _read_object(self._reader.stdout)
        return "unreadable" if data is None else data

    def close(self) -> None:
        """Ends git."""
        if self._reader is not None:
            with self._reader:
                self._reader.kill()

    def _skip(self, path: str, mode: str, kind: str, size: str, filters: PathFilter) -> str | None:
        if kind == "commit":
            return "submodule"
        if mode == _SYMLINK:
            return "symlink"
        if mode not in _REGULAR:
            return "special"
        *folders, name = path.split("/")
        if any(part in ("", ".", "..") for part in (*folders, name)) or "\\" in path:
            return "bad_name"
        self._budget.check_depth(len(folders) + 1)
        if any(folder in HIDDEN_FOLDERS for folder in folders):
            return "hidden"
        if any(folder in VENDORED_FOLDERS and not filters.names(folder) for folder in folders):
            return "vendored"
        if not filters.takes(path):
            return "excluded"
        if int(size) > self._budget.max_file_bytes:
            return "too_large"
        return skip_by_name(path)

    def _settings(self) -> list[str]:
        settings = {
            "core.hooksPath": os.devnull,
            "core.symlinks": "false",
            "core.fsmonitor": "false",
            "core.askPass": "",
            "credential.helper": "",
            "fetch.recurseSubmodules": "false",
            "gc.auto": "0",
            "maintenance.auto": "false",
            "http.followRedirects": "false",
            "http.proxy": "",
            "protocol.allow": "never",
            "protocol.https.allow" if self._remote else "protocol.file.allow": "always",
            "safe.directory": "*",
        }
        if self._resolve:
            # The name was looked up and checked once; git must not look it up again and find another place.
            settings["http.curloptResolve"] = self._resolve
        if self._ca_file is not None:
            settings["http.sslCAInfo"] = self._ca_file
        return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def _start(self, *words: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._folder),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_CEILING_DIRECTORIES": str(self._folder.parent),
        }
        for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            if name in os.environ:
                environment[name] = os.environ[name]
        try:
            return subprocess.Popen(
                ["git", *self._settings(), *words],
                cwd=self._folder,
                env=environment,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                preexec_fn=die_with_parent,  # noqa: PLW1509  # children of this child start no threads before this
            )
        except FileNotFoundError:
            raise unreadable("git is not installed where the retrieval service runs") from None

    def _run(self, *words: str) -> int:
        """Runs git to its end within the budget of time and bytes."""
        process = self._start(*words)
        try:
            while True:
                left = self._budget.check_time()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(min(left, _POLL_SECONDS))
                if _bytes_below(self._folder) > self._budget.max_total_bytes:
                    raise exceeded("max_total_bytes", f"more than {self._budget.max_total_bytes} bytes to fetch")
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def _output(self, *words: str) -> bytes:
        with self._start(*words) as process:
            assert process.stdout is not None
            return process.stdout.read(4096)


def _records(stream: IO[bytes]) -> Iterator[bytes]:
    """Yields what NUL ends."""
    rest = b""
    while piece := stream.read(65536):
        *whole, rest = (rest + piece).split(b"\0")
        yield from whole


def _read_object(stream: IO[bytes]) -> bytes | None:
    """Reads one answer of `cat-file --batch`."""
    head = stream.readline().split()
    if len(head) != 3:
        return None
    data = stream.read(int(head[2]))
    stream.read(1)
    return data


def _bytes_below(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(path) / name).lstat().st_size
    return total
