"""kill -9 at any point: what is indexed in the end is what one undisturbed index makes.

The service runs as a process of its own. It, or the processes that own its vectors, are killed at moments drawn from a
fixed seed over the time that an index takes; what was not finished goes on at the next start.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select

from sluice.retrieval.v1 import corpus_pb2, corpus_service_pb2
from sluice.task.v1 import task_service_pb2
from sluice_retrieval.records import corpora as rows
from sluice_retrieval.records import documents
from sluice_retrieval.records.models import GenerationRow
from sluice_retrieval.store.server import ServerStore

from .qdrant_server import qdrant_server
from .test_incremental import EMBEDDER, contents

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
_ENDED = (
    task_service_pb2.TASK_STATE_SUCCEEDED,
    task_service_pb2.TASK_STATE_FAILED,
    task_service_pb2.TASK_STATE_CANCELLED,
)
SEED = 20_261_121


class Project:
    """A project that changes."""

    def __init__(self, root: Path, rnd: random.Random, git: Callable[..., str] | None = None) -> None:
        self.root = root
        self._rnd = rnd
        self._git = git
        root.mkdir()
        for number in range(150):
            self._write(number)
        (root / "README.md").write_text("# Kettle\n\nA kettle for tea.\n\n## Use\n\nFill it with a number of cups.\n")
        if git is not None:
            git(root, "init", "-q", "-b", "main")
            self._commit()

    @property
    def source(self) -> Path | corpus_pb2.GitSource:
        return self.root if self._git is None else corpus_pb2.GitSource(url=str(self.root))

    def change(self) -> None:
        """Changes, removes and adds about half of its files."""
        for number in self._rnd.sample(range(200), 90):
            if self._rnd.random() < 0.2:
                self._path(number).unlink(missing_ok=True)
            else:
                self._write(number)
        if self._git is not None:
            self._commit()

    def _path(self, number: int) -> Path:
        return self.root / f"module_{number}.py"

    def _write(self, number: int) -> None:
        count = self._rnd.randrange(1, 16)
        body = (
            f"def function_{number}_{at}(value):\n    return value + {self._rnd.random()}  # tea" for at in range(count)
        )
        self._path(number).write_text("\n\n".join(body) + "\n")

    def _commit(self) -> None:
        assert self._git is not None
        self._git(self.root, "add", "-A")
        self._git(self.root, "commit", "-qm", "change", "--allow-empty")


class Service:
    """A service that is a process of its own, and is killed again and again."""

    def __init__(self, folder: Path, state: Path, client_class: Any, **settings: Any) -> None:
        self._address = f"unix:{folder}/r.sock"
        self._config = folder / "sluice.yaml"
        self._client_class = client_class
        values = {"listen": self._address, "allowed_roots": [str(state.parent)], **settings}
        self._config.write_text(yaml.safe_dump({"state_dir": str(state), "retrieval": values}))
        self.pid = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Any]:
        """Runs it for the length of the block, and kills it at the end; yields a client."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sluice_retrieval", "--config", str(self._config), stderr=asyncio.subprocess.PIPE
        )
        self.pid = process.pid
        assert process.stderr is not None
        lines: list[bytes] = []
        try:
            async for line in process.stderr:
                lines.append(line)
                if b'"serving"' in line:
                    break
            else:
                raise AssertionError(b"".join(lines).decode())
            client = self._client_class(self._address)
            reading = asyncio.create_task(process.stderr.read())
            try:
                yield client
            finally:
                process.send_signal(signal.SIGKILL)
                await process.wait()
                await reading
                await client.close()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def latest(client: Any) -> task_service_pb2.Task:
    """Returns the task that was made last, as it stands."""
    tasks: list[task_service_pb2.Task] = list(
        (await client.call("ListTasks", task_service_pb2.ListTasksRequest(page_size=1))).tasks
    )
    return tasks[0]


async def finished(client: Any, project: Project) -> None:
    """Sees to it that an index of the project is finished."""
    while True:
        task = await latest(client)
        if task.state not in _ENDED:
            task = await client.ended(task.name)
        if task.state == task_service_pb2.TASK_STATE_SUCCEEDED:
            return
        # Killed too often before it advanced, or while the store was restarted: asked for once more, as a user would.
        assert task.kind == "index_corpus"
        await client.start_index(project.source)


class Moments:
    """Draws moments within an index."""

    def __init__(self, rnd: random.Random, project: Project) -> None:
        self._rnd = rnd
        self._project = project
        self._seconds = 0.0

    async def measure(self, client: Any) -> None:
        """Waits for the end of an index, and takes note of its length."""
        task = await client.ended((await latest(client)).name)
        assert task.state == task_service_pb2.TASK_STATE_SUCCEEDED
        self._seconds = (task.end_time.ToNanoseconds() - task.start_time.ToNanoseconds()) / 1e9

    async def wait(self, client: Any) -> None:
        """Waits for a moment at which an index is made; begins others until there is one."""
        while True:
            if (await latest(client)).state in _ENDED:
                await finished(client, self._project)
                self._project.change()
                await client.start_index(self._project.source)
            await asyncio.sleep(self._rnd.random() * self._seconds)
            if (await latest(client)).state not in _ENDED:
                return


async def everything(client: Any, corpus: str) -> tuple[Any, ...]:
    """Returns all that an index is: files, points with their vectors, and what questions find."""
    store, database = client.service.store, client.service.database

    def files(session: Any) -> list[tuple[Any, ...]]:
        seen = rows.visible(session, "local", corpus)[1]
        return [
            (row.path, row.language, row.size_bytes, row.line_count, row.blob_sha256, row.chunk_count)
            for row in documents.page(session, seen.id, "", 10_000)
        ]

    key = await database.read(lambda session: rows.generation_key(rows.visible(session, "local", corpus)[1]))
    points: list[tuple[Any, ...]] = []
    async for page in store.points(key, 500):
        for point in page:
            words = sorted(zip(point.indices, (round(value, 4) for value in point.values), strict=True))
            points.append((point.id, point.payload, words, point.dense))
    return sorted(points, key=lambda row: row[0]), await database.read(files)


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """Compares all that two indexes are. A store may scale vectors to their length again, which moves the last bits."""
    assert one[1] == other[1]
    assert [point[:3] for point in one[0]] == [point[:3] for point in other[0]]
    for point, fresh in zip(one[0], other[0], strict=True):
        assert point[3] == (fresh[3] and pytest.approx(fresh[3], abs=1e-5))


async def compare(start: Any, project: Project, embedder: Any, **settings: Any) -> None:
    """Makes the index once more, undisturbed, and compares."""
    async with start(settings) as client:
        await client.create("fresh", **({"embedder": EMBEDDER} if embedder is not None else {}))
        await client.index(project.source, "fresh")
        same(await everything(client, "docs"), await everything(client, "fresh"))
        assert await contents(client) == await contents(client, "fresh")
        edge = client.service.store._stores["edge"]
        there = {folder.name for folder in await asyncio.to_thread(lambda: list(edge._root.glob("*/*/*")))}
        named = await client.service.database.read(lambda session: set(session.scalars(select(GenerationRow.id))))
        assert there <= named, "nothing is left that no record names"


@pytest.fixture
def run_folder():
    with tempfile.TemporaryDirectory(prefix="kill-") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("kind", "dense", "kills"), [("folder", False, 11), ("folder", True, 8), ("git", False, 6), ("git", True, 5)]
)
async def test_the_service_is_killed(run_folder, tmp_path, git, start, embedder, client_class, kind, dense, kills):
    rnd = random.Random(f"{SEED} {kind} {dense}")
    project = Project(tmp_path / "project", rnd, git if kind == "git" else None)
    settings = {"gateway": {"address": embedder.address}, "chunks": {"target_chars": 200}}
    service = Service(run_folder, tmp_path / ".state", client_class, **settings)
    moments = Moments(rnd, project)
    async with service.running() as client:
        for corpus in ("timed", "docs"):
            await client.create(corpus, **({"embedder": EMBEDDER} if dense else {}))
        await client.start_index(project.source, "timed")
        await moments.measure(client)
        await client.start_index(project.source)
        await moments.wait(client)
    for _ in range(kills - 1):
        async with service.running() as client:
            await moments.wait(client)
    async with service.running() as client:
        await finished(client, project)
        # What was killed saw the project as it was then, or as it is now: this one sees it as it is now.
        await client.index(project.source)
    await compare(start, project, embedder if dense else None, **settings)


@pytest.mark.parametrize(("dense", "kills"), [(False, 7), (True, 5)])
async def test_the_processes_of_the_store_are_killed(
    run_folder, tmp_path, start, embedder, client_class, children_of, dense, kills
):
    rnd = random.Random(f"{SEED} store {dense}")
    project = Project(tmp_path / "project", rnd)
    settings = {"gateway": {"address": embedder.address}, "chunks": {"target_chars": 200}}
    service = Service(run_folder, tmp_path / ".state", client_class, **settings)
    moments = Moments(rnd, project)
    async with service.running() as client:
        for corpus in ("timed", "docs"):
            await client.create(corpus, **({"embedder": EMBEDDER} if dense else {}))
        await client.start_index(project.source, "timed")
        await moments.measure(client)
        await client.start_index(project.source)
        for _ in range(kills):
            await moments.wait(client)
            running = children_of(service.pid, "edge")
            # The one that writes, if there is one, is the younger.
            for pid in running[-1:] if rnd.random() < 0.8 else running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await finished(client, project)
        await client.index(project.source)
    await compare(start, project, embedder if dense else None, **settings)


async def test_a_move_is_killed(run_folder, tmp_path, start, embedder, client_class):
    rnd = random.Random(f"{SEED} move")
    project = Project(tmp_path / "project", rnd)
    async with qdrant_server() as (port, engine):
        common = {"gateway": {"address": embedder.address}, "chunks": {"target_chars": 200}}

        def settings(kind: str) -> dict[str, Any]:
            server = {"url": "http://127.0.0.1:1", "grpc_port": port, "shards": 1, "replication_factor": 1}
            return common | {"store": {"kind": kind, "qdrant": server}}

        async with Service(run_folder, tmp_path / ".state", client_class, **settings("edge")).running() as client:
            await client.create(embedder=EMBEDDER)
            await client.index(project.source)
        for kind in ("qdrant", "edge"):
            service = Service(run_folder, tmp_path / ".state", client_class, **settings(kind))
            seconds = 0.6
            for number in range(4):
                async with service.running() as client:
                    if not number:
                        request = corpus_service_pb2.MoveCorpusRequest(name="corpora/docs")
                        await client.call("MoveCorpus", request)
                    await asyncio.sleep(rnd.random() * seconds)
            async with service.running() as client:
                task = await client.ended((await latest(client)).name)
                if task.state != task_service_pb2.TASK_STATE_SUCCEEDED:
                    request = corpus_service_pb2.MoveCorpusRequest(name="corpora/docs")
                    task = await client.ended((await client.call("MoveCorpus", request)).task.name)
                assert task.state == task_service_pb2.TASK_STATE_SUCCEEDED, task.error
                assert (await client.get()).store == kind
        assert [(await engine.count(one.name)).count for one in (await engine.get_collections()).collections] == [0]
        await compare(start, project, embedder, **common)


async def test_a_move_that_ended_before_it_cleaned_up_cleans_up(start, source, monkeypatch):
    """The moment between the switch and the cleaning up is too short to be met by chance."""
    cleaning = asyncio.Event()

    async def stuck(self: Any, generation: Any) -> None:
        cleaning.set()
        await asyncio.Event().wait()

    async with qdrant_server() as (port, engine):
        server = {"url": "http://127.0.0.1:1", "grpc_port": port, "shards": 1, "replication_factor": 1}
        async with start({"store": {"kind": "qdrant", "qdrant": server}}) as client:
            await client.index(source)
        with monkeypatch.context() as patched:
            async with start({"store": {"kind": "edge", "qdrant": server}}) as client:
                patched.setattr(ServerStore, "delete", stuck)
                await client.call("MoveCorpus", corpus_service_pb2.MoveCorpusRequest(name="corpora/docs"))
                await asyncio.wait_for(cleaning.wait(), 60)
        async with start({"store": {"kind": "edge", "qdrant": server}}) as client:
            assert (await client.ended((await latest(client)).name)).state == task_service_pb2.TASK_STATE_SUCCEEDED
            assert await client.search("brew tea")
        assert [(await engine.count(one.name)).count for one in (await engine.get_collections()).collections] == [0]
