"""The service as a process of its own."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from sluice.chat.v1.target_pb2 import Target
from sluice.retrieval.v1 import corpus_pb2
from sluice.task.v1 import task_service_pb2
from sluice_kit.config import ConfigError
from sluice_kit.main import EXIT_BIND, EXIT_CONFIG
from sluice_kit.testing import document_of
from sluice_retrieval.service import RetrievalService

EMBEDDER = corpus_pb2.Embedder(target=Target(provider="test", model="words"), dimensions=32)


@pytest.fixture
def run_folder():
    with tempfile.TemporaryDirectory(prefix="ret-") as folder:
        yield Path(folder)


@contextlib.asynccontextmanager
async def process(config: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sluice_retrieval", "--config", str(config), stderr=asyncio.subprocess.PIPE
    )
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        await running.wait()


async def serving(running: asyncio.subprocess.Process) -> None:
    assert running.stderr is not None
    lines = []
    async for line in running.stderr:
        lines.append(line)
        if b'"serving"' in line:
            return
    raise AssertionError(b"".join(lines).decode())


def write(run_folder: Path, tmp_path: Path, **settings) -> tuple[Path, str]:
    address = f"unix:{run_folder}/r.sock"
    retrieval = {"listen": address, "allowed_roots": [str(tmp_path)], **settings}
    config = run_folder / "sluice.yaml"
    config.write_text(yaml.safe_dump({"state_dir": str(tmp_path / "state"), "retrieval": retrieval}))
    return config, address


@pytest.mark.slow
async def test_killed_while_it_indexes_it_goes_on_after_its_restart(
    run_folder, tmp_path, source, embedder, client_class, children_of, is_alive
):
    config, address = write(run_folder, tmp_path, gateway={"address": embedder.address})
    async with process(config) as first:
        await serving(first)
        client = client_class(address)
        await client.create(embedder=EMBEDDER)
        embedder.gate.clear()
        task = await client.start_index(source)
        await asyncio.wait_for(embedder.called.wait(), 60)
        children = [*children_of(first.pid, "edge"), *children_of(first.pid, "indexer")]
        assert len(children) == 3
        first.send_signal(signal.SIGKILL)
        await first.wait()
        await client.close()
        embedder.gate.set()
        async with process(config) as second:
            await serving(second)
            client = client_class(address)
            events = [event async for event in client.watch(task.name)]
            assert events[-1].task.state == task_service_pb2.TASK_STATE_SUCCEEDED
            assert [event.sequence for event in events] == list(range(1, len(events) + 1))
            found = await client.search("brew_tea oolong")
            assert await client.verify(found[0]) == ["VALID"]
            assert not any(map(is_alive, children))
            await client.close()
            second.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(second.wait(), 60) == 0


@pytest.mark.slow
async def test_two_processes_do_not_share_a_folder(run_folder, tmp_path):
    config, _ = write(run_folder, tmp_path)
    async with process(config) as first:
        await serving(first)
        settings = yaml.safe_load(config.read_text())
        settings["retrieval"]["listen"] = "127.0.0.1:0"
        other = run_folder / "other.yaml"
        other.write_text(yaml.safe_dump(settings))
        async with process(other) as second:
            assert await asyncio.wait_for(second.wait(), 60) == EXIT_BIND
            assert second.stderr is not None
            assert b"another retrieval process" in await second.stderr.read()


@pytest.mark.slow
async def test_a_mistake_in_the_configuration_ends_the_start(run_folder, tmp_path):
    config, _ = write(run_folder, tmp_path, limits={"max_fils": 3})
    async with process(config) as running:
        assert running.stderr is not None
        assert b"retrieval.limits.max_fils" in await running.stderr.read()
        assert await running.wait() == EXIT_CONFIG


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"store": {"kind": "server"}}, "retrieval.store.kind"),
        ({"embedder": {"model": "words", "dimensions": 3}, "gateway": {"address": "x"}}, "retrieval.embedder.model"),
        ({"embedder": {"model": "a/b", "dimensions": 3}}, "retrieval.gateway.address"),
        ({"embedder": {"model": "a/b", "dimensions": 0}, "gateway": {"address": "x"}}, "retrieval.embedder.dimensions"),
        ({"chunks": {"target_chars": 0}}, "retrieval.chunks.target_chars"),
        ({"concurrent_tasks": 0}, "retrieval.concurrent_tasks"),
        ({"listen": "0.0.0.0:7410"}, "retrieval.listen"),
    ],
)
def test_settings_that_cannot_be_used_are_named(tmp_path, settings, named):
    with pytest.raises(ConfigError, match=named):
        RetrievalService(document_of({"retrieval": settings}, tmp_path))


def test_with_keys_no_folder_is_allowed_by_default(tmp_path):
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys: []\n")
    document = document_of({"auth": {"mode": "keys", "keys_file": "keys.yaml"}}, tmp_path)
    service = RetrievalService(document)
    assert service.policy.roots == ()
    local = RetrievalService(document_of({}, tmp_path))
    assert Path.home().resolve() in local.policy.roots


async def test_children_end_with_the_service(start, source, children_of):
    async with start() as client:
        await client.index(source)
        assert len(children_of(os.getpid(), "edge")) == 1
    assert children_of(os.getpid(), "edge") == []
    assert children_of(os.getpid(), "indexer") == []


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("sluice_retrieval.indexing.worker", {"grpc", "sqlalchemy", "google.protobuf", "qdrant_edge", "numpy"}),
        ("sluice_retrieval.store.edge_child", {"grpc", "sqlalchemy", "google.protobuf", "tree_sitter", "numpy"}),
    ],
)
def test_children_load_what_they_need_alone(module, never):
    """They are started for every index, so what they import is what a small index costs."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not never & set(done.stdout.split())
