"""Commands that need no mesh, and what all commands have in common."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1.corpus_pb2 import Corpus
from sluice.retrieval.v1.corpus_service_pb2 import IndexResult
from sluice_cli import index, problems
from sluice_cli.main import app
from sluice_kit.auth import read_keys
from sluice_kit.errors import TABLE, make_error

RUNNER = CliRunner()
COMMANDS = [
    ["ask"],
    ["search"],
    ["index"],
    ["corpora"],
    ["corpora", "list"],
    ["corpora", "delete"],
    ["corpora", "move"],
    ["up"],
    ["status"],
    ["models"],
    ["routes"],
    ["login"],
    ["tasks"],
    ["tasks", "list"],
    ["tasks", "show"],
    ["tasks", "watch"],
    ["tasks", "cancel"],
    ["config", "check"],
    ["keys", "new"],
    ["certs", "new"],
    ["certs", "renew"],
    ["certs", "show"],
    ["version"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command: list[str]) -> None:
    result = RUNNER.invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize("command", [one for one in COMMANDS if one not in (["corpora"], ["tasks"])], ids=" ".join)
def test_every_command_can_print_json(command: list[str]) -> None:
    assert "--json" in RUNNER.invoke(app, [*command, "--help"]).output


def test_no_command_shows_the_help() -> None:
    result = RUNNER.invoke(app, [])
    assert result.exit_code == 2
    assert "sluice up" in result.output
    assert "Exit codes" in result.output


def test_wrong_usage_is_2() -> None:
    for words in (["nonsense"], ["ask", "--nonsense"], ["up", "--port", "99999"], ["search", "x"]):
        assert RUNNER.invoke(app, words).exit_code == 2


def test_version_is_said_both_ways() -> None:
    assert RUNNER.invoke(app, ["--version"]).output == RUNNER.invoke(app, ["version"]).output


def test_a_new_key_opens_the_door_that_its_row_describes(tmp_path: Path) -> None:
    made = json.loads(RUNNER.invoke(app, ["keys", "new", "--json", "--role", "editor", "--tenant", "acme"]).output)
    assert len(made["key"]) > 40
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump({"keys": [made["row"]]}), encoding="utf-8")
    identity = read_keys(path).authenticate([("authorization", f"Bearer {made['key']}")], "")
    assert (identity.tenant, identity.key_id) == ("acme", made["row"]["id"])


def test_the_row_that_is_shown_is_yaml_for_the_file(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["keys", "new", "--id", "ci: 'runner'"])
    key = result.stdout.strip()
    assert key not in result.stderr
    path = tmp_path / "keys.yaml"
    path.write_text("keys:\n" + result.stderr.partition("\n\n")[2].lstrip("\n"), encoding="utf-8")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["keys"][0]["id"] == "ci: 'runner'"
    assert read_keys(path).authenticate([("authorization", f"Bearer {key}")], "").tenant == "default"
    assert hashlib.sha256(key.encode()).hexdigest() in result.stderr


def test_a_good_configuration_is_good_and_names_what_is_not_set(tmp_path: Path) -> None:
    path = tmp_path / "sluice.yaml"
    path.write_text("providers:\n  openai:\n    api_key: ${NO_SUCH_VARIABLE_OF_TESTS}\n", encoding="utf-8")
    result = RUNNER.invoke(app, ["config", "check", str(path)])
    assert result.exit_code == 0, result.output
    assert "good" in result.stdout
    assert "NO_SUCH_VARIABLE_OF_TESTS" in result.stderr
    assert "providers.openai.api_key" in result.stderr


def test_a_route_to_what_the_file_does_not_have_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "sluice.yaml"
    route = "gateway:\n  routes:\n    default:\n      targets: [scripted/echo, scirpted/echo]\n"
    for providers, notes in ((route, []), (f"{route}providers:\n  scripted: {{}}\n", ["no integration 'scirpted'"])):
        path.write_text(providers, encoding="utf-8")
        result = RUNNER.invoke(app, ["config", "check", str(path)])
        assert result.exit_code == 0, result.output
        seen = [line for line in result.stderr.splitlines() if "no integration" in line]
        assert len(seen) == len(notes)
        assert all("sluice.yaml:4: gateway.routes.default.targets" in line and notes[0] in line for line in seen)
        report = json.loads(RUNNER.invoke(app, ["config", "check", str(path), "--json"]).stdout)
        assert [f"note: {target}" for target in report["targetsElsewhere"]] == seen


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("log:\n  level: loud\n", "sluice.yaml:2: log.level"),
        ("gateway:\n  listen: 127.0.0.1:1\n  wrong: 1\n", "sluice.yaml:3: gateway.wrong"),
        ("retrieval:\n  wrong: 1\n", "sluice.yaml:2: retrieval.wrong"),
        ("providers:\n  scripted:\n    adapter: nobody\n", "sluice.yaml:3: providers.scripted.adapter"),
        ("wrong: 1\n", "sluice.yaml:1: wrong"),
        ("a: [\n", "sluice.yaml:2"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "sluice.yaml"
    path.write_text(text, encoding="utf-8")
    result = RUNNER.invoke(app, ["config", "check", str(path)])
    assert result.exit_code == 1
    assert where in result.stderr
    [line] = result.stderr.splitlines()
    report = json.loads(RUNNER.invoke(app, ["config", "check", str(path), "--json"]).stdout)
    assert report["ok"] is False
    assert line == f"sluice: {report['problems'][0]}"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://github.com/pallets/click.git", "click"),
        ("https://git.example/Group/My_Repo/", "my_repo"),
        ("/srv/Some Folder!", "some-folder"),
        ("/srv/---", "corpus"),
        ("/srv/" + "x" * 80, "x" * 63),
    ],
)
def test_a_corpus_is_named_after_its_source(source: str, name: str) -> None:
    assert index.corpus_id(source) == name


def test_index_refuses_what_is_neither_folder_nor_address(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["index", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "not a folder" in result.stderr
    result = RUNNER.invoke(app, ["index", str(tmp_path), "--name", "Not OK"])
    assert result.exit_code == 2


def test_the_summary_of_an_index_counts_what_was_left_out() -> None:
    corpus = Corpus(name="corpora/x", revision="snapshot-1")
    result = IndexResult(corpus=corpus, files=2, chunks=5, skipped={"too_large": 1, "binary": 3})
    said = index.summary(result, 1.25, dry_run=False)
    assert said == "indexed corpora/x at snapshot-1: 2 files, 5 chunks in 1.2 s; skipped: 3 binary, 1 too large"
    assert index.summary(IndexResult(), 0, dry_run=True).startswith("would index")


def test_every_error_can_be_printed_as_json() -> None:
    for reason in TABLE:
        said = problems.described(make_error(reason, "m", retry_after=1.5, metadata={"k": "v"}))
        assert json.loads(json.dumps(said)) == said
        assert said["reason"] == ErrorReason.Name(reason).removeprefix("ERROR_REASON_")
