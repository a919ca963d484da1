"""One closed-loop load, in a process of its own: so many workers, each with one request at a time.

Always bounded: it stops after `count` requests or `seconds`, whichever comes first, and gives what is still open ten
seconds more. Reads a Load as JSON from its argument and prints an Outcome as JSON.

    python -m bench.load '{"protocol": "http", ...}'
"""

import asyncio
import resource
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal

import msgspec
import uvloop

from bench import grpc_load, http_load
from bench.tally import Outcome, Tally

_LAST_SECONDS: Final = 10.0


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a load goes, and how a request is written there."""

    protocol: Literal["http", "grpc"]
    port: int
    path: str = "/v1/chat/completions"
    """Of HTTP requests."""
    model: str = "{}"
    """How a model is named there."""
    headers: dict[str, str] = {}
    """Further headers, or metadata."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    target: Target
    model: str
    stream: bool
    concurrency: int
    count: int
    seconds: float
    ramp: float = 0.0
    """The workers start spread over so many seconds."""
    connections: int = 4
    """Of gRPC; HTTP/1.1 has one for each worker."""
    verify: bool = False
    """Whether every event is parsed and checked, rather than the tokens counted."""


Worker = Callable[[], Coroutine[Any, Any, None]]


async def run(load: Load) -> Outcome:
    """Runs a load and returns what came of it."""
    tally = Tally(load.count, load.seconds)
    open_workers = grpc_load.workers if load.target.protocol == "grpc" else http_load.workers
    began, cpu = time.monotonic(), _cpu()
    async with open_workers(load, tally) as work:
        tasks = []
        for _ in range(load.concurrency):
            tasks.append(asyncio.create_task(work()))
            if load.ramp:
                await asyncio.sleep(load.ramp / load.concurrency)
        _, late = await asyncio.wait(tasks, timeout=load.seconds + _LAST_SECONDS)
        wall, cpu = time.monotonic() - began, _cpu() - cpu
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            tally.failed(repr(error))
    return tally.outcome(wall, cpu)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Runs the load given as the process's argument."""
    load = msgspec.json.decode(sys.argv[1], type=Load)
    outcome = uvloop.run(run(load))
    sys.stdout.write(msgspec.json.encode(outcome).decode() + "\n")


if __name__ == "__main__":
    main()
