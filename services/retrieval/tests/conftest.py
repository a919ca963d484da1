"""A retrieval service in this process, and a mesh's EmbeddingService for it."""

import asyncio
import contextlib
import hashlib
import math
import os
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from sluice.auth.v1.identity_pb2 import Identity, Role
from sluice.chat.v1.passage_pb2 import Passage
from sluice.gateway.v1 import embedding_service_pb2 as embedding
from sluice.gateway.v1.embedding_service_pb2_grpc import (
    EmbeddingServiceServicer,
    add_EmbeddingServiceServicer_to_server,
)
from sluice.provider.v1.provider_service_pb2 import Embedding, RerankResult
from sluice.retrieval.v1 import corpus_pb2, corpus_service_pb2, search_service_pb2
from sluice.retrieval.v1.corpus_service_pb2_grpc import CorpusServiceStub
from sluice.retrieval.v1.search_service_pb2_grpc import SearchServiceStub
from sluice.task.v1 import task_service_pb2
from sluice.task.v1.task_service_pb2_grpc import TaskServiceStub
from sluice_kit.channels import open_channel
from sluice_kit.errors import SluiceError, from_rpc_error
from sluice_kit.identity import IDENTITY_KEY, encode
from sluice_kit.testing import document_of, running
from sluice_retrieval.service import RetrievalService
from sluice_retrieval.store.base import Store
from sluice_retrieval.text.words import words

DIMENSIONS = 32


class Client:
    """Calls a retrieval service as one tenant, and raises SluiceError."""

    def __init__(self, address: str, tenant: str = "local") -> None:
        self._address = address
        self._channel = open_channel(address)
        self._identity = Identity(tenant=tenant, subject="tester", roles=[Role.ROLE_ADMIN])
        self._corpora = CorpusServiceStub(self._channel)
        self._searches = SearchServiceStub(self._channel)
        self._tasks = TaskServiceStub(self._channel)
        self._others: list[Client] = []

    def as_tenant(self, tenant: str) -> "Client":
        other = Client(self._address, tenant)
        self._others.append(other)
        return other

    async def close(self) -> None:
        for client in self._others:
            await client.close()
        await self._channel.close()

    async def call(self, method: str, request: Any) -> Any:
        for stub in (self._corpora, self._searches, self._tasks):
            if hasattr(stub, method):
                try:
                    return await getattr(stub, method)(request, metadata=self.metadata, timeout=200)
                except grpc.aio.AioRpcError as error:
                    raise from_rpc_error(error) from None
        raise AttributeError(method)

    @property
    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        return ((IDENTITY_KEY, encode(self._identity)),)

    async def create(self, corpus: str = "docs", **fields: Any) -> corpus_pb2.Corpus:
        request = corpus_service_pb2.CreateCorpusRequest(corpus_id=corpus, **fields)
        response: corpus_service_pb2.CreateCorpusResponse = await self.call("CreateCorpus", request)
        return response.corpus

    async def get(self, corpus: str = "docs") -> corpus_pb2.Corpus:
        request = corpus_service_pb2.GetCorpusRequest(name=f"corpora/{corpus}")
        response: corpus_service_pb2.GetCorpusResponse = await self.call("GetCorpus", request)
        return response.corpus

    async def start_index(
        self, source: Path | corpus_pb2.GitSource, corpus: str = "docs", **fields: Any
    ) -> task_service_pb2.Task:
        place = (
            corpus_pb2.Source(local=corpus_pb2.LocalSource(path=str(source)))
            if isinstance(source, Path)
            else corpus_pb2.Source(git=source)
        )
        request = corpus_service_pb2.IndexCorpusRequest(name=f"corpora/{corpus}", source=place, **fields)
        response: corpus_service_pb2.IndexCorpusResponse = await self.call("IndexCorpus", request)
        return response.task

    async def watch(self, name: str, after: int = 0) -> AsyncGenerator[task_service_pb2.TaskEvent, None]:
        request = task_service_pb2.WatchTaskRequest(name=name, after_sequence=after)
        call = self._tasks.WatchTask(request, metadata=self.metadata, timeout=200)
        try:
            async for response in call:
                for event in response.events:
                    yield event
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()

    async def ended(self, name: str) -> task_service_pb2.Task:
        """Waits for the end of a task and returns it."""
        last = None
        async for event in self.watch(name):
            last = event.task
        assert last is not None
        return last

    async def until(self, name: str, step: str) -> None:
        """Waits until a task reports a step."""
        async with contextlib.aclosing(self.watch(name)) as events:
            async for event in events:
                if event.task.step == step:
                    return
        raise AssertionError(f"{name} ended without the step {step}")

    async def index(
        self, source: Path | corpus_pb2.GitSource, corpus: str = "docs", **fields: Any
    ) -> corpus_service_pb2.IndexResult:
        """Indexes, creating the corpus if need be, and returns the result; fails with the task's error."""
        with contextlib.suppress(SluiceError):
            await self.create(corpus)
        task = await self.ended((await self.start_index(source, corpus, **fields)).name)
        assert task.state == task_service_pb2.TASK_STATE_SUCCEEDED, task.error
        result = corpus_service_pb2.IndexResult()
        assert task.result.Unpack(result)
        return result

    async def search(self, query: str, *corpora: str, **fields: Any) -> list[Passage]:
        names = [f"corpora/{corpus}" for corpus in corpora or ("docs",)]
        request = search_service_pb2.SearchRequest(corpora=names, query=query, **fields)
        return list((await self.call("Search", request)).passages)

    async def verify(self, *passages: Passage) -> list[str]:
        """Returns the states of passages, without their prefix."""
        spans = [
            search_service_pb2.SpanToVerify(
                corpus=passage.corpus,
                path=passage.path,
                start_line=passage.start_line,
                end_line=passage.end_line,
                revision=passage.revision,
                sha256=passage.sha256,
            )
            for passage in passages
        ]
        response = await self.call("VerifySpans", search_service_pb2.VerifySpansRequest(spans=spans))
        return [search_service_pb2.SpanState.Name(state).removeprefix("SPAN_STATE_") for state in response.states]


class Embedder(EmbeddingServiceServicer):
    """An EmbeddingService whose vectors are near when texts share words. `gate` holds it back."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reranked: list[list[str]] = []
        self.tenants: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.called = asyncio.Event()
        self.failure: grpc.StatusCode | None = None
        self.address = ""
        self.dimensions: int | None = None

    async def Embed(self, request: Any, context: Any) -> Any:
        for key, value in context.invocation_metadata():
            if key == IDENTITY_KEY:
                self.tenants.add(Identity.FromString(value).tenant)
        self.called.set()
        await self.gate.wait()
        if self.failure is not None:
            await context.abort(self.failure, "no")
        self.texts += request.texts
        vectors = [Embedding(values=_vector(text, self.dimensions or request.dimensions)) for text in request.texts]
        return embedding.EmbedResponse(embeddings=vectors)

    async def Rerank(self, request: Any, context: Any) -> Any:
        """Orders by how often a text has the first letter of the question."""
        if self.failure is not None:
            await context.abort(self.failure, "no")
        self.reranked.append(list(request.texts))
        scores = [text.count(request.query[0]) for text in request.texts]
        order = sorted(range(len(scores)), key=lambda number: -scores[number])
        return embedding.RerankResponse(results=[RerankResult(index=one, score=scores[one]) for one in order])

    async def CountTokens(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not asked here")


def _vector(text: str, dimensions: int) -> list[float]:
    values = [0.0] * dimensions
    for word in words(text):
        values[hashlib.sha256(word.encode()).digest()[0] % dimensions] += 1.0
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / norm for value in values]


@pytest.fixture
async def embedder() -> AsyncIterator[Embedder]:
    """A gateway's EmbeddingService on a free port."""
    server = grpc.aio.server()
    service = Embedder()
    add_EmbeddingServiceServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield service
    service.gate.set()
    await server.stop(None)


Start = Callable[..., contextlib.AbstractAsyncContextManager[Client]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a service that keeps its state in the test's folder: a second start finds what the first one left."""

    @contextlib.asynccontextmanager
    async def begin(settings: Mapping[str, Any] | None = None, **stores: Store) -> AsyncIterator[Client]:
        retrieval = {"listen": "127.0.0.1:0", "allowed_roots": [str(tmp_path)], **(settings or {})}
        document = document_of({"state_dir": str(tmp_path / ".state"), "retrieval": retrieval}, tmp_path)
        service = RetrievalService(document)
        service.store.add(**stores)
        async with running(service, document) as server:
            client = Client(server.address)
            client.service = service  # type: ignore[attr-defined]  # for the tests that look inside
            try:
                yield client
            finally:
                await client.close()

    return begin


@pytest.fixture
async def client(start: Start) -> AsyncIterator[Client]:
    """A client of a service with the defaults."""
    async with start() as found:
        yield found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small project."""
    root = tmp_path / "project"
    files = {
        "README.md": "# Teapot\n\nA teapot service.\n\n## Brewing\n\nCall `brew_tea` with the minutes to steep.\n",
        "pot/server.py": (
            '"""The server of the teapot."""\n\nimport asyncio\n\n\n'
            "class TeapotServer:\n"
            '    """Serves tea to whoever connects."""\n\n'
            "    def __init__(self, port: int) -> None:\n        self.port = port\n\n"
            "    async def brew_tea(self, minutes: float) -> str:\n"
            '        """Steeps the leaves and returns a cup."""\n'
            "        await asyncio.sleep(minutes * 60)\n"
            '        return "a cup of oolong"\n\n\n'
            "def parse_kettle_config(text: str) -> dict[str, str]:\n"
            '    """Reads the kettle\'s settings."""\n'
            '    return dict(line.split("=") for line in text.splitlines())\n'
        ),
        "pot/client.py": "def pour(cup: str) -> None:\n    print('pouring', cup)\n",
        "notes.txt": "Descale the kettle every month.\n\nUse soft water.\n",
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., str]:
    """Runs git in a folder, with nobody's configuration, and returns its output."""

    def run(folder: Path, *words: str) -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        done = subprocess.run(["git", *words], cwd=folder, env=environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    return run


def children_of(pid: int, kind: str) -> list[int]:
    """Returns the running children of a process that are of a kind, from /proc."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words_ = (entry / "cmdline").read_bytes().split(b"\0")
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                if (
                    int(status[1]) == pid
                    and status[0] != "Z"
                    and words_[2:4]
                    == [
                        b"sluice_retrieval.children",
                        kind.encode(),
                    ]
                ):
                    found.append(int(entry.name))
    return sorted(found)


def is_alive(pid: int) -> bool:
    """Tells whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(name="is_alive")
def _is_alive() -> Callable[[int], bool]:
    return is_alive


@pytest.fixture(name="children_of")
def _children_of() -> Callable[[int, str], list[int]]:
    return children_of


@pytest.fixture
def client_class() -> type[Client]:
    """For services that run elsewhere."""
    return Client
