"""A Postgres server for tests, from the binaries that a system's package installs."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg

_PACKAGED = "/usr/lib/postgresql"


def binaries() -> Path | None:
    """Returns the folder with `initdb` and `postgres`; None where the package `postgresql` is not installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(Path(_PACKAGED).glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


WHY_NOT = "its binaries are neither on PATH nor under /usr/lib/postgresql (Debian's package `postgresql`)"


def _user() -> str | None:
    """Returns whom to run the server as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class Postgres:
    """A running server, on a Unix socket alone."""

    def __init__(self, bin_: Path, folder: Path, user: str | None) -> None:
        self._bin, self._folder, self._user = bin_, folder, user
        self._process: subprocess.Popen[str] | None = None

    def url(self, database: str) -> str:
        """Returns the URL of one of its databases."""
        return f"postgresql://tester@/{database}?host={self._folder}"

    def new_database(self) -> str:
        """Makes an empty database and returns its URL."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def start(self) -> None:
        """Starts it, and waits until it says that it takes connections."""
        command = [str(self._bin / "postgres"), "-D", str(self._folder / "data"), "-k", str(self._folder)]
        command += ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, user=self._user
        )
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            if "ready to accept connections" in line:
                return
        raise RuntimeError("".join(said))

    def stop(self) -> None:
        """Ends it at once; who is connected loses the connection."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            process.communicate()

    def initialise(self) -> None:
        """Makes its folder."""
        command = [str(self._bin / "initdb"), "-D", str(self._folder / "data"), "-U", "tester", "--auth=trust", "-N"]
        subprocess.run([*command, "--encoding=UTF8", "--locale=C"], check=True, capture_output=True, user=self._user)


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """Runs a server for the length of the block."""
    bin_ = binaries()
    assert bin_ is not None, WHY_NOT
    user = _user()
    # Short, because a socket's path may not be long; and not under a folder that only this user may enter.
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if user is not None:
            shutil.chown(folder, user)
        server = Postgres(bin_, folder, user)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
