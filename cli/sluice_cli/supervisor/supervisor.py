"""Runs the plan: starts in order, watches, stops in order."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sluice_cli import output
from sluice_cli.mesh import MeshFile, write_mesh_file
from sluice_cli.options import EXIT_FAILURE
from sluice_cli.supervisor import health, logfiles
from sluice_cli.supervisor.board import JsonBoard, LineBoard, LiveBoard
from sluice_cli.supervisor.certificates import Certificates
from sluice_cli.supervisor.child import Child, State
from sluice_cli.supervisor.plan import Kind, Plan

_BEFORE_GATEWAY_SECONDS: Final = 20.0
"""The gateway does not wait longer for the others: it serves what is there."""
_STOP_MARGIN: Final = 5.0
_START_ORDER: Final[tuple[tuple[Kind, ...], ...]] = (("provider", "retrieval"), ("gateway",))
_STOP_ORDER: Final[tuple[tuple[Kind, ...], ...]] = (("gateway",), ("retrieval",), ("provider",))


@dataclass(frozen=True, slots=True)
class Places:
    """Where a running mesh keeps its things."""

    mesh_file: Path
    runtime_dir: Path
    logs_dir: Path


class Supervisor:
    """One mesh, from start to stop."""

    def __init__(
        self,
        plan: Plan,
        places: Places,
        board: LiveBoard | LineBoard | JsonBoard,
        *,
        drain_seconds: float,
        logs: bool,
        until_stdin_closes: bool,
        certificates: Certificates | None = None,
    ) -> None:
        self._plan = plan
        self._certificates = certificates
        self._tls = certificates.own() if certificates is not None else None
        self._places = places
        self._board = board
        self._grace = drain_seconds + _STOP_MARGIN
        self._show_logs = logs
        self._until_stdin_closes = until_stdin_closes
        self._stopping = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self._defect: BaseException | None = None
        self._children = [
            Child(spec, logfiles.LogFile(places.logs_dir, spec.name), self._changed) for spec in plan.children
        ]

    async def run(self) -> int:
        """Runs the mesh until a signal, or until its configuration is refused. Returns the exit code."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in signals:
            loop.add_signal_handler(number, self._on_signal)
        if self._until_stdin_closes:
            loop.add_reader(sys.stdin.fileno(), self._on_stdin)
        self._board.begin(self._children)
        logs = {child.name: child.log for child in self._children}
        self._spawn(logfiles.keep_small(list(logs.values())))
        if self._certificates is not None:
            self._spawn(self._certificates.keep())
        if self._show_logs:
            self._spawn(logfiles.stream(logs, self._board.log_line))
        try:
            code = await self._run()
            self._board.message("stopping (Ctrl-C again: at once)…")
            await self._stop()
            if self._defect is not None:
                raise self._defect
            if code == 0:
                self._board.message("stopped")
            return code
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
            for child in self._children:
                child.kill()
            for task in self._background:
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)
            self._places.mesh_file.unlink(missing_ok=True)

    async def _run(self) -> int:
        for kinds in _START_ORDER:
            stage = [child for child in self._children if child.spec.kind in kinds]
            for child in stage:
                self._spawn(child.run())
                self._spawn(health.follow(child, self._tls))
            last = "gateway" in kinds
            waits = [child.answered.wait() if last else child.settled.wait() for child in stage]
            if not await self._unless_stopped(asyncio.gather(*waits), None if last else _BEFORE_GATEWAY_SECONDS):
                return 0
            wrong = [child for child in stage if child.status.state == State.MISCONFIGURED and child.spec.required]
            if wrong:
                for child in wrong:
                    self._board.message(f"{child.name}: {child.status.detail}")
                return EXIT_FAILURE
        address = f"https://{self._plan.address}" if self._plan.secure else self._plan.address
        mesh = MeshFile(address, os.getpid(), str(self._places.runtime_dir), str(self._places.logs_dir))
        write_mesh_file(self._places.mesh_file, mesh)
        self._board.ready(address)
        await self._stopping.wait()
        return 0

    async def _unless_stopped(self, work: "asyncio.Future[Any]", limit: float | None) -> bool:
        """Waits for the work, at most so many seconds. Returns False if the mesh shall stop instead."""
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((work, stop), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, stop):
            task.cancel()
        await asyncio.gather(work, stop, return_exceptions=True)
        return not self._stopping.is_set()

    async def _stop(self) -> None:
        for kinds in _STOP_ORDER:
            stage = [child for child in self._children if child.spec.kind in kinds]
            await asyncio.gather(*(child.stop(self._grace) for child in stage if child.status.state != State.WAITING))

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            for child in self._children:
                child.kill()
        self._stopping.set()

    def _on_stdin(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._stopping.set()

    def _changed(self, child: Child) -> None:
        try:
            self._board.changed(child)
        except BrokenPipeError:
            # Whoever read the output is gone, so nobody would know that the mesh still runs.
            output.abandon_stdout()
            self._stopping.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._on_end)

    def _on_end(self, task: "asyncio.Task[None]") -> None:
        """A defect of the supervisor itself must not leave a mesh that nobody watches."""
        if not task.cancelled() and task.exception() is not None:
            self._defect = self._defect or task.exception()
            self._stopping.set()
