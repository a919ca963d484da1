"""What a mesh holds at one moment: memory, files, threads, tasks, series of metrics, and what lies on the disk."""

import asyncio
import contextlib
import re
import signal
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.process import Process
from bench.soak.site import Mesh

_ANSWER_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.02
_VALUE: Final = re.compile(r"^(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What one process of a mesh holds, its children's memory, files and threads included."""

    rss: int
    """Resident bytes."""
    fds: int
    threads: int
    tasks: int
    """Of asyncio."""
    blocks: int
    """Pieces of memory that the interpreter has given out."""
    series: int
    """Of metrics."""
    types: dict[str, int] = {}
    """Objects by type; empty unless they were counted."""
    coroutines: dict[str, int] = {}
    """Tasks by what they run; the same."""


class Sample(msgspec.Struct, frozen=True, kw_only=True, tag="sample", tag_field="kind"):
    """A mesh at one moment."""

    path: str
    seconds: float
    """Since the load began."""
    requests: int
    """Begun so far."""
    held: dict[str, Held]
    """By process."""
    disk: dict[str, int]
    """Bytes, by what they are for."""
    at_rest: str = ""
    """`before` or `after` the load that is measured, once everything had ended; else empty."""


async def sample(mesh: Mesh, began: float, requests: int, *, at_rest: str = "") -> Sample:
    """Takes a sample; at rest, with objects by type."""
    names = list(mesh.processes)
    number = signal.SIGUSR2 if at_rest else signal.SIGUSR1
    answers = await asyncio.gather(
        *(asyncio.to_thread(_ask, mesh.report_file(name), mesh.processes[name], number) for name in names)
    )
    texts = await asyncio.gather(*(asyncio.to_thread(_scrape, mesh.metrics[name]) for name in names))
    held = {
        name: _held(mesh.processes[name], answer, text)
        for name, answer, text in zip(names, answers, texts, strict=True)
    }
    return Sample(
        path=mesh.name,
        seconds=round(time.monotonic() - began, 1),
        requests=requests,
        held=held,
        disk=disk(mesh.state, mesh.logs),
        at_rest=at_rest,
    )


async def is_at_rest(mesh: Mesh) -> bool:
    """Whether the gateway makes nothing, and holds nothing of what it made."""
    values = read_metrics(await asyncio.to_thread(_scrape, mesh.metrics["gateway"]))
    busy = ("sluice_responses_running", "sluice_watchers", "sluice_response_log_bytes", "sluice_ledger_backlog")
    return not any(values.get(name, 0.0) for name in busy)


def read_metrics(text: str) -> dict[str, float]:
    """Returns the values of metrics by name, those of several series added up."""
    values: dict[str, float] = {}
    for name, value in _VALUE.findall(text):
        values[name] = values.get(name, 0.0) + float(value)
    return values


def disk(state: Path, logs: Iterable[Path]) -> dict[str, int]:
    """Returns what a mesh has on the disk: each database, its write-ahead log, other files by folder, and logs."""
    found = {"process logs": sum(_size(log) for log in logs)}
    for path in state.rglob("*"):
        if path.is_file():
            first, *rest = path.relative_to(state).parts
            name = f"{first}/{rest[0]}" if rest and ".db" in rest[0] else f"{first}/ other"
            found[name] = found.get(name, 0) + _size(path)
    return found


def _ask(file: Path, process: Process, number: signal.Signals) -> dict[str, Any]:
    file.unlink(missing_ok=True)
    process.send(number)
    end = time.monotonic() + _ANSWER_SECONDS
    while not file.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{process.name} does not say what is alive in it")
        time.sleep(_LOOK_SECONDS)  # another process writes it
    answer: dict[str, Any] = msgspec.json.decode(file.read_bytes())
    return answer


def _scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_ANSWER_SECONDS) as reply:
        text: bytes = reply.read()
    return text.decode()


def _held(process: Process, answer: dict[str, Any], metrics: str) -> Held:
    fds = threads = 0
    for pid in process.tree():
        fds += _entries(Path(f"/proc/{pid}/fd"))
        threads += _entries(Path(f"/proc/{pid}/task"))
    series = sum(1 for line in metrics.splitlines() if line and not line.startswith("#"))
    return Held(rss=process.memory(), fds=fds, threads=threads, series=series, **answer)


def _entries(folder: Path) -> int:
    with contextlib.suppress(OSError):  # a process may be gone by now
        return sum(1 for _ in folder.iterdir())
    return 0


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0
