"""Runs the benchmark from a command line; `make bench ARGS=--help` says how."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench import machine, report
from bench.paths import MORE, OURS, PATHS
from bench.peers import PEERS, VARIABLES, installed
from bench.process import StartError
from bench.runner import LoadError, Measurement, run_round
from bench.scenarios import DEFAULT, QUICK, SCENARIOS, Scenario

_ROUNDS: Final = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures what a request and a token cost, and how late tokens arrive.",
        epilog="scenarios: "
        + "; ".join(f"{scenario.name}: {scenario.about}" for scenario in SCENARIOS.values())
        + f". paths: {', '.join(PATHS)}, and {', '.join(MORE)} when named. peers: {', '.join(f'{name} ({VARIABLES[name]})' for name in PEERS)}",
    )
    parser.add_argument("--rounds", type=int, default=_ROUNDS, metavar="N", help=f"how often (default {_ROUNDS})")
    parser.add_argument(
        "--scenarios", nargs="+", choices=tuple(SCENARIOS), default=DEFAULT, metavar="NAME", help="which"
    )
    parser.add_argument(
        "--paths", nargs="+", choices=(*PATHS, *MORE, *PEERS), metavar="NAME", help="which (default: ours)"
    )
    parser.add_argument("--peers", action="store_true", help="beside them every peer whose variable is set")
    parser.add_argument("--quick", action="store_true", help="a smoke run: does everything work?")
    parser.add_argument("--out", type=Path, metavar="STEM", help="write STEM.jsonl and STEM.md")
    return parser


async def _run(
    names: Sequence[str],
    scenarios: Sequence[Scenario],
    rounds: int,
    say: Callable[[Measurement], None],
    *,
    verify: bool,
) -> list[Measurement]:
    task = asyncio.current_task()
    assert task is not None  # asyncio.run makes one
    # Ctrl-C cancels this task by itself; both ways, what was started is stopped.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    found: list[Measurement] = []
    for number in range(rounds):
        found += await run_round(number, names, scenarios, verify=verify, say=say)
    return found


class _Notes:
    """Tells each measurement at once: as a line for whoever waits, and as a row of the file, if there is one.

    So what was measured before a run is stopped is not lost.
    """

    def __init__(self, file: Path | None, about: dict[str, str]) -> None:
        self._file = file
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(msgspec.json.encode({"versions": about}) + b"\n")

    def __call__(self, measurement: Measurement) -> None:
        sys.stderr.write(report.line(measurement) + "\n")
        sys.stderr.flush()
        if self._file is not None:
            with self._file.open("ab") as file:
                file.write(msgspec.json.encode(measurement) + b"\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for. Returns 0 if every request of Sluice's own paths was answered, else 1."""
    options = _parser().parse_args(argv)
    names = list(options.paths or PATHS)
    if options.peers:
        names += [name for name in installed() if name not in names]
    missing = [VARIABLES[name] for name in names if name in PEERS and name not in installed()]
    if missing:
        sys.stderr.write(f"bench: set {', '.join(missing)}\n")
        return 2
    scenarios = list(QUICK.values()) if options.quick else [SCENARIOS[name] for name in options.scenarios]
    rounds = 1 if options.quick else options.rounds
    about = machine.versions(names)
    say = _Notes(options.out and options.out.with_suffix(".jsonl"), about)
    try:
        found = asyncio.run(_run(names, scenarios, rounds, say, verify=options.quick))
    except (StartError, LoadError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.stderr.write("bench: stopped\n")
        return 130
    text = report.markdown(about, found)
    sys.stdout.write(text)
    if options.out is not None:
        options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    # What others, or the obvious way, cannot keep up with is a result; with few requests nothing may be lost.
    ours = [measurement for measurement in found if options.quick or measurement.path in OURS]
    return 1 if any(report.lost(measurement) for measurement in ours) else 0


if __name__ == "__main__":
    raise SystemExit(main())
