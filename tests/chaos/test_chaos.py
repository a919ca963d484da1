"""A short run of chaos over real processes. `make chaos` makes longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from .run import run


@pytest.mark.slow
async def test_no_invariant_breaks(tmp_path: Path) -> None:
    report = await run(tmp_path, seed=5, responses=60, kills=3)
    assert report.violations == []
    states = {row["state"] for row in report.history.responses}
    assert states == {"completed", "failed", "cancelled"}
    assert report.kills
