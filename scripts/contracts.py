"""Lint the contracts and compare them with the last release, without a network.

    .venv/bin/python scripts/contracts.py lint        buf lint: STANDARD and COMMENTS, no inline ignores
    .venv/bin/python scripts/contracts.py breaking    buf breaking (FILE) against protos/baseline.binpb
    .venv/bin/python scripts/contracts.py baseline    write protos/baseline.binpb; only `make release` does that

Before version 0.1.0 a breaking change is reported and allowed; from then on it fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
BASELINE = Path("protos") / "baseline.binpb"
FIRST_STABLE = Version("0.1.0")


def buf(root: Path, *arguments: str) -> int:
    """Run the pinned buf in a checkout. Exit status 100 is its word for findings."""
    command = [str(Path(sys.executable).parent / "buf"), *arguments]
    return subprocess.run(command, cwd=root, check=False, stdin=subprocess.DEVNULL).returncode


def lint(root: Path) -> int:
    status = buf(root, "lint")
    if status == 0:
        print("contracts: lint finds nothing")
    return status


def version(root: Path) -> Version:
    """The version of the contracts, which is that of the stubs' distribution."""
    project = tomllib.loads((root / "gen" / "python" / "pyproject.toml").read_text(encoding="utf-8"))
    return Version(project["project"]["version"])


def breaking(root: Path) -> int:
    if not (root / BASELINE).exists():
        print(f"contracts: no {BASELINE.as_posix()} yet, so nothing to compare with; the first release writes it")
        return 0
    with tempfile.TemporaryDirectory(prefix="sluice-buf-") as scratch:
        # buf compares image with image: a workspace of two modules does not match a single one.
        current = str(Path(scratch) / "current.binpb")
        status = buf(root, "build", "--output", current)
        if status == 0:
            against = BASELINE.as_posix()
            status = buf(root, "breaking", current, "--against", against, "--config", "buf.yaml", "--exclude-imports")
    if status == 0:
        print("contracts: nothing breaks against the last release")
    elif status == 100 and version(root) < FIRST_STABLE:
        print(f"contracts: the changes above break, which is allowed before {FIRST_STABLE}")
        return 0
    return status


def baseline(root: Path) -> int:
    status = buf(root, "build", "--exclude-source-info", "--output", BASELINE.as_posix())
    if status == 0:
        print(f"contracts: wrote {BASELINE.as_posix()}")
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("action", choices=["lint", "breaking", "baseline"])
    parser.add_argument("--root", type=Path, default=ROOT, help="another checkout (for tests)")
    arguments = parser.parse_args()
    actions = {"lint": lint, "breaking": breaking, "baseline": baseline}
    return actions[arguments.action](arguments.root)


if __name__ == "__main__":
    sys.exit(main())
