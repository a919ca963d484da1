"""One process: crashes, refusals, ends."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sluice_cli.supervisor import child as child_module
from sluice_cli.supervisor.board import note
from sluice_cli.supervisor.child import Child, State
from sluice_cli.supervisor.logfiles import LogFile
from sluice_cli.supervisor.plan import ChildSpec


class History:
    """Every state that a child went through."""

    def __init__(self) -> None:
        self.seen: list[tuple[State, str]] = []
        self._news = asyncio.Event()

    def changed(self, child: Child) -> None:
        self.seen.append((child.status.state, child.status.detail))
        self._news.set()

    async def until(self, state: State, count: int = 1) -> None:
        while sum(seen == state for seen, _ in self.seen) < count:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 60)


@contextlib.asynccontextmanager
async def child_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> AsyncIterator[tuple[Child, History]]:
    (tmp_path / "fake_service.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(child_module, "_FIRST_DELAY", 0.01)
    spec = ChildSpec("fake", "provider", "fake_service", ("--flag",), "unix:/none", required=True)
    history = History()
    child = Child(spec, LogFile(tmp_path, "fake"), history.changed)
    task = asyncio.create_task(child.run())
    try:
        yield child, history
    finally:
        child.kill()
        await task


def first_line(child: Child) -> str:
    """What the process says first."""
    limit = time.monotonic() + 20
    while not (said := child.log.since(0)).endswith("\n"):
        assert time.monotonic() < limit
        time.sleep(0.01)  # a file that another process writes cannot be awaited
    return said


def state(child: Child) -> State:
    return child.status.state


async def test_what_crashes_is_started_again_and_said_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; print('sluice-fake: no luck', file=sys.stderr); sys.exit(3)"
    async with child_of(tmp_path, monkeypatch, code) as (child, history):
        await history.until(State.CRASHED, 3)
        assert child.status.restarts >= 3
        assert not child.answered.is_set()
        assert child.settled.is_set()
    delays = [detail for state, detail in history.seen if state == State.CRASHED]
    assert delays[0] == "ended with exit code 3; restarts in 0.01 s: no luck"
    assert delays[1].startswith("ended with exit code 3; restarts in 0.02 s")


async def test_a_taken_address_is_asked_for_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else has the port may have it for a moment: the pause does not grow."""
    async with child_of(tmp_path, monkeypatch, "import sys; sys.exit(75)") as (_, history):
        await history.until(State.CRASHED, 4)
    delays = {detail for state, detail in history.seen if state == State.CRASHED}
    assert delays == {"ended with exit code 75; restarts in 0.01 s"}


async def test_a_refused_configuration_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; print('{}'); print('sluice-fake: sluice.yaml:3: wrong', file=sys.stderr); sys.exit(78)"
    async with child_of(tmp_path, monkeypatch, code) as (child, history):
        await asyncio.wait_for(child.gone.wait(), 60)
        assert child.answered.is_set()
        assert note(child) == "sluice.yaml:3: wrong"
    assert [state for state, _ in history.seen] == [State.STARTING, State.MISCONFIGURED]


READS = "import sys; print('on', flush=True); sys.stdin.read()"


async def test_stop_asks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); signal.pause()"
    async with child_of(tmp_path, monkeypatch, code) as (child, history):
        await history.until(State.STARTING)
        await child.stop(20)
        assert not child.running
    assert [state for state, _ in history.seen] == [State.STARTING, State.STOPPING, State.STOPPED]


async def test_stop_kills_what_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
    async with child_of(tmp_path, monkeypatch, code) as (child, history):
        await asyncio.to_thread(first_line, child)
        await child.stop(0.05)
        assert not child.running
    assert history.seen[-1][0] == State.STOPPED


async def test_health_only_counts_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with child_of(tmp_path, monkeypatch, READS) as (child, history):
        child.note_health(True)
        assert state(child) == State.WAITING
        await history.until(State.STARTING)
        child.note_health(False)
        assert state(child) == State.STARTING
        child.note_health(True)
        assert state(child) == State.UP
        child.note_missing(["SOME_KEY"], "set SOME_KEY")
        assert note(child) == "missing: SOME_KEY"
        child.note_health(False)
        assert state(child) == State.NOT_SERVING


async def test_the_process_gets_its_arguments_and_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, os; print(sys.argv[1:], os.isatty(0), os.getsid(0) == os.getpid(), flush=True); sys.stdin.read()"
    )
    async with child_of(tmp_path, monkeypatch, code) as (child, _):
        assert await asyncio.to_thread(first_line, child) == "['--flag'] False True\n"


async def test_what_cannot_be_started_is_tried_again_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    async with child_of(tmp_path, monkeypatch, "") as (_, history):
        await history.until(State.CRASHED, 2)
    details = [detail for seen, detail in history.seen if seen == State.CRASHED]
    assert "could not be started: No such file or directory" in details[0]
