"""One process of the mesh: started, watched, restarted when it crashes, stopped."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from sluice_cli.supervisor.logfiles import LogFile
from sluice_cli.supervisor.plan import ChildSpec
from sluice_kit.main import EXIT_BIND, EXIT_CONFIG

_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 30.0
_STEADY_SECONDS: Final = 30.0
"""Who ran so long starts again with the first delay."""
_MAX_MESSAGE_LINES: Final = 5
_NOT_STARTED: Final = 71
"""Stands for the exit code of a process that the system refused to start, after sysexits.h."""


class State(StrEnum):
    """How a process is."""

    WAITING = "waiting"
    STARTING = "starting"
    UP = "up"
    NOT_SERVING = "not serving"
    CRASHED = "crashed"
    MISCONFIGURED = "misconfigured"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass
class Status:
    """What the board shows of a process."""

    state: State = State.WAITING
    pid: int | None = None
    restarts: int = 0
    missing: list[str] = field(default_factory=list)
    """Settings and credentials that are missing, by name."""
    detail: str = ""
    """What to know or do, for people."""


class Child:
    """Keeps one process running."""

    def __init__(self, spec: ChildSpec, log: LogFile, changed: Callable[["Child"], None]) -> None:
        self.spec = spec
        self.log = log
        self.status = Status()
        self.settled = asyncio.Event()
        """Set once it is up, or cannot be: others need not wait for it any longer."""
        self.answered = asyncio.Event()
        """Set once it is up, or its configuration was refused. A crash is tried again."""
        self.gone = asyncio.Event()
        """Set once no process runs and none will."""
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._stop = asyncio.Event()

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.returncode is None

    @property
    def name(self) -> str:
        """Its name on the board."""
        return self.spec.name

    def set(self, state: State, detail: str = "") -> None:
        """Notes a state and tells the board."""
        if (self.status.state, self.status.detail) == (state, detail):
            return
        self.status.state, self.status.detail = state, detail
        if state in (State.UP, State.MISCONFIGURED, State.CRASHED):
            self.settled.set()
        if state in (State.UP, State.MISCONFIGURED):
            self.answered.set()
        self._changed(self)

    def note_health(self, serving: bool) -> None:
        """Is told what the process's health service says."""
        if self.running and not self._stop.is_set():
            self.set(
                State.UP if serving else State.STARTING if self.status.state == State.STARTING else State.NOT_SERVING
            )

    def note_missing(self, missing: list[str], detail: str) -> None:
        """Is told what the process says it lacks."""
        if (self.status.missing, self.status.detail) != (missing, detail):
            self.status.missing, self.status.detail = missing, detail
            self._changed(self)

    async def run(self) -> None:
        """Runs the process again and again, until `stop`, or until its configuration is refused."""
        delay = _FIRST_DELAY
        try:
            while not self._stop.is_set():
                began = asyncio.get_running_loop().time()
                code, said = await self._once()
                self.status.pid = None
                if self._stop.is_set():
                    break
                if code == EXIT_CONFIG:
                    self.set(State.MISCONFIGURED, said or "its configuration cannot be used; its log says why")
                    return
                # An address that somebody else has for a moment is asked for again and again: it may be free any time.
                if code == EXIT_BIND or asyncio.get_running_loop().time() - began > _STEADY_SECONDS:
                    delay = _FIRST_DELAY
                self.status.restarts += 1
                reason = f"{_how(code)}; restarts in {delay:g} s" + (f": {said}" if said else "")
                self.set(State.CRASHED, reason)
                await self._pause(delay)
                delay = min(delay * 2, _LONGEST_DELAY)
        finally:
            self.gone.set()
        self.set(State.STOPPED)

    async def stop(self, grace: float) -> None:
        """Asks the process to end, and kills it if it takes longer than `grace` seconds."""
        self._stop.set()
        if self.running:
            self.set(State.STOPPING)
            self._signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.gone.wait(), grace)
            except TimeoutError:
                self.kill()
        await self.gone.wait()

    def kill(self) -> None:
        """Ends the process at once."""
        self._stop.set()
        self._signal(signal.SIGKILL)

    async def _once(self) -> tuple[int, str]:
        """Runs the process to its end. Returns its exit code and what it said for people."""
        offset = self.log.size()
        try:
            self._process = await self._start()
        except OSError as error:
            return _NOT_STARTED, f"it could not be started: {error.strerror or error}"
        self.status.pid = self._process.pid
        self.set(State.STARTING)
        if self._stop.is_set():
            self._signal(signal.SIGTERM)
        code = await self._process.wait()
        return code, _said(self.log.since(offset))

    async def _start(self) -> asyncio.subprocess.Process:
        descriptor = self.log.open()
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self.spec.module,
                *self.spec.arguments,
                # The pipe ends with this process, and the service ends with the pipe: no orphan, whatever happens here.
                stdin=asyncio.subprocess.PIPE,
                stdout=descriptor,
                stderr=descriptor,
                # Ctrl-C at the terminal is for the supervisor, which stops the services in order.
                start_new_session=True,
            )
        finally:
            os.close(descriptor)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            pass  # the pause is over

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                pass  # it ended in this instant


def _said(text: str) -> str:
    """What services print for people stands beside their logs as `sluice-NAME: …`."""
    lines = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("sluice-")]
    return "\n".join(lines[-_MAX_MESSAGE_LINES:])


def _how(code: int) -> str:
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"ended with exit code {code}"
