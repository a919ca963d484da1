"""What the meta-tests know about the tree: its members, its files, and how to run one of its scripts."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("sluice_gateway", "sluice_providers", "sluice_retrieval")
OPTIONAL_MODULES = {"sluice_retrieval.minilm.model": "minilm"}
"""Modules that need an optional lock of requirements/, each imported by one other module that can do without it."""
TEXT_SUFFIXES = frozenset(
    {".py", ".pyi", ".proto", ".md", ".toml", ".yaml", ".yml", ".json", ".lock", ".in", ".ini", ".cfg", ".txt", ".sh"}
    | {".ts", ".js", ".mjs", ".go", ".mod", ".sum", ".java", ".xml", ".j2"}
)


@dataclass(frozen=True)
class Member:
    """One distribution of the workspace."""

    folder: Path
    project: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.project["name"])

    @property
    def packages(self) -> tuple[str, ...]:
        """Its import packages: `sluice` and `buf` for the stubs, one package for everyone else."""
        return ("sluice", "buf") if self.name == "sluice-protos" else (self.name.replace("-", "_"),)

    def modules(self) -> list[Path]:
        return sorted(path for package in self.packages for path in (self.folder / package).rglob("*.py"))


@cache
def root_pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@cache
def members() -> tuple[Member, ...]:
    folders = root_pyproject()["tool"]["uv"]["workspace"]["members"]
    return tuple(
        Member(ROOT / folder, tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"])
        for folder in folders
    )


def handwritten_members() -> tuple[Member, ...]:
    return tuple(member for member in members() if member.name != "sluice-protos")


@cache
def files() -> tuple[Path, ...]:
    """Every file that is committed or would be: what git knows and does not ignore. Without git, the whole tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        paths = (ROOT / name for name in listed.stdout.split("\0") if name)
        return tuple(sorted(path for path in paths if path.is_file()))
    ignored = {".git", ".venv", "__pycache__", "node_modules", "dist", "build"}
    return tuple(sorted(p for p in ROOT.rglob("*") if p.is_file() and not ignored & set(p.relative_to(ROOT).parts)))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_generated(path: Path) -> bool:
    return relative(path).startswith(("gen/python/sluice/", "gen/python/buf/"))


def python_files() -> list[Path]:
    """Every Python file that a person writes."""
    return [path for path in files() if path.suffix == ".py" and not is_generated(path)]


def text_files() -> list[Path]:
    """Every file a person could read, generated ones and locks included."""
    return [path for path in files() if path.suffix in TEXT_SUFFIXES or path.name in {"Makefile", "run", "LICENSE"}]


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a file of scripts/ with the interpreter that runs the tests."""
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), *arguments],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def load_script(name: str) -> ModuleType:
    """Import a file of scripts/ as a module of its own, so that a test can call its functions."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up while it is being executed
    spec.loader.exec_module(module)
    return module
