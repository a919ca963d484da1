"""`sluice models`, and tables that fit."""

import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sluice.gateway.v1.model_service_pb2 import IntegrationModel
from sluice.provider.v1 import model_pb2
from sluice.provider.v1.model_pb2 import Model
from sluice_cli import grid, models
from sluice_cli.main import app
from sluice_kit.testing import mesh

from .command import both, said

LLAMA = {
    "id": "llama3.1:8b",
    "family": "llama",
    "context_window": 131072,
    "max_output_tokens": 4096,
    "capabilities": ["streaming", "tools"],
}
EYES = {"id": "eyes", "capabilities": ["streaming", "images", "structured_output"]}
SETTINGS: dict[str, Any] = {
    "providers": {
        "local": {"adapter": "scripted", "discover": False, "models": [LLAMA, EYES]},
        "empty": {"adapter": "scripted", "discover": False},
        "keyless": {"adapter": "scripted", "missing": ["A_KEY", "B_KEY"]},
    },
    "gateway": {"default_route": "any", "routes": {"any": {"targets": ["local/eyes"]}}},
}


def test_a_row_has_all_that_is_known() -> None:
    full = Model(
        id="m",
        owned_by="meta",
        family="llama",
        context_window=131072,
        max_output_tokens=4096,
        size_bytes=4_402_341_478,
        display_size="4.1 GiB",
        parameter_size="8.0B",
        capabilities=[model_pb2.CAPABILITY_STREAMING, model_pb2.CAPABILITY_TOOLS],
        source=model_pb2.MODEL_SOURCE_DISCOVERED,
    )
    full.MergeFrom(Model.FromString(b"\x5a\x01\x63"))  # a capability from the future: number 99
    row = models._row(IntegrationModel(name="i/m", model=full))
    assert row == ("i/m", "131,072", "4,096", "8.0B, 4.1 GiB", "llama, meta", "streaming, tools", "discovered")
    assert models._row(IntegrationModel(name="i/m", model=Model(id="m"))) == ("i/m", "", "", "", "", "", "")
    assert models._size(Model(size_bytes=2**31)) == "2.0 GiB"


async def test_models_are_chosen_by_what_they_can_do_and_by_words() -> None:
    async with mesh(SETTINGS) as running:
        plain = (await said(running.address, "models")).splitlines()
        assert plain[0].split("  ")[0] == "MODEL"
        assert [line.split()[0] for line in plain[1:]] == ["local/eyes", "local/llama3.1:8b"]
        assert "131,072" in plain[2]
        for arguments, names in (
            (["--can", "tools"], ["local/llama3.1:8b"]),
            (["--can", "streaming", "--can", "Structured_Output"], ["local/eyes"]),
            (["--can", "tools", "--can", "images"], []),
            (["--find", "LLAMA"], ["local/llama3.1:8b"]),
            (["--find", "8b local"], ["local/llama3.1:8b"]),
            (["--find", "8b eyes"], []),
            (["local"], ["local/eyes", "local/llama3.1:8b"]),
            (["empty"], []),
        ):
            answer = json.loads(await said(running.address, "models", *arguments, "--json"))
            assert [one["name"] for one in answer["models"]] == names


async def test_integrations_that_list_none_are_named() -> None:
    async with mesh(SETTINGS) as running:
        for arguments, named in ([], {"keyless", "empty"}), (["empty"], {"empty"}), (["keyless"], {"keyless"}):
            _, err = await both(running.address, "models", *arguments)
            notes = {line.split()[1]: line for line in err.splitlines() if line.startswith("note: ")}
            assert notes.keys() == named
            assert "providers.empty.models" in notes.get("empty", "providers.empty.models")
            assert "set A_KEY, B_KEY" in notes.get("keyless", "set A_KEY, B_KEY")
        answer = json.loads(await said(running.address, "models", "--json"))
        assert [one["missingSettings"] for one in answer["unreachable"]] == [["A_KEY", "B_KEY"]]


def test_a_capability_that_is_none_is_wrong_usage() -> None:
    result = CliRunner().invoke(app, ["models", "--can", "fly"])
    assert result.exit_code == 2
    assert "structured-output" in result.stderr


COLUMNS = (
    grid.Column("name"),
    grid.Column("empty", gives_way=1),
    grid.Column("less", gives_way=2),
    grid.Column("least", gives_way=3),
    grid.Column("text", wraps=True),
)
ROWS = [("n" * 20, "", "l" * 20, "m" * 20, "word " * 10)]


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (150, ["name", "less", "least", "text"]),
        (100, ["name", "less", "least", "text"]),
        (80, ["name", "less", "text"]),
        (60, ["name", "text"]),
        (20, ["name", "text"]),
    ],
)
def test_columns_give_way(width: int, titles: Sequence[str]) -> None:
    console = Console(width=width, file=io.StringIO())
    table = grid.fitted(COLUMNS, ROWS, console)
    assert [column.header for column in table.columns] == titles
    console.print(table)
    shown = console.file.getvalue()  # type: ignore[attr-defined]  # the file is the StringIO above
    assert shown.count("word") == 10
    assert "…" not in shown
    assert all(len(line) <= width for line in shown.splitlines())
