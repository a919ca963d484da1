"""The retrieval service as it ships, in processes of its own, and a client for it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import yaml

from bench.process import Process
from bench.retrieval.metrics import DEPTH, Span
from sluice.auth.v1.identity_pb2 import Identity, Role
from sluice.chat.v1.target_pb2 import Target
from sluice.retrieval.v1 import corpus_pb2, corpus_service_pb2, search_service_pb2
from sluice.retrieval.v1.corpus_service_pb2_grpc import CorpusServiceStub
from sluice.retrieval.v1.search_service_pb2_grpc import SearchServiceStub
from sluice.task.v1 import task_service_pb2
from sluice.task.v1.task_service_pb2_grpc import TaskServiceStub
from sluice_kit.channels import open_channel
from sluice_kit.identity import IDENTITY_KEY, encode
from sluice_retrieval.minilm.embedder import DIMENSIONS, MODEL, PROVIDER

Mode = search_service_pb2.SearchMode
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_SECONDS: Final = 1800.0
_LOOK_SECONDS: Final = 0.05


class IndexFailed(Exception):
    """An index failed. The message is the task's."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of the service and its children, at the worst moment."""

    resident: int
    """With what is mapped of files, such as the index itself, which the system takes back when it needs room."""
    own: int
    """Without it."""


class Service:
    """A running service. Its folder holds all of its state."""

    def __init__(self, process: Process, address: str) -> None:
        self._process = process
        self._channel = open_channel(address)
        identity = Identity(tenant="local", subject="bench", roles=[Role.ROLE_ADMIN])
        self._metadata = ((IDENTITY_KEY, encode(identity)),)
        self._corpora = CorpusServiceStub(self._channel)
        self._searches = SearchServiceStub(self._channel)
        self._tasks = TaskServiceStub(self._channel)

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def index(self, corpus: str, folder: Path, *, dense: bool = False) -> corpus_service_pb2.IndexResult:
        """Indexes a folder, into a new corpus unless there is one of that name. Raises IndexFailed."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            await self._call(self._corpora.CreateCorpus, _create(corpus, dense=dense))
        source = corpus_pb2.Source(local=corpus_pb2.LocalSource(path=str(folder)))
        request = corpus_service_pb2.IndexCorpusRequest(name=f"corpora/{corpus}", source=source)
        name = (await self._call(self._corpora.IndexCorpus, request)).task.name
        task = task_service_pb2.Task()
        watch = self._tasks.WatchTask(
            task_service_pb2.WatchTaskRequest(name=name), metadata=self._metadata, timeout=_SECONDS
        )
        async for response in watch:
            for event in response.events:
                task = event.task
        if task.state != task_service_pb2.TASK_STATE_SUCCEEDED:
            raise IndexFailed(f"{corpus}: {task.error.message}")
        result = corpus_service_pb2.IndexResult()
        task.result.Unpack(result)
        return result

    async def search(self, corpus: str, text: str, mode: "Mode.ValueType", top_k: int = DEPTH) -> list[Span]:
        """Returns the lines of passages, best first."""
        request = search_service_pb2.SearchRequest(corpora=[f"corpora/{corpus}"], query=text, mode=mode, top_k=top_k)
        response = await self._call(self._searches.Search, request)
        return [Span(passage.path, passage.start_line, passage.end_line) for passage in response.passages]

    async def _call(self, method: Any, request: Any) -> Any:
        return await method(request, metadata=self._metadata, timeout=_SECONDS)

    def cpu(self) -> float:
        """Returns the seconds of CPU used so far, by the service and by its children, those that ended included."""
        return cpu_of(self._process.tree())

    def memory(self) -> Memory:
        """Returns what the service and its children hold now."""
        return memory_of(self._process.tree())

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[list[Memory]]:
        """Watches memory for the length of the block; the one entry of the list is then the worst of each figure."""
        worst = [self.memory()]
        stop = asyncio.Event()

        async def look() -> None:
            while not stop.is_set():
                now = await asyncio.to_thread(self.memory)
                worst[0] = Memory(max(worst[0].resident, now.resident), max(worst[0].own, now.own))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _LOOK_SECONDS)

        watcher = asyncio.create_task(look())
        try:
            yield worst
        finally:
            stop.set()
            await watcher


def _create(corpus: str, *, dense: bool) -> corpus_service_pb2.CreateCorpusRequest:
    request = corpus_service_pb2.CreateCorpusRequest(corpus_id=corpus)
    if dense:
        target = Target(provider=PROVIDER, model=MODEL)
        request.embedder.CopyFrom(corpus_pb2.Embedder(target=target, dimensions=DIMENSIONS))
    return request


def cpu_of(pids: Iterable[int]) -> float:
    """Returns the seconds of CPU that processes used so far, and children of theirs that ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            # Its own, user and system, and those of children that it has waited for.
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def memory_of(pids: Iterable[int]) -> Memory:
    """Returns what processes hold now."""
    resident = own = 0
    for pid in pids:
        for name, value in _status(pid):
            resident += value if name == "VmRSS" else 0
            own += value if name == "RssAnon" else 0
    return Memory(resident, own)


def _status(pid: int) -> Iterator[tuple[str, int]]:
    """Yields the sizes in a process's status, in bytes; nothing if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                yield name, int(value[:-3]) * 1024


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Service]:
    """Runs a service for the length of the block; sources lie below the folder. Raises StartError."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    socket = folder / "r.sock"
    config = folder / "sluice.yaml"
    settings = {
        "state_dir": str(folder / "state"),
        "retrieval": {"listen": f"unix:{socket}", "allowed_roots": [str(folder)]},
    }
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command: list[str | Path] = [sys.executable, "-m", "sluice_retrieval", "--config", config]
    process = Process("retrieval", command, folder=folder, health=f"unix:{socket}")
    try:
        await process.ready()
        service = Service(process, f"unix:{socket}")
        try:
            yield service
        finally:
            await service.close()
    finally:
        await asyncio.to_thread(process.stop)
