"""The table of results in docs/clients.md."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from .cases import CASES

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "clients.md"
PYTHON: Final = "Python"
PYTHON_RUNNER: Final = (sys.executable, str(Path(__file__).with_name("runner.py")))
_BEGIN: Final = "<!-- results: written by `make test-clients ARGS=--write` -->\n"
_END: Final = "<!-- end of results -->"


def rows(results: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Returns the table, by line."""
    lines = [f"| case | {' | '.join(results)} | what it shows |", f"| --- |{' --- |' * (len(results) + 1)}"]
    for name, case in CASES.items():
        marks = " | ".join("FAILS" if found[name] else "passes" for found in results.values())
        lines.append(f"| `{name}` | {marks} | {case.shows} |")
    return lines


def filled(page: str, results: Mapping[str, Mapping[str, str]]) -> str:
    """Returns a page with this table in it."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert end, f"{PAGE.name} has no place for the table"
    return f"{before}{begin}\n{chr(10).join(rows(results))}\n\n{end}{after}"


def shown(page: str) -> list[list[str]]:
    """Returns the cells of the table that a page shows, its head first."""
    table = page.partition(_BEGIN)[2].partition(_END)[0]
    lines = [line for line in table.splitlines() if line.startswith("|") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
