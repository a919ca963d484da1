"""Where an Ollama server is looked for, and its models where it does not answer."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.config import load
from sluice_kit.errors import SluiceError
from sluice_providers import ollama_cli
from sluice_providers.colocate import make
from sluice_providers.ollama_address import FROM_CONTAINER, ON_HOST, address_of, base_url, in_container

from .format_ollama import OLLAMA
from .subject import subject
from .test_ollama import settings_of
from .upstream import Upstream

TABLE = """\
NAME                       ID              SIZE      MODIFIED
llama3.2:latest            a80c4f17acd5    2.0 GB    2 weeks ago
hf.co/you/Model-GGUF:Q4    0a109f422b47    637 MB    About a minute ago
gpt-oss:120b-cloud         569662207105    -         5 days ago
"""


def command(folder: Path, script: str) -> Path:
    """Writes an `ollama` of our own into a folder."""
    path = folder / "ollama"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def telling(folder: Path, table: str = TABLE) -> Path:
    """An `ollama` that prints a table, and notes how it was called."""
    (folder / "table").write_text(table)
    return command(folder, f'echo "$OLLAMA_HOST $@ $SECRET" > {folder}/called\ncat {folder}/table')


async def test_the_command_line_finds_models_where_nobody_answers(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    telling(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SECRET", "hunter2")
    settings = {"adapter": "ollama", "base_url": "http://127.0.0.1:1", "models": [{"id": "mine"}]}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        models = {model.id: model for model in (await running.call("ListModels", pb.ListModelsRequest())).models}
        assert {name: model.display_size for name, model in models.items()} == {
            "llama3.2:latest": "2.0 GB",
            "hf.co/you/Model-GGUF:Q4": "637 MB",
            "gpt-oss:120b-cloud": "",
            "mine": "",
        }
        for probe in (False, True):
            status = await running.call("GetStatus", pb.GetStatusRequest(probe=probe))
            assert not status.available
            assert status.last_error == ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE
    assert (tmp_path / "called").read_text().split() == ["http://127.0.0.1:1", "list"]


@pytest.mark.parametrize("how", ["off", "missing", "fails", "empty", "slow", "endless"])
async def test_without_its_help_the_servers_silence_is_the_answer(how: str, transport: str, tmp_path: Path) -> None:
    scripts = {
        "fails": f"cat {tmp_path}/table; exit 1",
        "empty": "echo NAME ID SIZE MODIFIED",
        "slow": "sleep 60",
        "endless": "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
    }
    path = telling(tmp_path)
    if how in scripts:
        path = command(tmp_path, scripts[how])
    elif how == "missing":
        path = tmp_path / "nothing-here"
    settings = {
        "adapter": "ollama",
        "base_url": "http://127.0.0.1:1",
        "cli": how != "off",
        "cli_path": str(path),
        "cli_seconds": 0.3 if how == "slow" else 50,
    }
    async with subject(transport, "vendor", settings, tmp_path) as running:
        with pytest.raises(SluiceError) as caught:
            await running.call("ListModels", pb.ListModelsRequest())
    assert caught.value.reason_name == "UPSTREAM_UNAVAILABLE"
    assert not (tmp_path / "called").exists()


async def test_the_command_is_not_run_while_the_server_answers(
    transport: str, upstream: Upstream, tmp_path: Path
) -> None:
    settings = settings_of(upstream, cli=True, cli_path=str(telling(tmp_path)))
    async with subject(transport, "vendor", settings, tmp_path) as running:
        upstream.answer(OLLAMA.models)
        assert len((await running.call("ListModels", pb.ListModelsRequest())).models) == 4
        upstream.answer(OLLAMA.refusal(401))
        with pytest.raises(SluiceError) as caught:
            await running.call("ListModels", pb.ListModelsRequest())
        assert caught.value.reason_name == "UPSTREAM_AUTHENTICATION"
    assert not (tmp_path / "called").exists()


async def test_cancelling_kills_the_command_and_what_it_started(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "alive")
    # A grandchild holds the pipe open for as long as it lives.
    path = command(tmp_path, f"sh -c 'exec 3>{tmp_path}/alive; echo started >&3; sleep 60' &\nwait")
    task = asyncio.create_task(ollama_cli.listed(str(path), ON_HOST, 60))
    reader = asyncio.StreamReader()
    pipe = os.fdopen(os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK), "rb")
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        assert await asyncio.wait_for(reader.readline(), 60) == b"started\n"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.wait_for(reader.read(), 60) == b"", "the last holder of the pipe is gone"
    finally:
        transport.close()


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (TABLE, ["llama3.2:latest", "hf.co/you/Model-GGUF:Q4", "gpt-oss:120b-cloud"]),
        (TABLE.replace("    ", "\t"), ["llama3.2:latest", "hf.co/you/Model-GGUF:Q4", "gpt-oss:120b-cloud"]),
        (TABLE.replace("\n", "\r\n"), ["llama3.2:latest", "hf.co/you/Model-GGUF:Q4", "gpt-oss:120b-cloud"]),
        ("Warning: client version is 0.12.9\nqwen3:8b 500a1f067a9f 5.2GB now", ["qwen3:8b"]),
        ("NAME ID SIZE MODIFIED\n", []),
        ("Error: could not connect to ollama app, is it running?\n", []),
        ("", []),
    ],
)
def test_tables_of_the_command_line(table: str, names: list[str]) -> None:
    assert [row.name for row in ollama_cli.parse(table)] == names


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("", ""),
        ("  ", ""),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        (":1234", "http://127.0.0.1:1234"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        ("example.com", "http://example.com:11434"),
        ("example.com:1234", "http://example.com:1234"),
        (":66000", "http://127.0.0.1:11434"),
        (":-1", "http://127.0.0.1:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]:1337", "http://[::1]:1337"),
        ("[::]", "http://[::1]:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),  # noqa: S104 - nothing is bound
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("http://0.0.0.0:8080/", "http://127.0.0.1:8080"),
        (' "1.2.3.4" ', "http://1.2.3.4:11434"),
        ("'1.2.3.4'", "http://1.2.3.4:11434"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("https://1.2.3.4:4321", "https://1.2.3.4:4321"),
        ("https://example.com/ollama/", "https://example.com:443/ollama"),
        ("ollama.com", "https://ollama.com:443"),
    ],
)
def test_the_variable_is_read_as_ollama_reads_it(host: str, address: str) -> None:
    assert address_of(host) == address


def test_the_default_suits_host_and_container(tmp_path: Path) -> None:
    assert base_url("", "", False) == ON_HOST
    assert base_url("", "", True) == FROM_CONTAINER
    assert base_url("", "there:1", True) == "http://there:1"
    assert base_url("http://here:2", "there:1", True) == "http://here:2"
    assert not in_container(tmp_path, {})
    assert in_container(tmp_path, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.containerenv").touch()
    assert in_container(tmp_path, {})
    (tmp_path / "run/.containerenv").unlink()
    (tmp_path / ".dockerenv").touch()
    assert in_container(tmp_path, {})


@pytest.mark.parametrize(
    ("words", "environ", "address"),
    [
        ([], {"OLLAMA_HOST": "0.0.0.0:8080"}, "http://127.0.0.1:8080"),
        (["providers.ollama.container=true"], {}, FROM_CONTAINER),
        (["providers.ollama.container=false"], {}, ON_HOST),
        (["providers.ollama.base_url=http://gpu:11434"], {"OLLAMA_HOST": "elsewhere"}, "http://gpu:11434"),
    ],
)
def test_the_address_comes_from_the_configuration(words: list[str], environ: dict[str, str], address: str) -> None:
    servicer, _ = make(load(None, ["providers.ollama.adapter=ollama", *words], environ=environ), "ollama")
    assert servicer.adapter.settings.base_url == address
