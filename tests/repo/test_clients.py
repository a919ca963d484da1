"""The clients in other languages: what they need is said by name, and their tables of reasons agree with the contract."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from sluice_kit.errors import TABLE, reason_name

from .house import ROOT, load_script

TABLES = {
    "go": ("reasons.go", r"ErrorReason_ERROR_REASON_(\w+):\s+true"),
    "typescript": ("src/errors.ts", r"^  ErrorReason\.(\w+),$"),
    "java": ("src/main/java/sluice/client/SluiceException.java", r"^ {10}ErrorReason\.ERROR_REASON_(\w+)[,)]"),
}
"""By client: the file that lists the retryable reasons, and how one is found in it."""


@pytest.fixture
def clients() -> ModuleType:
    return load_script("clients")


def test_without_its_tools_a_client_is_left_out_and_the_tool_is_named(
    clients: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert clients.main([]) == 0
    said = capsys.readouterr().out
    for title in (
        "go is left out: Go 1.26",
        "typescript is left out: Node.js 20",
        "java is left out: a JDK of Java 17",
    ):
        assert title in said
    assert clients.main(["go"]) == 1, "what was asked for by name must not be left out in silence"
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\necho v18.19.0\n", encoding="utf-8")
    node.chmod(0o755)
    capsys.readouterr()
    assert clients.main(["typescript"]) == 1
    assert "Node.js 20 or newer is needed, this is v18.19.0" in capsys.readouterr().out
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho go1.22.1\n", encoding="utf-8")
    go.chmod(0o755)
    assert clients.main(["go"]) == 1
    assert "Go 1.26 or newer is needed, this is go1.22.1" in capsys.readouterr().out


def test_an_unknown_client_is_refused(clients: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert clients.main(["rust"]) == 2
    assert "there is no rust; there are go, typescript, java" in capsys.readouterr().err


def test_a_tool_that_fails_is_heard(
    clients: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "ROOT", tmp_path)
    (tmp_path / "clients" / "go").mkdir(parents=True)
    (go, *_) = clients.CLIENTS
    assert not clients.run(go, (("sh", "-c", "echo it broke; exit 3"), ("touch", "reached")))
    assert "it broke" in capsys.readouterr().err
    assert not (tmp_path / "clients" / "go" / "reached").exists()


def test_every_client_is_a_folder_with_a_page(clients: ModuleType) -> None:
    folders = {path.parent.name for path in (ROOT / "clients").glob("*/README.md")}
    assert folders == {client.name for client in clients.CLIENTS}


@pytest.mark.parametrize("name", TABLES)
def test_retryable_reasons_are_those_of_the_contract(name: str) -> None:
    """`make test-clients` asks the running client; this needs no toolchain."""
    path, pattern = TABLES[name]
    text = (ROOT / "clients" / name / path).read_text(encoding="utf-8")
    assert set(re.findall(pattern, text, re.MULTILINE)) == {
        reason_name(reason) for reason, row in TABLE.items() if row.retryable
    }
