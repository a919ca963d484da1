"""Runs chaos and says what it found: `make chaos ARGS="--responses 1000 --seed 7"`."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from .run import run


def main() -> int:
    """Returns 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--responses", type=int, default=200, help="how many answers are asked for (200)")
    parser.add_argument("--kills", type=int, help="how many processes are killed (one for 20 answers)")
    parser.add_argument("--seed", type=int, help="what everything is drawn from (a new one, which is printed)")
    options = parser.parse_args()
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    kills = max(3, options.responses // 20) if options.kills is None else options.kills
    print(f"chaos: {options.responses} responses, {kills} kills, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sluice-chaos-") as folder:
        report = asyncio.run(run(Path(folder), seed=seed, responses=options.responses, kills=kills))
    states = Counter(f"{row['state']} {row['reason']}".strip() for row in report.history.responses)
    for state, count in states.most_common():
        print(f"  {count:5} {state}")
    print(f"  {len(report.history.seen):5} streams read, {len(report.history.sent)} requests upstream")
    print(f"  killed: {', '.join(report.kills) or 'nothing'}; {report.seconds:.0f} s")
    for violation in report.violations:
        print(f"chaos: VIOLATION {violation}")
    if report.violations:
        print(f'chaos: {len(report.violations)} violations; again with ARGS="--seed {seed}"')
        return 1
    print("chaos: no violation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
