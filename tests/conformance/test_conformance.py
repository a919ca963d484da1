"""The Python client passes every case; `make test-clients` plays them with the others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from scripts.clients import CLIENTS

from .cases import CASES
from .conduct import Stage, runner, stage
from .perform import perform
from .table import PAGE, PYTHON, PYTHON_RUNNER, filled, rows, shown


@pytest.fixture(scope="module")
def results() -> Mapping[str, str]:
    return asyncio.run(perform({PYTHON: PYTHON_RUNNER}))[PYTHON]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_python(name: str, results: Mapping[str, str]) -> None:
    assert not results[name]


def test_the_table_has_every_case_and_every_client_and_no_failure() -> None:
    head, *table = shown(PAGE.read_text(encoding="utf-8"))
    assert head == ["case", PYTHON, *(client.title for client in CLIENTS), "what it shows"]
    assert [(row[0], row[-1]) for row in table] == [(f"`{name}`", case.shows) for name, case in CASES.items()]
    assert {mark for row in table for mark in row[1:-1]} == {"passes"}


def test_the_table_is_written_as_it_is_read() -> None:
    results = {client: dict.fromkeys(CASES, "") for client in (PYTHON, *(client.title for client in CLIENTS))}
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, results) == page
    results["Go"]["unary"] = "AssertionError: no answer"
    assert "| `unary` | passes | FAILS | passes | passes |" in "\n".join(rows(results))


async def test_a_client_that_does_not_do_it_right_fails() -> None:
    """A driver that everything passes would prove nothing: this client answers, but with something else."""
    lying = ("import json, sys\nfor line in sys.stdin:\n    print(json.dumps({'events': [], 'error': None, 'left': False,"
             " 'finish': 'STOP', 'reconnects': 0, 'response': 'responses/x', 'bytes': 0, 'sha256': ''}), flush=True)")  # fmt: skip
    import sys

    async with stage() as (bare, key), runner((sys.executable, "-c", lying), key) as client:
        scene = Stage(client, bare.mesh, bare.owner, bare.folder, bare.stalled)
        for name in ("unary", "stream", "rich_error", "unknown_event", "gap"):
            with pytest.raises((AssertionError, KeyError, IndexError, TypeError)):
                await CASES[name].play(scene)
