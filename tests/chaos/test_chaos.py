"""Short runs of chaos over real processes. `make chaos` makes longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from .run import Report, run


def _check(report: Report) -> None:
    for violation in report.violations:
        print(violation, report.history.of(violation.tag), sep="\n")
    assert report.violations == []
    assert {row["state"] for row in report.history.responses} == {"completed", "failed", "cancelled"}
    assert report.kills


@pytest.mark.slow
async def test_no_invariant_breaks(tmp_path: Path) -> None:
    _check(await run(tmp_path, seed=5, responses=60, kills=3))


@pytest.mark.slow
@pytest.mark.usefixtures("redis_server", "postgres")  # who says why it is skipped where there are none
async def test_nor_does_one_with_two_gateways(tmp_path: Path) -> None:
    _check(await run(tmp_path, seed=8, responses=45, kills=3, shared=True))
