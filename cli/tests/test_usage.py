"""`sluice usage`."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from sluice.chat.v1.usage_pb2 import Usage, UsageSource
from sluice.gateway.v1.usage_service_pb2 import SourceUsage, UsageFigures
from sluice_cli import usage
from sluice_cli.main import app
from sluice_client import SluiceClient, question
from sluice_kit.testing import mesh

from .command import both, said

ECHO, TEXT = "scripted/echo", "scripted/text?tokens=5"
SETTINGS: dict[str, Any] = {"gateway": {"prices": {ECHO: {"input": 1000, "output": 1000}}}}


async def test_usage_as_a_table_and_as_json() -> None:
    async with mesh(SETTINGS) as running:
        assert "nothing was used" in (await both(running.address, "usage", "--by", "model"))[1]
        async with SluiceClient(running.address) as client:
            for model, team in ((ECHO, "a"), (ECHO, "b"), (TEXT, "b")):
                spec = question("one two three", model=model)
                spec.labels["team"] = team
                await client.chat(spec)
        out, err = await both(running.address, "usage", "--by", "model", "--by", "provider", "--per", "month")
        lines = [line.split() for line in out.splitlines()]
        month = f"{datetime.now(UTC):%Y-%m}"
        assert lines[0][:4] == ["MONTH", "PROVIDER", "MODEL", "REQUESTS"]
        assert [line[:4] for line in lines[1:3]] == [
            [month, "scripted", "echo", "2"],
            [month, "scripted", "text?tokens=5", "1"],
        ]
        assert lines[3][:3] == ["in", "all", "3"]
        assert lines[2][-1] == "$0.0000+"
        assert "cost is not known: 1;" in err
        answer = json.loads(await said(running.address, "usage", "--label", "team", "--json"))
        assert {row["labels"]["team"]: row["figures"]["requests"] for row in answer["rows"]} == {"a": "1", "b": "2"}
        assert answer["totals"]["requests"] == "3"
        assert answer["totals"]["costNanoUsd"] != "0"
        assert "startTime" in answer


def test_a_row_says_how_much_is_certain() -> None:
    figures = UsageFigures(
        requests=1200,
        attempts=1300,
        failed=2,
        usage=Usage(input_tokens=300, cached_input_tokens=7, output_tokens=100),
        by_source=[
            SourceUsage(usage=Usage(input_tokens=200, output_tokens=100, source=UsageSource.USAGE_SOURCE_PROVIDER)),
            SourceUsage(usage=Usage(input_tokens=100, source=UsageSource.USAGE_SOURCE_PARTIAL)),
        ],
        cost_nano_usd=1_234_567_890,
    )
    assert usage._cells(figures) == ("1,200", "1,300", "2", "", "", "300", "7", "100", "", "25%", "$1.2346")


def test_times() -> None:
    assert usage._moment("2026-01-31", "--since") == datetime(2026, 1, 31, tzinfo=UTC)
    ago = usage._moment("2w", "--since")
    assert (datetime.now(UTC) - ago).days == 14
    with pytest.raises(typer.BadParameter):
        usage._moment("yesterday", "--since")
    assert CliRunner().invoke(app, ["usage", "--until", "9x"]).exit_code == 2
    assert CliRunner().invoke(app, ["usage", "--by", "colour"]).exit_code == 2
