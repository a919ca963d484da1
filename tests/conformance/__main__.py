"""Builds the clients, tests them, plays every case with each, and says what came of it: `make test-clients`.

ARGS="go java" takes these clients alone; ARGS=--cases leaves out what `make test` has run, which is Python's column, and
the quickstarts and tools; ARGS=--write puts the table into docs/clients.md, if every client was there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Final

from scripts.clients import CLIENTS, ROOT, missing, run

from .cases import CASES
from .perform import perform
from .table import PAGE, PYTHON, PYTHON_RUNNER, filled, rows

PAGES: Final = ("tests/e2e/test_quickstarts.py", "tests/e2e/test_tools.py")
"""The quickstarts and tools that `make test` leaves to this run, because they take long to build."""


def main() -> int:
    """Returns 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="make test-clients", description=__doc__)
    known = [client.name for client in CLIENTS]
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"these alone, of {', '.join(known)}")
    parser.add_argument("--cases", action="store_true", help="the cases alone, and not with Python")
    parser.add_argument("--write", action="store_true", help="put the table into docs/clients.md")
    options = parser.parse_args()
    if unknown := sorted(set(options.clients) - set(known)):
        parser.error(f"there is no client {', '.join(unknown)}")
    began = time.monotonic()
    commands: dict[str, tuple[str, ...]] = {} if options.cases else {PYTHON: PYTHON_RUNNER}
    lacking: dict[str, str] = {}
    broken = []
    for client in CLIENTS:
        if options.clients and client.name not in options.clients:
            continue
        reason = missing(client)
        if reason is not None:
            lacking[client.title] = reason
        elif run(client, (*client.build, *client.test)):
            commands[client.title] = ("env", f"--chdir={client.folder}", *client.runner)
        else:
            broken.append(f"{client.title} does not build, or its own tests fail")
    print(f"test-clients: {len(CASES)} cases with {', '.join(commands) or 'no client'}", flush=True)
    results = asyncio.run(perform(commands)) if commands else {}
    status = _tell(results, lacking, broken)
    if not (options.clients or options.cases):
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *PAGES],
            cwd=ROOT,
            env=os.environ | {"SLUICE_TEST_CLIENTS": "1"},
            check=False,
            stdin=subprocess.DEVNULL,
        )
        status = status or ended.returncode
    print(f"test-clients: {'all good' if status == 0 else 'FAILED'} after {time.monotonic() - began:.0f} s")
    if options.write:
        absent = {PYTHON, *(client.title for client in CLIENTS)} - set(results)
        if absent:
            print(f"test-clients: the table is left as it is, without {', '.join(sorted(absent))}")
            return status or 1
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    return status


def _tell(results: Mapping[str, Mapping[str, str]], lacking: Mapping[str, str], broken: list[str]) -> int:
    status = 1 if broken else 0
    for client, found in results.items():
        for name, wrong in found.items():
            if wrong:
                status = 1
                print(f"test-clients: {client} fails {name}: {wrong}")
    if results:
        print("\n".join(rows(results)))
    for title, reason in lacking.items():
        print(f"test-clients: {title} is left out: {reason}")
    for wrong in broken:
        print(f"test-clients: {wrong}")
    return status


if __name__ == "__main__":
    sys.exit(main())
