"""The commands against a mesh of real processes: what they print, where, and how they end."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest

from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice_client import SluiceClient

from .processes import SECONDS, Mesh, on_terminal

pytestmark = pytest.mark.slow

ESCAPE = "\x1b["
SLOW = "scripted/text?tokens=20000&delay_ms=20"
NOTES = '''"""Notes."""


class Lighthouse:
    """Keeps ships off the rocks."""

    def ignite_beacon(self) -> None:
        """Ignites the beacon at dusk, with whale oil."""
'''


@pytest.fixture(scope="module")
def corpus(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("coast")
    (folder / "harbour.py").write_text(NOTES, encoding="utf-8")
    (folder / "tides.md").write_text("# Tides\n\nHigh water comes twice a day.\n", encoding="utf-8")
    said = mesh.run("index", str(folder), "--name", "coast")
    assert said.stdout.startswith("indexed corpora/coast at snapshot-")
    assert "2 files" in said.stdout
    return "coast"


def state_of(mesh: Mesh, response: str) -> chat_pb.GetResponseResponse:
    async def ask() -> chat_pb.GetResponseResponse:
        async with SluiceClient(mesh.address) as client:
            return await client.get_response(response)

    return asyncio.run(ask())


def test_a_pipe_gets_plain_text_and_footnotes(mesh: Mesh, corpus: str) -> None:
    said = mesh.run("ask", "when is the beacon ignited?", "--corpus", corpus)
    assert ESCAPE not in said.stdout + said.stderr
    assert "```python" in said.stdout
    assert re.search(r"^\[1\] harbour\.py:\d+-\d+ \(Lighthouse\) VERIFIED$", said.stdout, re.MULTILINE), said.stdout
    assert "no model was used" in said.stderr
    assert "no model was used" not in said.stdout


def test_a_terminal_gets_markdown(mesh: Mesh, corpus: str) -> None:
    code, screen = on_terminal(["ask", "when is the beacon ignited?", "--corpus", corpus], mesh.environment)
    assert code == 0
    assert ESCAPE in screen
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    assert "def ignite_beacon" in shown
    assert "```" not in shown
    assert re.search(r"\[1\] harbour\.py:\d+-\d+ \(Lighthouse\) VERIFIED", shown), shown


def test_passages_are_shown_on_request(mesh: Mesh, corpus: str) -> None:
    said = mesh.run("ask", "beacon", "--corpus", corpus, "--show-passages", "--top-k", "1")
    assert "harbour.py:" in said.stderr
    assert "whale oil" in said.stderr


def test_marks_of_models_become_footnotes(mesh: Mesh, corpus: str) -> None:
    said = mesh.run("ask", "beacon", "--corpus", corpus, "--model", "scripted/cite")
    assert not re.search(r"\[p\d", said.stdout)
    assert re.search(r"^\[1\] harbour\.py:\S+ .*VERIFIED$", said.stdout, re.MULTILINE), said.stdout


@pytest.mark.parametrize("arguments", [["-"], []])
def test_a_question_comes_from_standard_input(mesh: Mesh, arguments: list[str]) -> None:
    said = mesh.run("ask", *arguments, "--model", "scripted/echo", stdin="what is\nnew?\n")
    assert "what is\nnew?" in said.stdout


def test_no_question_is_wrong_usage(mesh: Mesh) -> None:
    assert "no question" in mesh.run("ask", code=2).stderr
    assert mesh.run("ask", "--no-such-option", code=2).stdout == ""
    assert "--corpus" in mesh.run("ask", "x", "--top-k", "3", code=2).stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_ask_cancels_upstream(mesh: Mesh, number: signal.Signals, code: int) -> None:
    process = mesh.start("ask", "go", "--model", SLOW, "--json")
    assert process.stdout is not None
    response = ""
    for line in process.stdout:
        event = json.loads(line)["event"]
        response = response or event.get("accepted", {}).get("response", "")
        if "textDelta" in event:
            break
    process.send_signal(number)
    process.communicate(timeout=SECONDS)
    assert process.returncode == code
    ended = state_of(mesh, response)
    assert ended.state == chat_pb.RESPONSE_STATE_CANCELLED
    assert 0 < len(ended.answer.text) < 2000


def test_ctrl_c_on_a_terminal_leaves_it_in_order(mesh: Mesh) -> None:
    code, screen = on_terminal(["ask", "go", "--model", SLOW], mesh.environment, stop_at="mesh")
    assert code == 130
    assert "interrupted" in screen
    assert "Traceback" not in screen
    assert screen.count("\x1b[?25l") == screen.count("\x1b[?25h"), "the cursor stays hidden"


def test_a_reader_that_leaves_is_no_failure_to_report(mesh: Mesh) -> None:
    process = mesh.start("ask", "go", "--model", SLOW)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(10)
    process.stdout.close()
    assert process.wait(SECONDS) != 0
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_changes_on_the_way_are_told_on_standard_error(mesh: Mesh) -> None:
    said = mesh.run("ask", "x", "--model", "scripted/text?fault=UPSTREAM_OVERLOADED@3", code=1)
    assert said.stderr.startswith("sluice: ")
    assert "Traceback" not in said.stderr


def test_every_json_output_parses(mesh: Mesh, corpus: str, tmp_path: Path) -> None:
    events = mesh.json("ask", "when is the beacon ignited?", "--corpus", corpus)
    assert [line["sequence"] for line in events] == list(range(1, len(events) + 1))
    assert "accepted" in events[0]["event"]
    assert "completed" in events[-1]["event"]
    [status] = mesh.json("status")
    assert status["retrieval"]["state"] == "available"
    openai = next(one for one in status["integrations"] if one["id"] == "openai")
    assert openai["health"]["missingSettings"] == ["OPENAI_API_KEY"]
    [models] = mesh.json("models")
    assert "extractive/quote" in {model["name"] for model in models["models"]}
    assert "openai" in {one["integration"] for one in models["unreachable"]}
    [only] = mesh.json("models", "scripted")
    assert {model["integration"] for model in only["models"]} == {"scripted"}
    [routes] = mesh.json("routes")
    assert routes["defaultAlias"] == "default"
    [found] = mesh.json("search", "beacon", "--corpus", corpus, "--top-k", "1")
    assert [passage["path"] for passage in found["passages"]] == ["harbour.py"]
    [corpora] = mesh.json("corpora")
    assert "corpora/coast" in {one["name"] for one in corpora["corpora"]}
    [tasks] = mesh.json("tasks", "list")
    name = next(task["name"] for task in tasks["tasks"] if task["subject"] == "corpora/coast")
    [shown] = mesh.json("tasks", "show", name)
    assert shown["task"]["state"] == "TASK_STATE_SUCCEEDED"
    watched = mesh.json("tasks", "watch", name.removeprefix("tasks/"))
    assert watched[-1]["task"]["state"] == "TASK_STATE_SUCCEEDED"
    [cancelled] = mesh.json("tasks", "cancel", name)
    assert cancelled["task"]["state"] == "TASK_STATE_SUCCEEDED"
    [key] = mesh.json("keys", "new")
    assert key["row"]["sha256"]
    [version] = mesh.json("version")
    assert version["version"]
    (tmp_path / "a.txt").write_text("alpha\n", encoding="utf-8")
    [indexed] = mesh.json("index", str(tmp_path), "--name", "throwaway")
    assert indexed["task"]["result"]["files"] == "1"
    assert mesh.json("corpora", "delete", "throwaway") == [{"deleted": "corpora/throwaway"}]
    [failure] = mesh.json("corpora", "delete", "throwaway", code=1)
    assert failure["error"]["reason"] == "NOT_FOUND"


def test_a_dry_run_counts_and_leaves_no_corpus(mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "b.md").write_text("# B\n", encoding="utf-8")
    said = mesh.run("index", str(tmp_path), "--name", "dry", "--include", "*.py", "--dry-run")
    assert said.stdout.startswith("would index corpora/dry: 1 files")
    assert "dry" not in mesh.run("corpora").stdout


def test_indexing_on_a_terminal_shows_a_bar(mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n", encoding="utf-8")
    code, screen = on_terminal(["index", str(tmp_path), "--name", "bar"], mesh.environment)
    assert code == 0
    assert "━" in screen
    assert 'sluice ask "…" --corpus bar' in screen
    mesh.run("corpora", "delete", "bar")


def test_tables_are_plain_columns_in_a_pipe(mesh: Mesh, corpus: str) -> None:
    for command in ("status", "models", "routes", "corpora", "tasks"):
        said = mesh.run(command)
        assert ESCAPE not in said.stdout
        assert said.stdout.splitlines()[0].isupper()
    assert "set OPENAI_API_KEY" in mesh.run("status").stdout


def test_failures_say_what_to_do(mesh: Mesh, corpus: str) -> None:
    unknown = mesh.run("ask", "x", "--corpus", "nowhere", code=1)
    assert corpus in unknown.stderr
    assert "sluice index" in unknown.stderr
    assert "sluice models" in mesh.run("ask", "x", "--model", "nobody/nothing", code=1).stderr
    nobody = mesh.run("status", "--address", "127.0.0.1:1", code=1)
    assert "sluice up" in nobody.stderr
    assert "sluice status" in mesh.run("ask", "x", "--model", "openai/gpt-5-mini", code=1).stderr
    denied = mesh.run("index", "/", "--name", "root", code=1)
    assert "allowed_roots" in denied.stderr
    assert "corpora/root" not in mesh.run("corpora", "--json").stdout
