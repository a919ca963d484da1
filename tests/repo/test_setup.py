"""Setting up: it says what is missing, does nothing twice, and notices what changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .house import ROOT, load_script, members

SCRIPT = ROOT / "scripts" / "setup.py"


@pytest.fixture
def setup() -> ModuleType:
    return load_script("setup")


def test_it_needs_no_installed_package() -> None:
    """-I -S: no site-packages at all. The script has to start before anything is installed."""
    code = f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='not_main')"
    result = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_it_does_nothing_when_up_to_date(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stamp = tmp_path / "stamp.json"
    stamp.write_text(json.dumps(setup.fingerprint(setup.members())))
    monkeypatch.setattr(setup, "STAMP", stamp)
    monkeypatch.setattr(setup, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(setup, "run", lambda *_: pytest.fail("started a process"))
    setup.main()
    assert "up to date" in capsys.readouterr().out


@pytest.mark.parametrize("changed", ["requirements/dev.lock", "requirements/bootstrap.lock", "libs/kit/pyproject.toml"])
def test_it_notices_a_change(setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    folders = [member.folder.relative_to(ROOT).as_posix() for member in members()]
    for name in ["requirements/dev.lock", "requirements/bootstrap.lock", *(f"{f}/pyproject.toml" for f in folders)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.setattr(setup, "BOOTSTRAP_LOCK", tmp_path / "requirements" / "bootstrap.lock")
    monkeypatch.setattr(setup, "DEV_LOCK", tmp_path / "requirements" / "dev.lock")
    before = setup.fingerprint(folders)
    assert setup.fingerprint(folders) == before
    with (tmp_path / changed).open("a") as file:
        file.write("\n")
    assert setup.fingerprint(folders) != before


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"'])
def test_a_damaged_stamp_means_set_up_again(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "stamp.json").write_text(text)
    monkeypatch.setattr(setup, "STAMP", tmp_path / "stamp.json")
    assert setup.read_stamp() == {}


def test_it_says_what_python_lacks(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="python3-venv"):
        setup.check_tools()


def test_it_refuses_an_old_python(tmp_path: Path) -> None:
    """The check stands before anything an old interpreter could stumble over; here a lie about the version reaches it."""
    lie = "import runpy, sys; sys.version_info = (3, 8, 1); sys.argv = ['setup.py']; runpy.run_path(sys.orig, run_name='x')"
    code = lie.replace("sys.orig", repr(str(SCRIPT)))
    environment = dict(os.environ, PATH=str(tmp_path))
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    assert result.returncode != 0
    assert "Python 3.11 or newer is needed" in result.stderr
    assert "PYTHON=" in result.stderr


def test_an_old_python_can_parse_it() -> None:
    import ast

    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 7))


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_ci_script_parses_and_is_executable() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
