"""The tests against the independent mock need npm: they run when they are asked for, and say what they lack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .house import ROOT, load_script

PEERS = ROOT / "tests" / "peers"


@pytest.fixture
def peers() -> ModuleType:
    return load_script("peers")


def test_the_default_run_does_not_collect_them() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests"]
    collected = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert collected.returncode == 0, collected.stdout
    assert "tests/repo/test_peers.py" in collected.stdout
    assert "tests/peers/" not in collected.stdout


def test_without_node_it_says_what_is_missing(
    peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert peers.main([]) == 2
    assert "node is not on PATH" in capsys.readouterr().err
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\necho v18.19.0\n")
    node.chmod(0o755)
    assert peers.main([]) == 2
    assert "npm is not on PATH" in capsys.readouterr().err
    (tmp_path / "npm").symlink_to(node)
    assert peers.main([]) == 2
    assert "Node.js 20 or newer is needed, this is v18.19.0" in capsys.readouterr().err


def test_what_it_installs_is_pinned_by_hash() -> None:
    wanted = json.loads((PEERS / "package.json").read_text(encoding="utf-8"))["dependencies"]
    locked = json.loads((PEERS / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert locked[""]["dependencies"] == wanted
    packages = {name: row for name, row in locked.items() if name}
    assert {f"node_modules/{name}" for name in wanted} <= set(packages)
    for name, row in packages.items():
        assert row["integrity"].startswith("sha512-"), name
        assert "resolved" not in row, "an address would tie it to one registry"
    assert all(packages[f"node_modules/{name}"]["version"] == version for name, version in wanted.items())
