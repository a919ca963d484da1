"""The contracts pass their lint, and the tools that watch them do bite."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from .house import ROOT, load_script

contracts = load_script("contracts")
USAGE = Path("protos/sluice/chat/v1/usage.proto")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What buf and its script read, in a folder that a test may spoil."""
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    (tmp_path / "gen" / "python").mkdir(parents=True)
    release(tmp_path, "0.1.0")
    return tmp_path


def release(checkout: Path, version: str) -> None:
    """Say which version the copy is."""
    text = (ROOT / "gen" / "python" / "pyproject.toml").read_text(encoding="utf-8")
    text = re.sub(r'^version = ".*"$', f'version = "{version}"', text, flags=re.MULTILINE)
    (checkout / "gen" / "python" / "pyproject.toml").write_text(text, encoding="utf-8")


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.search(old, text), f"{path.name} no longer holds {old}; choose another change"
    path.write_text(re.sub(old, new, text, count=1), encoding="utf-8")


def test_our_contracts_pass_their_lint() -> None:
    assert contracts.lint(ROOT) == 0


def test_nothing_breaks_against_the_last_release() -> None:
    assert contracts.breaking(ROOT) == 0


def test_lint_finds_a_field_without_a_comment(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change(checkout / USAGE, r"(?m)^}", "  int64 nothing_said = 99;\n}")
    assert contracts.lint(checkout) != 0
    assert "nothing_said" in capfd.readouterr().out


def test_lint_finds_a_bad_name_and_allows_no_inline_ignore(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change(checkout / USAGE, r"(?m)^}", "  // buf:lint:ignore FIELD_LOWER_SNAKE_CASE\n  int64 BadName = 99;\n}")
    assert contracts.lint(checkout) != 0
    assert "BadName" in capfd.readouterr().out


def test_a_renumbered_field_breaks(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert contracts.baseline(checkout) == 0
    assert contracts.breaking(checkout) == 0
    change(checkout / USAGE, r"= 1\b", "= 91")
    capfd.readouterr()
    assert contracts.breaking(checkout) != 0
    assert "usage.proto" in capfd.readouterr().out


def test_a_new_field_does_not_break(checkout: Path) -> None:
    assert contracts.baseline(checkout) == 0
    change(checkout / USAGE, r"(?m)^}", "  // How many tokens were new.\n  optional int64 new_tokens = 99;\n}")
    assert contracts.breaking(checkout) == 0


def test_before_the_first_release_a_break_is_only_reported(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert contracts.baseline(checkout) == 0
    release(checkout, "0.1.0.dev0")
    change(checkout / USAGE, r"= 1\b", "= 91")
    assert contracts.breaking(checkout) == 0
    said = capfd.readouterr().out
    assert "usage.proto" in said
    assert "allowed before 0.1.0" in said


def test_third_party_files_keep_their_licences() -> None:
    third_party = ROOT / "protos" / "third_party"
    files = sorted(third_party.rglob("*.proto"))
    assert files
    for path in files:
        assert "Licensed under the Apache License" in path.read_text(encoding="utf-8"), path.name
        assert (third_party / path.relative_to(third_party).parts[0] / "LICENSE").is_file()
