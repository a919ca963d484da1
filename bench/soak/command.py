"""The command line of the soak."""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench import machine
from bench.process import StartError
from bench.soak import report
from bench.soak.gauges import Sample, is_at_rest, sample
from bench.soak.load import Load
from bench.soak.report import Run
from bench.soak.site import PATHS, Mesh, running

_REST_SECONDS: Final = 90.0
_REST_LOOK_SECONDS: Final = 1.0
_FILL: Final = 4500
"""More than the targets that a gateway remembers, and than answers have room in the soak's cache."""
_QUICK_FILL: Final = 50
_KEPT: Final = 5.0
_QUICK_KEPT: Final = 1.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description="Uses a mesh in every way for a while and says what it holds more of for it.",
    )
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=PATHS, help="which layouts (default: both)")
    parser.add_argument("--seconds", type=float, default=300.0, help="of load that is measured (default 300)")
    parser.add_argument("--warm-up", type=float, default=60.0, help="seconds of load before that (default 60)")
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second (default 40)")
    parser.add_argument("--every", type=float, default=3.0, help="seconds between two samples (default 3)")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn (default 1)")
    parser.add_argument("--quick", action="store_true", help="a smoke run: does everything work?")
    parser.add_argument("--out", type=Path, metavar="STEM", help="write STEM.jsonl and STEM.md")
    return parser


async def _soak(mesh: Mesh, options: argparse.Namespace, say: Callable[[Sample], None]) -> Run:
    load = Load(mesh, options.rate, options.seed)
    began = time.monotonic()
    try:
        await load.prepare(_QUICK_FILL if options.quick else _FILL)
        await load.run(options.warm_up)
        say(await _sample_at_rest(mesh, load, began, "before"))
        work = asyncio.create_task(load.run(options.seconds))
        try:
            while not work.done():
                say(await sample(mesh, began, load.begun))
                await asyncio.wait((work,), timeout=options.every)
        finally:
            work.cancel()
            await asyncio.wait((work,))
        say(await _sample_at_rest(mesh, load, began, "after"))
    finally:
        await load.close()
    return Run(
        path=mesh.name,
        rate=options.rate,
        seconds=options.seconds,
        begun=load.begun,
        skipped=load.skipped,
        visitors=load.visitors,
        done=dict(load.done),
        failed=load.failed,
        mistakes=load.mistakes,
    )


async def _sample_at_rest(mesh: Mesh, load: Load, began: float, when: str) -> Sample:
    """Waits until nothing is made and nothing of it is kept any more, and takes a sample."""
    async with asyncio.timeout(_REST_SECONDS):
        while not await is_at_rest(mesh):  # noqa: ASYNC110 - another process gets there
            # What is kept is given up by a clock of the gateway's; its metrics are asked.
            await asyncio.sleep(_REST_LOOK_SECONDS)
    return await sample(mesh, began, load.begun, at_rest=when)


async def _run(options: argparse.Namespace, say: Callable[[Sample | Run], None]) -> None:
    task = asyncio.current_task()
    assert task is not None  # asyncio.run makes one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    for path in options.paths:
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            async with running(Path(folder), path, _QUICK_KEPT if options.quick else _KEPT) as mesh:
                say(await _soak(mesh, options, say))


class _Notes:
    """Keeps what is told, and writes it at once into a file, if there is one."""

    def __init__(self, file: Path | None, about: dict[str, str]) -> None:
        self._file = file
        self.samples: list[Sample] = []
        self.runs: list[Run] = []
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(msgspec.json.encode({"versions": about}) + b"\n")

    def __call__(self, told: Sample | Run) -> None:
        if isinstance(told, Sample):
            self.samples.append(told)
            sys.stderr.write(report.line(told) + "\n")
            sys.stderr.flush()
        else:
            self.runs.append(told)
        if self._file is not None:
            with self._file.open("ab") as file:
                file.write(msgspec.json.encode(told) + b"\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for. Returns 0 if everything that users did went as it should, else 1."""
    options = _parser().parse_args(argv)
    if options.quick:
        options.seconds, options.warm_up, options.every, options.rate = 5.0, 1.0, 1.0, 8.0
    about = machine.versions([])
    notes = _Notes(options.out and options.out.with_suffix(".jsonl"), about)
    try:
        asyncio.run(_run(options, notes))
    except StartError as error:
        sys.stderr.write(f"soak: {error}\n")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.stderr.write("soak: stopped\n")
        return 130
    text = report.markdown(about, notes.runs, notes.samples)
    sys.stdout.write(text)
    if options.out is not None:
        options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    return 1 if any(run.failed for run in notes.runs) else 0
