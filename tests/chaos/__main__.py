"""Runs chaos and says what it found: `make chaos ARGS="--responses 1000 --seed 7"`."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from scripts.servers import POSTGRES, REDIS, find, why_not

from .run import Report, run


def main() -> int:
    """Returns 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--responses", type=int, default=1000, help="how many answers each mode asks for (1000)")
    parser.add_argument("--kills", type=int, help="how many processes are killed in each (one for 20 answers)")
    parser.add_argument("--seed", type=int, help="what everything is drawn from (a new one, which is printed)")
    parser.add_argument(
        "--mode",
        choices=("alone", "shared", "both"),
        default="both",
        help="one gateway with SQLite and a log of its own; two over Redis and Postgres; or one after the other (both)",
    )
    options = parser.parse_args()
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    kills = max(3, options.responses // 20) if options.kills is None else options.kills
    found = 0
    for mode in ("alone", "shared") if options.mode == "both" else (options.mode,):
        if mode == "shared" and (missing := [server for server in (REDIS, POSTGRES) if find(server) is None]):
            print(f"chaos: no shared mode: {why_not(missing[0])}")
            found += options.mode == "shared"
            continue
        print(f"chaos: {mode}, {options.responses} responses, {kills} kills, seed {seed}", flush=True)
        with tempfile.TemporaryDirectory(prefix="sluice-chaos-") as folder:
            work = run(Path(folder), seed=seed, responses=options.responses, kills=kills, shared=mode == "shared")
            report = asyncio.run(work)
        _say(report)
        found += len(report.violations)
        if report.violations:
            again = f"--mode {mode} --responses {options.responses} --kills {kills} --seed {seed}"
            print(f'chaos: {len(report.violations)} violations; again with ARGS="{again}"')
    if not found:
        print("chaos: no violation")
    return 1 if found else 0


def _say(report: Report) -> None:
    history = report.history
    states = Counter(f"{row['state']} {row['reason']}".strip() for row in history.responses)
    for state, count in states.most_common():
        print(f"  {count:5} {state}")
    resumed = sum(1 for seen in history.seen if not seen.request_id)
    print(f"  {len(history.seen):5} calls, {resumed} of them to come back, {len(history.sent)} requests upstream")
    outcomes = Counter(row["outcome"] for row in history.attempts)
    print(f"  {len(history.attempts):5} attempts: {', '.join(f'{count} {name}' for name, count in outcomes.items())}")
    kills = Counter(report.kills)
    print(f"  killed: {', '.join(f'{name} {count}' for name, count in kills.items()) or 'nothing'}")
    for name, before in history.before.items():
        last = history.rests[-1][name]
        print(
            f"  {name}: {before.files} open files, {before.threads} threads, {before.kilobytes // 1024} MiB after the "
            f"first load; {last.files}, {last.threads}, {last.kilobytes // 1024} after the last"
        )
    print(f"  {report.seconds:.0f} s")
    shown: set[str] = set()
    for violation in report.violations:
        print(f"chaos: VIOLATION {violation}")
        if violation.tag not in shown:
            shown.add(violation.tag)
            print(history.of(violation.tag), flush=True)


if __name__ == "__main__":
    sys.exit(main())
