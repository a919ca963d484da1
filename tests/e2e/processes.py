"""Real processes for the tests: `sluice up`, other commands, and what is left of them."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
SLUICE: Final = Path(sys.executable).with_name("sluice")
SECONDS: Final = 60.0
"""Bound of every wait: far above what is needed, so that only a hang reaches it."""
_MARK: Final = "SLUICE_TEST_MARK"
_KEPT: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR")


def environment(home: Path, mark: str | None = None, **more: str) -> dict[str, str]:
    """An environment of its own: no keys, no settings, another home; `mark` makes its processes findable."""
    home.mkdir(parents=True, exist_ok=True)
    values = {name: os.environ[name] for name in _KEPT if name in os.environ} | {"HOME": str(home)} | more
    return values | ({_MARK: mark} if mark else {})


def marked(mark: str) -> list[int]:
    """The processes that carry a mark, children of children included."""
    wanted = f"{_MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue  # it ended, or is not ours to look at
    return found


def until(what: Callable[[], bool], said: str) -> None:
    """Waits until something outside of this process is so."""
    limit = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < limit, said
        time.sleep(0.02)  # processes of others cannot be awaited


class Up:
    """A running `sluice up --json`."""

    def __init__(self, folder: Path, settings: dict[str, Any], *arguments: str, **more: str) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.environment = environment(folder / "home", self.mark, **more)
        self.state_dir = folder / "state"
        config = folder / "sluice.yaml"
        config.write_text(yaml.safe_dump({"state_dir": str(self.state_dir), **settings}), encoding="utf-8")
        self.process = subprocess.Popen(
            [str(SLUICE), "up", "--config", str(config), "--port", "0", "--json", "--until-stdin-closes", *arguments],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[dict[str, Any]] = []
        self.garbage: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def address(self) -> str:
        return str(self.wait(lambda line: bool(line.get("ready")))["address"])

    def wait(self, wanted: Callable[[dict[str, Any]], bool], after: int = 0) -> dict[str, Any]:
        """Returns the first line from number `after` on that is wanted."""
        with self._news:
            assert self._news.wait_for(
                lambda: any(map(wanted, self.said[after:])) or not self._reader.is_alive(), SECONDS
            ), self.said[-5:]
            found = [line for line in self.said[after:] if wanted(line)]
        assert found, f"it ended: {self.said[-3:]}"
        return found[0]

    def service(self, name: str, state: str, after: int = 0) -> dict[str, Any]:
        """Returns the line that says that a service is so."""
        return self.wait(lambda line: line.get("service") == name and line.get("state") == state, after)

    def end(self, number: int = signal.SIGINT) -> int:
        """Sends a signal, waits for the end and returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.join()

    def join(self) -> int:
        """Waits for the end and returns the exit code."""
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return code

    def errors(self) -> str:
        """What it said on standard error, once it ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                try:
                    self.said.append(json.loads(line))
                except ValueError:
                    self.garbage.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


class Mesh:
    """A mesh that is up, and commands against it."""

    def __init__(self, up: Up) -> None:
        self.up = up
        self.address = up.address
        self.environment = {name: value for name, value in up.environment.items() if name != _MARK} | {
            "SLUICE_ADDRESS": self.address
        }

    def run(
        self, *arguments: str, code: int = 0, stdin: str = "", cwd: Path = ROOT
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command with pipes and checks its exit code."""
        result = subprocess.run(
            [str(SLUICE), *arguments],
            cwd=cwd,
            env=self.environment,
            input=stdin,
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert result.returncode == code, f"{arguments}: exit code {result.returncode}\n{result.stdout}{result.stderr}"
        return result

    def json(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """Runs a command with --json and returns its lines."""
        return [json.loads(line) for line in self.run(*arguments, "--json", code=code).stdout.splitlines()]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts a command with pipes."""
        return subprocess.Popen(
            [str(SLUICE), *arguments],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def on_terminal(arguments: Iterable[str], variables: dict[str, str], stop_at: str | None = None) -> tuple[int, str]:
    """Runs a command on a terminal of 100 columns; Ctrl-C once it shows `stop_at`. Returns exit code and screen."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [str(SLUICE), *arguments],
        cwd=ROOT,
        env=variables | {"TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    interrupted = False
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break  # the other end is closed: that is how a terminal ends
        if not piece:
            break
        shown += piece
        if stop_at is not None and not interrupted and stop_at in shown.decode(errors="replace"):
            interrupted = True
            process.send_signal(signal.SIGINT)
    code = process.wait(SECONDS)
    os.close(ours)
    return code, shown.decode(errors="replace")
