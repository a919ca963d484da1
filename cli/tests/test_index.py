"""Indexing: what is cleaned up when it does not come to its end."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sluice.retrieval.v1.corpus_pb2 import Corpus, Source
from sluice.task.v1.task_service_pb2 import TASK_STATE_CANCELLED, TASK_STATE_FAILED, TASK_STATE_SUCCEEDED, Task
from sluice_cli import index
from sluice_client import NumberedTaskEvent
from sluice_client.requests import source_of
from sluice_kit.errors import NotFoundError, UnavailableError

RUNNING = Task(name="tasks/ret-1", step="chunking", progress=0.5)


class Watch:
    """A task that runs until it is cancelled, or ends at once in the state given."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._sent = False

    async def __aenter__(self) -> "Watch":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> "Watch":
        return self

    async def __anext__(self) -> NumberedTaskEvent:
        if not self._sent:
            self._sent = True
            self._client.watched.set()
            return NumberedTaskEvent(1, RUNNING if self._client.end is None else self._client.ended())
        if self._client.end is None:
            await self._client.cancelled.wait()
        raise StopAsyncIteration

    async def result(self) -> Task:
        await self._client.cancelled.wait()
        return self._client.ended()


class Client:
    """What indexing uses of a client."""

    def __init__(self, *, exists: bool = False, end: Any = None, away: bool = False) -> None:
        self.exists = exists
        self.end = end
        self.away = away
        self.log: list[str] = []
        self.watched = asyncio.Event()
        self.cancelled = asyncio.Event()

    def ended(self) -> Task:
        return Task(name="tasks/ret-1", state=TASK_STATE_CANCELLED if self.end is None else self.end)

    async def get_corpus(self, name: str) -> Corpus:
        if not self.exists:
            raise NotFoundError("none")
        return Corpus(name=name)

    async def create_corpus(self, name: str) -> Corpus:
        self.log.append("create")
        return Corpus(name=name)

    async def delete_corpus(self, name: str) -> None:
        self.log.append("delete")

    async def index_corpus(self, name: str, source: Source, **_: object) -> Task:
        self.log.append("index")
        return RUNNING

    async def cancel_task(self, name: str) -> None:
        self.log.append("cancel")
        if self.away:
            raise UnavailableError("nobody there")
        self.cancelled.set()

    def watch_task(self, name: str) -> Watch:
        return Watch(self)


def run(client: Client, **options: Any) -> "asyncio.Task[Task]":
    settings = {"dry_run": False, "quiet": False} | options
    return asyncio.create_task(index._index(client, "c", Source(), None, **settings))  # type: ignore[arg-type]  # a double


@pytest.mark.parametrize(
    ("end", "dry_run", "log"),
    [
        (TASK_STATE_SUCCEEDED, False, ["create", "index"]),
        (TASK_STATE_SUCCEEDED, True, ["create", "index", "delete"]),
        (TASK_STATE_FAILED, False, ["create", "index", "delete"]),
    ],
)
async def test_a_corpus_made_for_nothing_goes_again(end: Any, dry_run: bool, log: list[str]) -> None:
    client = Client(end=end)
    assert (await run(client, dry_run=dry_run)).state == end
    assert client.log == log


async def test_a_corpus_that_was_there_stays(capsys: pytest.CaptureFixture[str]) -> None:
    client = Client(exists=True, end=TASK_STATE_FAILED)
    await run(client)
    assert client.log == ["index"]


@pytest.mark.parametrize("exists", [True, False])
async def test_ctrl_c_cancels_the_task(exists: bool, capsys: pytest.CaptureFixture[str]) -> None:
    client = Client(exists=exists)
    task = run(client)
    await client.watched.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.log == (["index", "cancel"] if exists else ["create", "index", "cancel", "delete"])
    assert "cancelled tasks/ret-1" in capsys.readouterr().err


async def test_what_cannot_be_cancelled_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    client = Client(exists=True, away=True)
    task = run(client)
    await client.watched.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "may still run" in capsys.readouterr().err


def test_a_path_with_a_revision_is_a_repository(tmp_path: Path) -> None:
    assert source_of(str(tmp_path)).local.path == str(tmp_path.resolve())
    assert source_of(str(tmp_path), revision="v1").git.url == f"file://{tmp_path.resolve()}"
    assert source_of("https://h/r", revision="v1").git.revision == "v1"
