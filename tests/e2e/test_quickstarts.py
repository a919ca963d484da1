"""The clients in other languages do the README's quickstart, with a key, where their toolchain is present."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.clients import CLIENTS, missing

from .console import ROOT, RunningMesh, blocks, running_mesh

QUESTION = "When does the sluice open?"


def _lacking(name: str) -> str:
    """Why a client cannot be built; empty if it can."""
    return next((missing(client) or "" for client in CLIENTS if client.name == name), "there is no such client")


NODE_IS_MISSING = _lacking("typescript")
needs_node = pytest.mark.skipif(NODE_IS_MISSING != "", reason=NODE_IS_MISSING or "Node is there")
GO_IS_MISSING = _lacking("go")
needs_go = pytest.mark.skipif(GO_IS_MISSING != "", reason=GO_IS_MISSING or "Go is there")
needs_maven = pytest.mark.skipif(
    "SLUICE_TEST_CLIENTS" not in os.environ, reason="Maven compiles for a minute: `make test-clients` runs it"
)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    folder = tmp_path_factory.mktemp("quickstarts")
    key = secrets.token_urlsafe(32)
    row = {"id": "test", "sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": "tides", "roles": ["editor"]}
    (folder / "keys.yaml").write_text(json.dumps({"keys": [row]}), encoding="utf-8")
    settings = (
        f"retrieval: {{allowed_roots: [{folder}]}}\nproviders: {{extractive: {{}}}}\n"
        "auth: {mode: keys, keys_file: keys.yaml}\n"
    )
    with running_mesh(folder, settings) as open_mesh:
        running = replace(open_mesh, environment={**open_mesh.environment, "SLUICE_API_KEY": key})
        notes = running.checkout / "notes"
        notes.mkdir()
        (notes / "tides.md").write_text("# Tides\n\nThe sluice opens at low tide.\n", encoding="utf-8")
        yield running


def quickstart(mesh: RunningMesh, language: str) -> None:
    """Runs the blocks of the README that stand under the name of a language."""
    found = [block for block in blocks(ROOT / "README.md") if f"cd clients/{language}\n" in block.body]
    assert len(found) == 1
    mesh.run(found[0], {})


def check_client(mesh: RunningMesh, command: str) -> None:
    """Asks about a folder of our own, so that what is cited is known; then makes the same client fail, twice."""
    printed = mesh.shell(f'{command} "$PWD/notes" "{QUESTION}"')
    assert "The sluice opens at low tide." in printed
    assert re.search(r"^tides\.md:\d+-3 VERIFIED$", printed, re.MULTILINE), printed
    assert printed.endswith("completed: STOP\n")
    refused = mesh.shell(f'{command} /etc "{QUESTION}"; echo code $?')
    assert re.search(r"^SOURCE_NOT_ALLOWED: .+", refused, re.MULTILINE), refused
    assert re.search(r"^code 1$", refused, re.MULTILINE), refused
    strange = mesh.shell(f'SLUICE_API_KEY=wrong {command} "$PWD/notes" "{QUESTION}"')
    assert re.search(r"^UNAUTHENTICATED: this key is not known$", strange, re.MULTILINE), strange


@needs_node
@pytest.mark.slow
@pytest.mark.timeout(600)  # the first time, everything is fetched and compiled
def test_typescript(mesh: RunningMesh) -> None:
    quickstart(mesh, "typescript")
    check_client(mesh, "node clients/typescript/dist/quickstart/main.js")


@needs_go
@pytest.mark.slow
@pytest.mark.timeout(600)  # the first time, everything is fetched and compiled
def test_go(mesh: RunningMesh) -> None:
    quickstart(mesh, "go")
    printed = mesh.shell(
        "cd clients/go && gofmt -l *.go */*.go && go vet . && go build -o ../../go-quickstart ./quickstart"
    )
    assert not printed, printed
    check_client(mesh, "./go-quickstart")


@needs_maven
@pytest.mark.slow
@pytest.mark.timeout(600)  # the first time, everything is fetched and compiled
def test_java(mesh: RunningMesh) -> None:
    if lacking := _lacking("java"):
        pytest.skip(f"the Java client cannot be built: {lacking}")
    quickstart(mesh, "java")
    check_client(
        mesh, 'java -cp "clients/java/target/classes:clients/java/target/lib/*" clients/java/quickstart/Quickstart.java'
    )


def test_the_lock_of_node_is_exact_and_names_no_host() -> None:
    folder = ROOT / "clients" / "typescript"
    lock = (folder / "package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in lock
    packages = re.findall(r'"node_modules/[^"]+": \{(.*?)\n    \}', lock, re.DOTALL)
    assert packages
    assert all('"integrity": "sha512-' in package for package in packages)


def test_the_go_module_pins_its_tools() -> None:
    module = (ROOT / "clients" / "go" / "go.mod").read_text(encoding="utf-8")
    assert "replace" not in module
    sums = (ROOT / "clients" / "go" / "go.sum").read_text(encoding="utf-8")
    for tool in re.findall(r"^\t(\S+/protoc-gen-\S+)$", module, re.MULTILINE):
        assert tool.rpartition("/cmd/")[0] in sums


@pytest.mark.parametrize(
    "path",
    [
        *("clients/go/bin", "clients/go/gen", "clients/java/target"),
        *(f"clients/typescript/{name}" for name in ("dist", "gen", "node_modules")),
    ],
)
def test_what_is_built_is_not_committed(path: str) -> None:
    listed = subprocess.run(["git", "ls-files", path], cwd=ROOT, check=False, capture_output=True, text=True)
    assert not listed.stdout
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nclean:")[2].partition("\n\n")[0]
    assert re.search(rf"rm -rf .*\b{path}\b", recipe), "`make clean` leaves it"
    assert Path(ROOT, path).parent.is_dir()
