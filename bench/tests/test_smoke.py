"""A smoke run over every path: everything that is asked for is answered, and the counts add up. Never how fast."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from bench.paths import PATHS
from bench.scenarios import QUICK

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="CPU and memory are read from /proc")
async def test_every_path_answers_every_request(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench",
        "--quick",
        "--out",
        str(tmp_path / "run"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    report, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    head, *rows = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert {"python", "grpcio", "protobuf", "uvloop", "cpu"} <= set(head["versions"])
    assert {(row["path"], row["scenario"]) for row in rows} == {(path, name) for path in PATHS for name in QUICK}
    for row in rows:
        scenario, outcome = QUICK[row["scenario"]], row["outcome"]
        where = f"{row['path']} {row['scenario']}: {outcome['error']}"
        assert (outcome["done"], outcome["failed"]) == (scenario.count, 0), where
        assert outcome["started"] == scenario.count, where
        assert outcome["tokens"] == (scenario.count * scenario.tokens if scenario.stream else 0), where
        assert set(row["cpu"]) == {"mock", "client", *row["memory"]}, where
        assert all(size > 0 for size in row["memory"].values()), where
    text = (tmp_path / "run.md").read_text()
    assert text == report.decode()
    for path in PATHS:
        assert text.count(f"| {path} |") >= len(QUICK)
