"""A Postgres server for tests, on a Unix socket alone."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import tempfile
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg

from scripts.servers import POSTGRES, Programs, at

from .kept import Kept


class Postgres:
    """A running server; every test gets databases of its own."""

    def __init__(self, programs: Programs, folder: Path, user: pwd.struct_passwd | None) -> None:
        self._programs, self._folder, self._user = programs, folder, user
        self._process: Kept | None = None

    def url(self, database: str) -> str:
        """Returns the URL of one of its databases."""
        return f"postgresql://tester@/{database}?host={self._folder}"

    def new_database(self) -> str:
        """Makes an empty database and returns its URL."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def drop(self, url: str) -> None:
        """Deletes a database, whoever is connected to it: hundreds of them would take long to delete in the end."""
        name = urllib.parse.urlsplit(url).path.removeprefix("/")
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

    def initialise(self) -> None:
        """Makes its folder."""
        options = ["-U", "tester", "--auth=trust", "-N", "--encoding=UTF8", "--locale=C"]
        done = self._run(["initdb", "-D", str(self._folder / "data"), *options], 0)
        if done.end():
            raise RuntimeError(f"initdb: {done.said()}")

    def start(self) -> None:
        """Starts it, and waits until it takes connections."""
        assert self._process is None
        # The zone by a name that it knows without the system's files. Nothing of a test outlives a crash: no fsync.
        settings = ["listen_addresses=", "fsync=off", "shared_buffers=16MB", "jit=off", "timezone=GMT"]
        settings += ["log_timezone=GMT", "max_connections=200"]
        command = ["postgres", "-D", str(self._folder / "data"), "-k", str(self._folder)]
        command += [part for setting in settings for part in ("-c", setting)]
        self._process = self._run(command, signal.SIGQUIT)
        self._process.wait_for(self._answers)

    @property
    def stopped(self) -> bool:
        """Whether it was stopped."""
        return self._process is None

    def stop(self) -> None:
        """Ends it at once, if it runs; who is connected loses the connection."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, command: list[str], end: int) -> Kept:
        program = str(self._programs.folder / command[0])
        return Kept([program, *command[1:]], self._folder, self._programs.environment, self._user, end)


def _user() -> pwd.struct_passwd | None:
    """Returns whom to run the server as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    return users.get("postgres") or users["nobody"]


def _in_reach(programs: Programs, folder: Path) -> Programs:
    """Copies unpacked programs that lie where only this user may go, such as below root's home."""
    root = programs.root
    if root is None or all(parent.stat().st_mode & 0o005 == 0o005 for parent in (root, *root.parents)):
        return programs
    copy = folder / "programs"
    shutil.copytree(root, copy, symlinks=True)
    copied = at(copy, POSTGRES)
    assert copied is not None
    return copied


@contextlib.contextmanager
def running(programs: Programs) -> Iterator[Postgres]:
    """Runs a server for the length of the block."""
    user = _user()
    # Short, because a socket's path may not be long; and not under a folder that only this user may enter.
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if user is not None:
            programs = _in_reach(programs, folder)
            folder.chmod(0o755)
            os.chown(folder, user.pw_uid, user.pw_gid)
        server = Postgres(programs, folder, user)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
