"""`sluice ask` over a repository, and what refines a grounded question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sluice_cli.main import app

from .processes import Mesh

FILES = {
    "guide/harbour.md": "# Harbour\n\nThe harbour gate closes at dusk.\n",
    "guide/lock.md": "# Lock\n\nThe lock gate opens when the levels are equal.\n",
    "code/gate.py": 'def close_gate(speed: int) -> str:\n    """Closes the gate of the harbour."""\n    return f"gate {speed}"\n',
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources") / "canal"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def asked(mesh: Mesh, *arguments: str) -> Result:
    """The command, without the start of a process."""
    return CliRunner().invoke(app, ["ask", *arguments], env={"SLUICE_ADDRESS": mesh.address})


def events(mesh: Mesh, sources: Path, *arguments: str) -> list[dict[str, Any]]:
    """What a question about the sources streams, as JSON."""
    said = asked(mesh, "gate", "--repository", str(sources), "--json", *arguments)
    assert said.exit_code == 0, said.stderr
    return [json.loads(line)["event"] for line in said.stdout.splitlines()]


def passages(seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    [found] = [event["retrieved"].get("passages", []) for event in seen if "retrieved" in event]
    return list(found)


def paths(seen: list[dict[str, Any]]) -> list[str]:
    return [passage["path"] for passage in passages(seen)]


@pytest.mark.slow
def test_a_repository_is_indexed_while_one_looks_on(mesh: Mesh, sources: Path) -> None:
    first = mesh.run("ask", "When does the harbour gate close?", "--repository", str(sources))
    assert "indexing  100%  publishing" in first.stderr
    assert "harbour gate closes at dusk" in first.stdout
    assert "VERIFIED" in first.stdout
    again = mesh.run("ask", "When does the harbour gate close?", "--repository", str(sources))
    assert "indexing" not in again.stderr
    assert "indexing" in asked(mesh, "gate", "--repository", str(sources), "--max-age", "0").stderr
    missing = asked(mesh, "gate", "--repository", str(sources), "--revision", "v9")
    assert missing.exit_code == 1
    assert "cannot be fetched" in missing.stderr
    told = asked(mesh, "gate", "--repository", "/", "--best-effort", "--model", "scripted/echo")
    assert "not grounded" in told.stderr
    assert told.stdout.strip()


@pytest.mark.slow
def test_what_refines_a_grounded_question(mesh: Mesh, sources: Path) -> None:
    assert set(paths(events(mesh, sources))) == set(FILES)
    assert set(paths(events(mesh, sources, "--include", "*.md"))) == {"guide/harbour.md", "guide/lock.md"}
    assert paths(events(mesh, sources, "--exclude", "guide/")) == ["code/gate.py"]
    pinned = passages(events(mesh, sources, "--pin", "guide/lock.md"))
    assert (pinned[0]["path"], pinned[0]["match"]) == ("guide/lock.md", "MATCH_KIND_PINNED")
    assert len(paths(events(mesh, sources, "--top-k", "1"))) == 1
    assert len(paths(events(mesh, sources, "--token-budget", "15"))) == 1
    assert paths(events(mesh, sources, "--query", "equal levels"))[0] == "guide/lock.md"
    german = events(mesh, sources, "--language", "de-AT")
    assert german[0]["accepted"]["templateId"] == "grounded/v1.de"
    assert events(mesh, sources)[0]["accepted"]["templateId"] == "grounded/v1.en"


def test_what_needs_something_to_ground_in_says_so(mesh: Mesh) -> None:
    for option in (["--revision", "v1"], ["--credential", "work"], ["--max-age", "0"]):
        said = asked(mesh, "x", *option)
        assert (said.exit_code, "need a --repository" in said.stderr) == (2, True)
    for option in (["--query", "y"], ["--token-budget", "9"], ["--best-effort"], ["--pin", "a"]):
        said = asked(mesh, "x", *option)
        assert (said.exit_code, "need a --corpus or a --repository" in said.stderr) == (2, True)
