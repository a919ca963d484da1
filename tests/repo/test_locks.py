"""The locks meet what the members ask for, name no place, and the check that says so can fail."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from .house import ROOT, load_script

VENDORS = {"openai", "anthropic"}
STORE = {"qdrant-client", "qdrant-edge-py", "tree-sitter"}


@pytest.fixture
def lock() -> ModuleType:
    return load_script("lock")


@pytest.fixture
def copy(lock: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the check reads, for it to look at instead."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for folder in lock.workspace_members():
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(ROOT / folder / "pyproject.toml", tmp_path / folder)
    monkeypatch.setattr(lock, "ROOT", tmp_path)
    monkeypatch.setattr(lock, "REQUIREMENTS", tmp_path / "requirements")
    return tmp_path


def names(lock: ModuleType, image: str) -> set[str]:
    return set(lock.read_pins(ROOT / "requirements" / f"{image}.lock"))


def test_the_locks_fit(lock: ModuleType) -> None:
    assert lock.problems() == []


def test_every_file_of_requirements_is_known(lock: ModuleType) -> None:
    assert {path.name for path in (ROOT / "requirements").glob("*.lock")} == {known.path.name for known in lock.LOCKS}


def test_images_carry_what_they_need_and_no_more(lock: ModuleType) -> None:
    assert not names(lock, "gateway") & (VENDORS | STORE | {"rich", "typer"})
    assert not names(lock, "providers") & (STORE | {"sqlalchemy", "rich", "typer"})
    assert names(lock, "providers") >= VENDORS
    assert not names(lock, "retrieval") & (VENDORS | {"aiohttp", "rich", "typer"})
    assert names(lock, "retrieval") >= STORE
    assert not names(lock, "cli") & (VENDORS | STORE | {"sqlalchemy", "aiohttp"})
    assert names(lock, "mesh") >= VENDORS | STORE
    assert "hatchling" in names(lock, "build"), "members are built without build isolation"
    for image in lock.LOCKS:
        if image.members and image.name != "dev":
            assert not names(lock, image.name) & {"pytest", "mypy", "ruff", "grpcio-tools", "buf-bin", "hatchling"}


def test_extras_are_of_images_that_need_them(lock: ModuleType) -> None:
    telemetry = {"prometheus-client", "opentelemetry-sdk"}
    assert names(lock, "gateway") >= {"psycopg", *telemetry}
    assert names(lock, "retrieval") >= {"psycopg", *telemetry}
    assert not names(lock, "cli") & telemetry, "clients export nothing"
    sdks = {"openai": "openai", "anthropic": "anthropic", "google": "google-genai", "bedrock": "boto3"}
    for vendor, sdk in sdks.items():
        assert names(lock, f"providers-{vendor}") & set(sdks.values()) == {sdk}
    assert not names(lock, "providers-base") & {*sdks.values(), "azure-identity"}


@pytest.mark.parametrize(
    ("file", "pattern", "replacement", "complaint"),
    [
        ("services/gateway/pyproject.toml", r'"sqlalchemy>=[\d.]+"', '"sqlalchemy>=99"', "sqlalchemy>=99 is not met"),
        ("services/gateway/pyproject.toml", r'"sluice-protos",', '"sluice-protos", "flask",', "flask has no pin"),
        ("services/gateway/pyproject.toml", r'"sluice-protos",', '"sluice-kit", "sluice-client",', "needs the member"),
        ("requirements/gateway.lock", r"(?m)^grpcio==[\d.]+", "grpcio==1.0", "grpcio 1.0 is not what dev.lock pins"),
        ("requirements/gateway.lock", r"(?m)^typing-extensions==.*\\\n( +--hash.*\n)+", "", "typing-extensions"),
        ("requirements/cli.lock", r"(?m)^rich==(\S+) \\\n(    --hash=.*\n)+", r"rich==\1\n", "no hash: rich"),
        ("services/gateway/pyproject.toml", r'(?m)^postgres = \["psycopg', 'postgres = ["flask', "flask"),
        ("services/gateway/pyproject.toml", r"(?m)^postgres = ", "other = ", "no member has the extra postgres"),
        (
            "libs/kit/pyproject.toml",
            r'"prometheus-client>=[\d.]+"',
            '"prometheus-client>=99"',
            "gateway.lock: prometheus",
        ),
        ("requirements/dev.lock", r"\A", "--index-url https://packages.example/simple\n", "names an address"),
        ("requirements/dev.lock", r"\A", "-e ./libs/kit\n", "names an address or a path"),
    ],
)
def test_the_check_finds(
    lock: ModuleType, copy: Path, file: str, pattern: str, replacement: str, complaint: str
) -> None:
    path = copy / file
    text = path.read_text(encoding="utf-8")
    assert re.search(pattern, text), f"{file} no longer holds {pattern}"
    path.write_text(re.sub(pattern, replacement, text, count=1), encoding="utf-8")
    assert any(complaint in problem for problem in lock.problems()), lock.problems()
