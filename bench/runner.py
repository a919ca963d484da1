"""Runs scenarios over paths, round by round, and measures each."""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.load import Load
from bench.paths import MORE, PATHS, Running, Site, mock
from bench.peers import PEERS
from bench.process import Process, free_port
from bench.scenarios import Scenario
from bench.tally import Outcome

_SAMPLE_SECONDS: Final = 0.2
_WARM: Final = 64
_LATE_SECONDS: Final = 60.0
"""How long a load may go on after its own limits, before it counts as stuck."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario on one path, once."""

    round: int
    path: str
    scenario: str
    cpu: dict[str, float]
    """Seconds of CPU by process, the upstream (`mock`) and the load (`client`) among them."""
    memory: dict[str, int]
    """Bytes resident at the highest, by process of the path."""
    memory_before: dict[str, int]
    """The same before the load, after the warm-up."""
    outcome: Outcome

    @property
    def own_cpu(self) -> float:
        """Seconds of CPU of the path's own processes."""
        return sum(seconds for name, seconds in self.cpu.items() if name not in ("mock", "client"))

    def per_unit(self, seconds: float) -> float | None:
        """Returns microseconds for each token, or for each request where none was streamed."""
        units = self.outcome.tokens or self.outcome.done
        return seconds * 1e6 / units if units else None


class LoadError(Exception):
    """The load itself broke, which says nothing of the path."""


async def load(load: Load) -> Outcome:
    """Runs a load in a process of its own. Raises LoadError."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.load",
        msgspec.json.encode(load).decode(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, error = await asyncio.wait_for(process.communicate(), load.seconds + _LATE_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise LoadError("the load did not end") from None
    if process.returncode:
        raise LoadError(error.decode(errors="replace")[-1500:])
    return msgspec.json.decode(out, type=Outcome)


async def _watch_memory(processes: Sequence[Process], highest: dict[str, int]) -> None:
    while True:
        for process in processes:
            highest[process.name] = max(highest[process.name], process.memory())
        # Memory has no event to wait for; it is sampled.
        await asyncio.sleep(_SAMPLE_SECONDS)


async def measure(
    number: int, path: str, running: Running, upstream: Process, scenario: Scenario, *, verify: bool = False
) -> Measurement:
    """Warms a path up, checking every event of that, and then measures one scenario on it."""
    order = Load(
        target=running.target(),
        model=scenario.model,
        stream=scenario.stream,
        concurrency=scenario.concurrency,
        count=scenario.count,
        seconds=scenario.seconds,
        ramp=scenario.ramp,
        verify=verify,
    )
    if not verify:
        warm = min(_WARM, scenario.concurrency * 2)
        await load(msgspec.structs.replace(order, count=warm, concurrency=min(warm, order.concurrency), verify=True))
    processes = [upstream, *running.processes]
    before = {process.name: process.cpu() for process in processes}
    memory_before = {process.name: process.memory() for process in running.processes}
    highest = dict(memory_before)
    watching = asyncio.create_task(_watch_memory(running.processes, highest))
    try:
        outcome = await load(order)
    finally:
        watching.cancel()
        await asyncio.wait((watching,))
    cpu = {process.name: round(process.cpu() - before[process.name], 3) for process in processes}
    return Measurement(
        round=number,
        path=path,
        scenario=scenario.name,
        cpu={**cpu, "client": outcome.cpu},
        memory=highest,
        memory_before=memory_before,
        outcome=outcome,
    )


async def run_round(
    number: int,
    names: Sequence[str],
    scenarios: Sequence[Scenario],
    *,
    verify: bool = False,
    say: Callable[[Measurement], None],
) -> list[Measurement]:
    """Starts every path afresh and runs each scenario over all of them in turn, so that what disturbs the machine
    disturbs them alike. The order of the paths moves on by one with each round. `say` is told each measurement at once.
    Raises StartError and LoadError."""
    shift = number % len(names)
    order = [*names[shift:], *names[:shift]]
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, contextlib.ExitStack() as stack:
        site = Site(Path(folder), free_port())
        upstream = mock(site)
        stack.callback(upstream.stop)
        running: dict[str, Running] = {}
        for name in order:
            running[name] = (PATHS | MORE | PEERS)[name](site)
            for process in running[name].processes:
                stack.callback(process.stop)
        for process in _all(upstream, running):
            await process.ready()
        for scenario in scenarios:
            for name in order:
                measurement = await measure(number, name, running[name], upstream, scenario, verify=verify)
                say(measurement)
                found.append(measurement)
    return found


def _all(upstream: Process, running: dict[str, Running]) -> Iterator[Process]:
    yield upstream
    for path in running.values():
        yield from path.processes
