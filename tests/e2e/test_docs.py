"""What the README and docs/ tell people to type works, against a real mesh."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from sluice_kit.config import load

from .console import ROOT, Block, RunningMesh, blocks, commands, running_mesh, skip_reason

NOT_RUN: Final = {
    "make demo": "tests/e2e/test_demo.py runs it",
    "make test": "it is this",
    "make setup": "it made the environment that runs this",
    "sluice up": "every test here runs against it: see console.running_mesh",
    "sluice login": "it needs an account at the vendor; cli/tests/test_login.py runs it against a server of its own",
}
"""Commands that stand in a page and are not run by it, with the reason."""
TOOLS: Final = {"grpcurl": "go", "node": "npm", "go": "go", "npm": "npm", "mvn": "mvn", "java": "mvn", "ghz": "go"}
"""Commands that need a toolchain, and which. Node, Go and Maven are for test_quickstarts.py, tools other than grpcurl for
test_tools.py."""
LANGUAGES: Final = {
    "console",
    "yaml",
    "python",
    "text",
    "mermaid",
    "json",
    "proto",
    "go",
    "ts",
    "java",
    "markdown",
    "ini",
    "",
}
"""What a page may show. Commands stand in `console`, never in `bash` or `sh`, so that they are run."""

PAGES: Final = sorted(
    path
    for pattern in ("README.md", "docs/**/*.md", "clients/**/README.md", "deploy/**/*.md")
    for path in ROOT.glob(pattern)
    if "node_modules" not in path.parts
)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    folder = tmp_path_factory.mktemp("docs")
    settings = f"retrieval: {{allowed_roots: [{folder}]}}\n"
    with running_mesh(folder, settings) as running:
        yield running


def tool_of(block: Block) -> str:
    """The toolchain a console needs, by its commands' first words; empty for none."""
    words = {word for command in commands(block) for word in re.findall(r"(?:^|[|;&]\s*)([\w.-]+)", command.text)}
    return next((tool for name, tool in TOOLS.items() if name in words), "")


def consoles(page: Path, *tools: str) -> list[Block]:
    found = (block for block in blocks(page) if block.is_console and block.not_run is None)
    return [block for block in found if tool_of(block) in tools]


def with_blocks(language: str, *tools: str) -> list[Path]:
    return [
        page
        for page in PAGES
        if (
            consoles(page, *tools)
            if language == "console"
            else [block for block in blocks(page) if block.language == language and block.not_run is None]
        )
    ]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def write_files(page: Path, mesh: RunningMesh) -> None:
    for block in blocks(page):
        if block.file is not None:
            for folder in (mesh.checkout, (mesh.checkout / block.page).parent):
                (folder / block.file).write_text(block.body, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks("console", ""), ids=name_of)
def test_commands(page: Path, mesh: RunningMesh) -> None:
    write_files(page, mesh)
    for block in consoles(page, ""):
        mesh.run(block, NOT_RUN)


@pytest.mark.slow
@pytest.mark.timeout(600)  # the first time, grpcurl is fetched and compiled
@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed, and grpcurl is installed by it")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any("grpcurl" in block.body for block in consoles(page, "go"))], ids=name_of
)
def test_grpcurl(page: Path, mesh: RunningMesh) -> None:
    install = next(
        command.text
        for page in PAGES
        for block in consoles(page, "go")
        for command in commands(block)
        if command.text.startswith("go install github.com/fullstorydev/grpcurl/")
    )
    if not Path(mesh.environment["GOBIN"], "grpcurl").exists():
        printed = mesh.shell(install)
        assert Path(mesh.environment["GOBIN"], "grpcurl").exists(), printed
    for block in consoles(page, "go"):
        if "grpcurl" in block.body:
            mesh.run(block, NOT_RUN | {install: "run once for all pages"})


@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks("python"), ids=name_of)
def test_python(page: Path, mesh: RunningMesh) -> None:
    for block in blocks(page):
        if block.language != "python" or block.not_run is not None:
            continue
        program = block.body.replace("127.0.0.1:7400", mesh.address)
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=mesh.checkout,
            env=dict(mesh.environment),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 0, f"{block}: {ended.stderr}"
        assert ended.stdout, f"{block} prints nothing"


@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks("yaml"), ids=name_of)
def test_configurations(page: Path, mesh: RunningMesh) -> None:
    """Every YAML shown is a sluice.yaml that `sluice config check` takes; missing keys are allowed."""
    write_files(page, mesh)
    for block in blocks(page):
        if block.language != "yaml" or block.not_run is not None:
            continue
        path = (mesh.checkout / block.page).parent / "checked.yaml"
        path.write_text(block.body, encoding="utf-8")
        assert load(path).data, f"{block} says nothing"
        printed = mesh.shell(f"sluice config check {path}; echo code $?")
        assert printed.endswith("code 0\n"), f"{block}: {printed}"


def test_pages_show_commands_so_that_they_are_run() -> None:
    wrong = [
        f"{block} is {block.language}" for page in PAGES for block in blocks(page) if block.language not in LANGUAGES
    ]
    assert not wrong


def test_every_exception_is_used_and_has_a_reason() -> None:
    shown = [
        command.text for page in PAGES for block in blocks(page) if block.is_console for command in commands(block)
    ]
    unused = [start for start in NOT_RUN if not any(skip_reason(text, {start: "x"}) for text in shown)]
    assert not unused
    bare = [str(block) for page in PAGES for block in blocks(page) if block.not_run == ""]
    assert not bare
