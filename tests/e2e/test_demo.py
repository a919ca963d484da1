"""`make demo`, and what it promises: known questions cite the code that answers them, and changed lines show."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sluice_client import SluiceClient

from .processes import ROOT, SECONDS, Mesh, environment, marked, until

pytestmark = pytest.mark.slow

ANSWERS = {
    "How does the supervisor make sure that no orphan process remains?": (
        "cli/sluice_cli/supervisor/child.py",
        "Child._start",
    ),
    "How is the wait before the next try chosen, with jitter and patience?": (
        "clients/python/sluice_client/retry.py",
        "Backoff.wait",
    ),
}


def demo_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sluice_demo", ROOT / "scripts" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this repository's code, indexed as the demonstration does it."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("cli", "clients", "libs", "services", "protos"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "tests", "*.md"))
    mesh.run("index", str(copy), "--name", "copy")
    return copy


def citations(mesh: Mesh, question: str) -> list[dict[str, Any]]:
    events = [line["event"] for line in mesh.json("ask", question, "--corpus", "copy")]
    return [event["citation"] for event in events if "citation" in event]


def test_the_questions_are_those_of_the_demonstration() -> None:
    assert set(demo_module().QUESTIONS) == set(ANSWERS)


@pytest.mark.parametrize("question", ANSWERS)
def test_known_questions_cite_the_file_and_symbol_that_answer_them(mesh: Mesh, folder: Path, question: str) -> None:
    path, symbol = ANSWERS[question]
    found = [one for one in citations(mesh, question) if (one["path"], one.get("symbol")) == (path, symbol)]
    assert [one["state"] for one in found] == ["CITATION_STATE_VERIFIED"]
    lines = (folder / path).read_text(encoding="utf-8").splitlines()
    assert f"def {symbol.rpartition('.')[2]}(" in "\n".join(lines[: found[0]["endLine"]])


def test_a_changed_line_shows_in_its_citation_alone(mesh: Mesh, folder: Path) -> None:
    question, (path, symbol) = next(iter(ANSWERS.items()))
    before = citations(mesh, question)
    [number] = [index for index, one in enumerate(before) if one.get("symbol") == symbol]
    assert {one["state"] for one in before} == {"CITATION_STATE_VERIFIED"}
    file = folder / path
    original = file.read_text(encoding="utf-8")
    lines = original.splitlines(keepends=True)
    lines[before[number]["startLine"] - 1] += "# changed\n"
    file.write_text("".join(lines), encoding="utf-8")
    try:
        after = citations(mesh, question)
        assert [(one["path"], one.get("symbol")) for one in after] == [
            (one["path"], one.get("symbol")) for one in before
        ]
        assert after[number]["state"] == "CITATION_STATE_STALE"
        assert {one["state"] for one in after if one["path"] != path} == {"CITATION_STATE_VERIFIED"}
        shown = mesh.run("ask", question, "--corpus", "copy").stdout
        assert f"({symbol}) STALE" in shown
    finally:
        file.write_text(original, encoding="utf-8")
    assert {one["state"] for one in citations(mesh, question)} == {"CITATION_STATE_VERIFIED"}


def test_the_lines_of_a_citation_can_be_read_and_verified(mesh: Mesh, folder: Path) -> None:
    from sluice.retrieval.v1 import search_service_pb2 as pb

    async def check() -> None:
        async with SluiceClient(mesh.address) as client:
            passage = (await client.search("orphan process supervisor", ["copy"], top_k=1))[0]
            document = await client.get_document(
                "copy", passage.path, start_line=passage.start_line, end_line=passage.end_line
            )
            assert document.text == passage.text
            span = pb.SpanToVerify(
                corpus=passage.corpus,
                path=passage.path,
                start_line=passage.start_line,
                end_line=passage.end_line,
                revision=passage.revision,
                sha256=passage.sha256,
            )
            wrong = pb.SpanToVerify()
            wrong.CopyFrom(span)
            wrong.sha256 = "0" * 64
            states = await client.verify_spans([span, wrong])
            assert states == [pb.SPAN_STATE_VALID, pb.SPAN_STATE_CHANGED]

    asyncio.run(check())


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by their environment in /proc")
def test_the_demonstration_runs_and_leaves_nothing(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    # Sockets need a short path, so not below tmp_path.
    with tempfile.TemporaryDirectory(prefix="d") as scratch:
        variables = environment(tmp_path / "home", mark, TMPDIR=scratch, OPENAI_API_KEY="sk-not-to-be-seen")
        result = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "demo.py")],
            env=variables,
            check=False,
            capture_output=True,
            text=True,
            timeout=2 * SECONDS,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        for path, symbol in ANSWERS.values():
            assert f"({symbol}) VERIFIED" in result.stdout
            assert path in result.stdout
        assert "Where to go next" in result.stdout
        assert "openai" not in result.stdout.partition("Where to go next")[0].lower()
        assert list(Path(scratch).iterdir()) == []
        assert list((tmp_path / "home").iterdir()) == []
    # The mark does not pass the demonstration's scrubbed environment; its temporary folder is in every command line.
    assert [one for one in commands() if scratch in one] == []
    until(lambda: not marked(mark), "processes are left")


def commands() -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue  # it ended
    return found


def test_the_demonstration_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = demo_module()
    assert demo.missing() is None
    monkeypatch.setattr(demo, "SLUICE", tmp_path / "sluice")
    assert "make setup" in demo.missing()
