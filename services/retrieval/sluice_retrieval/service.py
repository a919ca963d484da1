"""The retrieval service: what it is made of, and how it starts and stops."""

import argparse
import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sluice.retrieval.v1 import corpus_service_pb2, search_service_pb2
from sluice.task.v1 import task_service_pb2
from sluice_kit.auth import internal_authenticator
from sluice_kit.config import AuthConfig, ConfigDocument, check_listeners
from sluice_kit.health import Check
from sluice_kit.main import parser, run
from sluice_kit.server import Server
from sluice_kit.tls import mesh_tls
from sluice_retrieval.chunking.spans import ChunkSizes
from sluice_retrieval.config import RetrievalConfig, default_roots
from sluice_retrieval.embedding import EmbeddingClient, why_not_local
from sluice_retrieval.folder_lock import FolderLock
from sluice_retrieval.indexing.indexer import KIND, Indexer
from sluice_retrieval.indexing.moving import KIND as MOVE_KIND
from sluice_retrieval.indexing.moving import Mover
from sluice_retrieval.kept_texts import FolderTexts, KeptTexts, SharedTexts
from sluice_retrieval.maintenance import Maintenance
from sluice_retrieval.minilm.embedder import PROVIDER
from sluice_retrieval.records.database import Database
from sluice_retrieval.records.locks import UPKEEP, Locks
from sluice_retrieval.rpc.corpus_service import CorpusService
from sluice_retrieval.rpc.search_service import SearchService
from sluice_retrieval.rpc.task_service import TaskService
from sluice_retrieval.search.reranking import Reranker
from sluice_retrieval.search.searcher import Searcher
from sluice_retrieval.search.texts import Texts
from sluice_retrieval.search.verifier import Verifier
from sluice_retrieval.sources.credentials import Credentials, mistake_in
from sluice_retrieval.sources.policy import SourcePolicy
from sluice_retrieval.store.base import Store
from sluice_retrieval.store.edge import EdgeStore
from sluice_retrieval.store.stores import Stores
from sluice_retrieval.tasks.runner import TaskRunner

log = logging.getLogger(__name__)

_SWEEP_SECONDS: Final = 600.0


class RetrievalService:
    """One process of retrieval. A kit `Service`."""

    name = "retrieval"

    def __init__(self, document: ConfigDocument) -> None:
        """Raises ConfigError."""
        config = document.section("retrieval", RetrievalConfig)
        auth = document.section("auth", AuthConfig)
        self.listen = config.listen
        self.probe = config.probe
        probes = [("retrieval.probe", config.probe)] if config.probe is not None else []
        check_listeners(document, auth, probes, [("retrieval.listen", config.listen)])
        tls = mesh_tls(document)
        self.authenticator = internal_authenticator(document, tls)
        self.tls = tls.listener() if tls is not None else None
        _check(document, config)
        folder = document.resolve(config.folder) if config.folder else document.state_dir() / "retrieval"
        self._lock = FolderLock(folder)
        sizes = ChunkSizes(config.chunks.target_chars, config.chunks.small_chars)
        url = config.records.url
        self.database = Database(folder / "records.sqlite", url.reveal() if url is not None else None)
        self._locks = Locks(self.database)
        kept: KeptTexts = FolderTexts(folder / "blobs")
        if self.database.shared:
            kept = SharedTexts(folder / "blobs", self.database)
        self.store = _stores(config, folder)
        self._embeddings = EmbeddingClient(config.gateway.address if config.gateway is not None else None, tls)
        self.policy = policy = SourcePolicy(
            _roots(document, config, auth),
            config.git.allowed_hosts,
            config.git.private_hosts,
            document.resolve(config.git.ca_file) if config.git.ca_file is not None else None,
            Credentials(config.git.credentials),
        )
        self.maintenance = Maintenance(
            self.database,
            self.store,
            folder,
            kept,
            config.keep_revisions_seconds,
            config.keep_tasks_seconds,
            keep_fetched=config.git.keep_fetched,
        )
        indexer = Indexer(
            self.database,
            self.store,
            self._embeddings,
            policy,
            folder,
            kept,
            config.limits,
            sizes,
            on_abandon=self.maintenance.mark,
            keep_fetched=config.git.keep_fetched,
        )
        mover = Mover(self.database, self.store)
        work = {KIND: indexer.run, MOVE_KIND: mover.run}
        self.runner = TaskRunner(self.database, self._locks, work, config.concurrent_tasks)
        texts = Texts(kept)
        self._corpora = CorpusService(
            self.database, self.store, texts, self.runner, policy, config.embedder, self._corpus_deleted
        )
        self._search = SearchService(
            Searcher(self.database, self.store, texts, self._embeddings, Reranker(config.reranker, self._embeddings)),
            Verifier(self.database, texts),
        )
        self._tasks = TaskService(self.database, self.runner)
        self._sweeping: asyncio.Task[None] | None = None

    def register(self, server: Server) -> None:
        """Adds the RPCs."""
        server.add(corpus_service_pb2.DESCRIPTOR.services_by_name["CorpusService"], self._corpora)
        server.add(search_service_pb2.DESCRIPTOR.services_by_name["SearchService"], self._search)
        server.add(task_service_pb2.DESCRIPTOR.services_by_name["TaskService"], self._tasks)

    async def start(self) -> None:
        """Opens what is kept, cleans up after a crash, and resumes unfinished tasks. Raises BindError."""
        self._lock.acquire()
        await self.database.open()
        await self.store.start()
        # Where others are at work already, it is they who clean up.
        if await self._locks.take(UPKEEP):
            await self.maintenance.after_crash()
            await self._locks.give(UPKEEP)
        await self.runner.start()
        self._sweeping = asyncio.create_task(self._sweep())

    @property
    def needs(self) -> dict[str, Check]:
        """What requests cannot be taken without; see `sluice_kit.health`."""
        records: dict[str, Check] = {"records": self.database.ping} if self.database.shared else {}
        return records | self.store.needs

    async def drain(self, grace: float) -> None:
        """Ends watchers, which would else use up the grace; they watch again."""
        self.runner.drain()

    async def stop(self) -> None:
        """Interrupts tasks, which resume at the next start, and releases everything."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait((self._sweeping,))
        await self.runner.stop()
        await self._embeddings.close()
        await self.store.close()
        await self._locks.close()
        await self.database.close()
        self._lock.release()

    async def _sweep(self) -> None:
        while True:
            try:
                await self._sweep_if_idle()
            except Exception:
                log.exception("cleaning up failed; it is tried again")
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _sweep_if_idle(self) -> None:
        if self.runner.idle:
            async with self.runner.quiet() as alone:
                if alone:
                    await self.maintenance.sweep()

    async def _corpus_deleted(self, tenant: str, corpus: str) -> None:
        self.maintenance.mark(tenant)
        await self.maintenance.forget_fetched(corpus)
        await self._sweep_if_idle()


def _stores(config: RetrievalConfig, folder: Path) -> Stores:
    stores: dict[str, Store] = {"edge": EdgeStore(folder / "vectors")}
    if config.store.qdrant.url:
        # Its client is large, and most meshes need none.
        from sluice_retrieval.store.server import ServerStore

        stores["qdrant"] = ServerStore(config.store.qdrant)
    return Stores(stores, config.store.kind)


def _check(document: ConfigDocument, config: RetrievalConfig) -> None:
    if config.store.kind == "qdrant" and not config.store.qdrant.url:
        raise document.error("retrieval.store.qdrant.url", "required with retrieval.store.kind: qdrant")
    if config.replicas < 1:
        raise document.error("retrieval.replicas", "expected at least 1")
    if config.replicas > 1 and config.records.url is None:
        raise document.error("retrieval.records.url", "required with more than one of retrieval.replicas")
    if config.replicas > 1 and config.store.kind != "qdrant":
        raise document.error(
            "retrieval.store.kind", "more than one of retrieval.replicas need a store they share: qdrant"
        )
    for name, credential in config.git.credentials.items():
        mistake = mistake_in(credential)
        if mistake is not None:
            raise document.error(f"retrieval.git.credentials.{name}.{mistake[0]}", mistake[1])
    if config.embedder is not None:
        provider, slash, model = config.embedder.model.partition("/")
        if not (provider and slash and model):
            raise document.error("retrieval.embedder.model", "expected provider/model")
        problem = why_not_local(provider, model, config.embedder.dimensions)
        if problem is not None:
            raise document.error("retrieval.embedder.model", problem)
        if config.gateway is None and provider != PROVIDER:
            raise document.error("retrieval.gateway.address", "required with retrieval.embedder")
        if config.embedder.dimensions < 1:
            raise document.error("retrieval.embedder.dimensions", "expected at least 1")
    if config.reranker is not None:
        provider, slash, model = config.reranker.model.partition("/")
        if not (provider and slash and model):
            raise document.error("retrieval.reranker.model", "expected provider/model")
        if config.gateway is None:
            raise document.error("retrieval.gateway.address", "required with retrieval.reranker")
        if not 1 <= config.reranker.candidates <= 1000:
            raise document.error("retrieval.reranker.candidates", "expected 1 to 1000")
    for name in ("target_chars", "small_chars"):
        if getattr(config.chunks, name) < 1:
            raise document.error(f"retrieval.chunks.{name}", "expected at least 1")
    if config.concurrent_tasks < 1:
        raise document.error("retrieval.concurrent_tasks", "expected at least 1")


def _roots(document: ConfigDocument, config: RetrievalConfig, auth: AuthConfig) -> tuple[Path, ...]:
    if config.allowed_roots is not None:
        return tuple(document.resolve(root) for root in config.allowed_roots)
    # With keys, callers are not the user whose files these are.
    return default_roots() if auth.mode == "local" else ()


def create(document: ConfigDocument, _options: argparse.Namespace) -> RetrievalService:
    """Makes the service. Raises ConfigError."""
    return RetrievalService(document)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the service until it is told to stop; returns the exit code."""
    return run("retrieval", create, parser("retrieval"), argv)
