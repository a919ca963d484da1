"""Redis and Postgres for the tests: the servers of this machine, or those of Debian's packages.

`scripts/servers.py` says what is found. With `--fetch` it gets what is missing: it downloads the packages with apt and
unpacks them into build/servers, and installs nothing, so it needs no root and changes nothing of the system. Where
that cannot be done it says why and still succeeds: the tests that need the server are skipped with that reason.

Tests run the servers through tests/servers.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
CACHE: Final = ROOT / "build" / "servers"
_SECONDS: Final = 300.0
"""Bound of one command: where the network is cut, apt gives up long before."""
_APT: Final = (
    *("-o", "APT::Sandbox::User="),  # into a folder that the user `_apt` may not enter
    *("-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20"),
)
_LEFT_OUT: Final = re.compile(r"libc6|libc-|locales|libllvm|libz3|(lib)?perl|debconf|adduser|dpkg|usrmerge|.*-common$")
"""Packages that a running server does without: the system's own C library, what sets a system up, LLVM."""


@dataclass(frozen=True)
class Server:
    """A server, and where it may lie."""

    name: str
    package: str
    programs: tuple[str, ...]
    folders: tuple[str, ...]
    """Below `/`, or below where packages were unpacked; the last one that has the programs is taken."""


REDIS: Final = Server("redis", "redis-server", ("redis-server",), ("usr/bin",))
POSTGRES: Final = Server("postgres", "postgresql", ("initdb", "postgres"), ("usr/lib/postgresql/*/bin",))
SERVERS: Final = (REDIS, POSTGRES)


@dataclass(frozen=True)
class Programs:
    """The programs of a server."""

    folder: Path
    root: Path | None = None
    """Where its packages were unpacked; None if they are installed."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the programs need in their environment."""


def find(server: Server) -> Programs | None:
    """Returns the programs of a server: those on PATH, those of an installed package, or those that were fetched."""
    on_path = shutil.which(server.programs[0])
    if on_path is not None:
        return Programs(Path(on_path).resolve().parent)
    installed = _below(Path("/"), server)
    if installed is not None:
        return Programs(installed)
    return at(CACHE / server.name, server)


def at(root: Path, server: Server) -> Programs | None:
    """Returns the programs of a server whose packages were unpacked into a folder; None if they are not there."""
    folder = _below(root, server)
    if folder is None:
        return None
    libraries = sorted({str(path.parent) for path in root.rglob("*.so*") if path.parent.name.endswith("-linux-gnu")})
    return Programs(folder, root, {"LD_LIBRARY_PATH": ":".join(libraries)} if libraries else {})


def why_not(server: Server) -> str:
    """Returns why a server is not there, and what brings it."""
    try:
        reason = _reason(server).read_text(encoding="utf-8")
    except FileNotFoundError:
        reason = "it is not installed"
    return f"needs {server.name}: {reason}; `scripts/servers.py --fetch` or Debian's package {server.package} brings it"


def _below(root: Path, server: Server) -> Path | None:
    folders = [folder for pattern in server.folders for folder in sorted(root.glob(pattern))]
    whole = [folder for folder in folders if all((folder / program).is_file() for program in server.programs)]
    return whole[-1] if whole else None


def _reason(server: Server) -> Path:
    return CACHE / f"{server.name}.missing"


class CannotFetchError(Exception):
    """The packages cannot be had; the text says why."""


def fetch(server: Server) -> Programs:
    """Unpacks the packages of a server into the cache. Raises CannotFetchError."""
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise CannotFetchError(f"this system has no {tool}")
    staging = CACHE / f"{server.name}.new"
    shutil.rmtree(staging, ignore_errors=True)
    downloads = staging / "packages"
    downloads.mkdir(parents=True)
    try:
        try:
            _download(server, downloads, ())
        except CannotFetchError:
            # The system's lists are missing or old. Lists of our own leave it as it is, and need no root.
            lists = _own_lists()
            _run("apt-get", *_APT, *lists, "update")
            _download(server, downloads, lists)
        for package in sorted(downloads.glob("*.deb")):
            _run("dpkg", "-x", str(package), str(staging))
        shutil.rmtree(downloads)
        if at(staging, server) is None:
            raise CannotFetchError(f"its packages do not hold {' and '.join(server.programs)}")
        shutil.rmtree(CACHE / server.name, ignore_errors=True)
        staging.rename(CACHE / server.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    found = at(CACHE / server.name, server)
    assert found is not None
    return found


def _own_lists() -> tuple[str, ...]:
    state, cache = CACHE / "apt" / "lists", CACHE / "apt" / "cache"
    for folder in (state, cache):
        (folder / "partial").mkdir(parents=True, exist_ok=True)
    return "-o", f"Dir::State::Lists={state}", "-o", f"Dir::Cache={cache}"


def _download(server: Server, folder: Path, lists: Iterable[str]) -> None:
    plan = _run("apt-get", *_APT, *lists, "install", "--simulate", "--no-install-recommends", server.package)
    names = [name for name in re.findall(r"^Inst (\S+)", plan, re.MULTILINE) if not _LEFT_OUT.match(name)]
    _run("apt-get", *_APT, *lists, "download", *names, folder=folder)


def _run(*command: str, folder: Path | None = None) -> str:
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotFetchError(f"{command[0]} failed: {type(error).__name__}") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()
        raise CannotFetchError(f"{command[0]} failed: {said[0].strip()[:200] if said else 'it does not say why'}")
    return done.stdout


def _get(server: Server) -> str:
    """Fetches a server if it is missing, and returns what to say of it."""
    found = find(server)
    if found is not None:
        return _line(server, found)
    try:
        found = fetch(server)
    except CannotFetchError as error:
        _reason(server).write_text(str(error), encoding="utf-8")
        return f"servers: no {server.name}, so tests that need it are skipped: {error}"
    _reason(server).unlink(missing_ok=True)
    return _line(server, found)


def _line(server: Server, found: Programs) -> str:
    if found.root is None:
        return f"servers: {server.name} of this system, in {found.folder}"
    return f"servers: {server.name} of Debian's packages, in {found.folder.relative_to(ROOT)}"


def main(arguments: list[str]) -> int:
    """Says of each server where it is, after fetching what is missing if `--fetch` is given; 2 for unknown arguments."""
    if arguments not in ([], ["--fetch"]):
        print("usage: scripts/servers.py [--fetch]", file=sys.stderr)
        return 2
    if not arguments:
        for server in SERVERS:
            found = find(server)
            print(f"servers: {why_not(server)}" if found is None else _line(server, found))
        return 0
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run in this tree may be fetching
        for server in SERVERS:
            print(_get(server), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
