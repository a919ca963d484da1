"""A Postgres server for tests, from the binaries that a system's package installs."""

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
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


_AS_USER = "import os, sys; os.setgroups([]); os.setgid({gid}); os.setuid({uid}); os.execv(sys.argv[1], sys.argv[1:])"


def _user() -> pwd.struct_passwd | None:
    """Returns whom to run the server as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    return users.get("postgres") or users["nobody"]


class Postgres:
    """A running server, on a Unix socket alone."""

    def __init__(self, bin_: Path, folder: Path, user: pwd.struct_passwd | None) -> None:
        self._bin, self._folder = bin_, folder
        # By a program of its own, because subprocess forks to change the user, which gRPC's threads do not survive.
        self._as_user = [sys.executable, "-c", _AS_USER.format(gid=user.pw_gid, uid=user.pw_uid)] if user else []

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
        """Starts it, and waits until it takes connections."""
        options = f"-k {self._folder} -c listen_addresses='' -c fsync=off -c shared_buffers=16MB"
        self._control("-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Ends it at once; who is connected loses the connection."""
        self._control("-w", "-m", "immediate", "stop")

    def initialise(self) -> None:
        """Makes its folder."""
        self._run("initdb", "-U", "tester", "--auth=trust", "-N", "--encoding=UTF8", "--locale=C")

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._bin / program), "-D", str(self._folder / "data"), *arguments]
        # Into a file: the server keeps what it is given to write to.
        with (self._folder / "said").open("a+") as said:
            done = subprocess.run(
                command, check=False, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
            if done.returncode:
                said.seek(0)
                raise RuntimeError(f"{program}: {said.read()}")


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
            os.chown(folder, user.pw_uid, user.pw_gid)
        server = Postgres(bin_, folder, user)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
