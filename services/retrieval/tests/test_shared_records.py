"""Records in Postgres: the same service, and several of them at work on the same corpora."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text

from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_pb2, corpus_service_pb2
from sluice.task.v1 import task_service_pb2
from sluice_kit.config import ConfigError
from sluice_kit.errors import SluiceError
from sluice_kit.testing import document_of, running
from sluice_retrieval.names import now
from sluice_retrieval.records import texts
from sluice_retrieval.records.database import Database
from sluice_retrieval.records.models import Base
from sluice_retrieval.service import RetrievalService

from .qdrant_server import qdrant_server
from .test_process import process, run_folder, serving, write

__all__ = ["run_folder"]  # a fixture
EMBEDDER = corpus_pb2.Embedder(target=Target(provider="test", model="words"), dimensions=32)
# The engine inside the client has no indexes and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning")


@pytest.fixture
async def shared(postgres_url: str, embedder: Any) -> AsyncIterator[dict[str, Any]]:
    """Settings that several services share."""
    async with qdrant_server() as (port, _):
        server = {"url": "http://127.0.0.1:1", "grpc_port": port, "replication_factor": 1}
        yield {
            "records": {"url": postgres_url},
            "store": {"kind": "qdrant", "qdrant": server},
            "replicas": 2,
            "gateway": {"address": embedder.address},
        }


@pytest.fixture
async def second(shared: dict[str, Any], tmp_path: Path, client_class: Any) -> AsyncIterator[Any]:
    """A second service, with a folder of its own, and a client of it."""
    async with another(shared, tmp_path, client_class) as client:
        yield client


@contextlib.asynccontextmanager
async def another(shared: dict[str, Any], tmp_path: Path, client_class: Any) -> AsyncIterator[Any]:
    retrieval = {"listen": "127.0.0.1:0", "allowed_roots": [str(tmp_path)], **shared}
    document = document_of({"state_dir": str(tmp_path / ".second"), "retrieval": retrieval}, tmp_path)
    service = RetrievalService(document)
    async with running(service, document) as server:
        client = client_class(server.address)
        client.service = service
        try:
            yield client
        finally:
            await client.close()


async def test_a_whole_life(start, postgres_url, source, tmp_path):
    settings = {"records": {"url": postgres_url}}
    async with start(settings) as client:
        first = await client.index(source)
        (passage, *_) = await client.search("descale the kettle")
        assert passage.path == "notes.txt"
        assert await client.verify(passage) == ["VALID"]
    async with start(settings) as client:
        assert (await client.get()).revision == first.corpus.revision
        (source / "notes.txt").write_text("Descale the kettle every week.\n")
        again = await client.index(source)
        assert again.corpus.revision != first.corpus.revision
        assert await client.verify(passage) == ["CHANGED"]
        (passage, *_) = await client.search("descale the kettle")
        assert "every week" in passage.text
        request = corpus_service_pb2.GetDocumentRequest(corpus="corpora/docs", path="pot/client.py")
        assert "pouring" in (await client.call("GetDocument", request)).text
        await client.call("DeleteCorpus", corpus_service_pb2.DeleteCorpusRequest(name="corpora/docs"))
        # The folder holds what an index under way needs, and no more.
        assert not list((tmp_path / ".state" / "retrieval" / "blobs").glob("*/*/*"))
        database = client.service.database
        kept = await database.write(lambda session: texts.sweep(session, now() - 3600))
        assert kept == 0  # they may be about to be named
        assert await database.write(lambda session: texts.sweep(session, now() + 1)) == 5


async def test_what_one_indexes_the_other_finds(start, shared, second, source):
    async with start(shared) as first:
        await first.create(embedder=EMBEDDER)
        task = await first.start_index(source)
        # The other one has every event of it, and its texts.
        seen = [event async for event in second.watch(task.name)]
        assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
        assert seen[-1].task.state == task_service_pb2.TASK_STATE_SUCCEEDED
        for query in ("descale the kettle", "brew_tea"):
            one, other = await first.search(query), await second.search(query)
            assert one
            assert [passage.text for passage in one] == [passage.text for passage in other]
        assert await second.verify(*await first.search("oolong")) == ["VALID"] * len(await first.search("oolong"))


async def test_a_task_is_busy_and_is_cancelled_from_anywhere(start, shared, second, source, embedder):
    async with start(shared) as first:
        await first.create(embedder=EMBEDDER)
        embedder.gate.clear()
        task = await first.start_index(source)
        await embedder.called.wait()
        with pytest.raises(SluiceError) as refused:
            await second.start_index(source)
        assert refused.value.reason == ErrorReason.ERROR_REASON_CORPUS_BUSY
        assert refused.value.metadata["task"] == task.name
        await second.call("CancelTask", task_service_pb2.CancelTaskRequest(name=task.name))
        assert (await first.ended(task.name)).state == task_service_pb2.TASK_STATE_CANCELLED
        embedder.gate.set()
        assert (await second.ended((await second.start_index(source)).name)).state == (
            task_service_pb2.TASK_STATE_SUCCEEDED
        )
        # Cleaning up waits for what the other one does.
        embedder.gate.clear()
        embedder.called.clear()
        (source / "more.py").write_text("def more() -> None: ...\n")
        task = await first.start_index(source)
        await embedder.called.wait()
        async with second.service.runner.quiet() as alone:
            assert not alone
        embedder.gate.set()
        await first.ended(task.name)
        async with second.service.runner.quiet() as alone:
            assert alone


@pytest.mark.slow
async def test_when_one_is_killed_the_other_goes_on(
    shared, second, run_folder, tmp_path, source, embedder, client_class
):
    config, address = write(run_folder, tmp_path, **shared)
    async with process(config) as first:
        await serving(first)
        client = client_class(address)
        await client.create(embedder=EMBEDDER)
        embedder.gate.clear()
        task = await client.start_index(source)
        await embedder.called.wait()
        first.send_signal(signal.SIGKILL)
        await first.wait()
        await client.close()
    embedder.gate.set()
    ended = await second.ended(task.name)
    assert ended.state == task_service_pb2.TASK_STATE_SUCCEEDED
    assert await second.search("descale the kettle")


async def test_a_server_that_is_away_for_a_while(start, shared, postgres, second, source, embedder):
    async with start(shared) as first:
        await first.create(embedder=EMBEDDER)
        embedder.gate.clear()
        task = await first.start_index(source)
        await embedder.called.wait()
        postgres.stop()
        try:
            with pytest.raises(SluiceError) as failure:
                await second.get()
            assert failure.value.reason == ErrorReason.ERROR_REASON_STORE_UNAVAILABLE
            await until(lambda: not first.service.runner.works_on(task.name))
        finally:
            postgres.start()
        embedder.gate.set()
        # Whichever of the two has it now.
        assert (await second.ended(task.name)).state == task_service_pb2.TASK_STATE_SUCCEEDED
        assert await first.search("descale the kettle")


async def test_it_starts_before_its_database_and_is_ready_with_it(start, postgres_url, postgres, source):
    postgres.stop()
    starting = asyncio.ensure_future(_index(start, postgres_url, source))
    try:
        await asyncio.wait((starting,), timeout=0.5)
        assert not starting.done()
    finally:
        postgres.start()
    assert await starting == 4


async def _index(start: Callable[..., Any], postgres_url: str, source: Path) -> int:
    async with start({"records": {"url": postgres_url}}) as client:
        return int((await client.index(source)).files)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # what is waited for happens in a service that knows no test
        await asyncio.sleep(0.05)


async def test_tables_of_every_version_become_those_of_this_one(tmp_path):
    for version in (0, 1, 2):
        path = tmp_path / f"{version}.sqlite"
        engine = create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            old = [table for name, table in Base.metadata.tables.items() if name != "blobs"]
            if version:
                Base.metadata.create_all(connection, old)
            if version == 1:
                for name in ("skipped", "signature", "scan"):
                    connection.exec_driver_sql(f"ALTER TABLE documents DROP COLUMN {name}")
            connection.exec_driver_sql(f"PRAGMA user_version={version}")
        engine.dispose()
        await _is_current(Database(path))
        await _is_current(Database(path))


async def test_tables_in_postgres_are_those_of_the_models(postgres_url, tmp_path):
    # Of two that start at once, one makes them.
    await asyncio.gather(*(_is_current(Database(tmp_path / "unused", postgres_url)) for _ in range(2)))


async def test_tables_of_a_newer_program_are_refused(postgres_url, tmp_path):
    for place in (None, postgres_url):
        database = Database(tmp_path / "records.sqlite", place)
        await database.open()
        await database.write(lambda session: session.execute(text("UPDATE retrieval_version SET version_num='9999'")))
        await database.close()
        with pytest.raises(ConfigError, match="newer version"):
            await Database(tmp_path / "records.sqlite", place).open()


async def _is_current(database: Database) -> None:
    await database.open()
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "retrieval_version"})
        assert compare_metadata(context, Base.metadata) == []
    await database.close()


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"replicas": 2}, "retrieval.records.url"),
        ({"replicas": 2, "records": {"url": "postgresql://h/d"}}, "retrieval.store.kind"),
        ({"records": {"url": "mysql://user:secret@h/d"}}, "retrieval.records.url"),
        ({"records": {"url": "no url: secret"}}, "retrieval.records.url"),
        ({"replicas": 0}, "retrieval.replicas"),
    ],
)
def test_settings_that_cannot_work(settings, setting, tmp_path):
    with pytest.raises(ConfigError, match=setting) as failure:
        RetrievalService(document_of({"state_dir": str(tmp_path), "retrieval": settings}, tmp_path))
    assert "secret" not in str(failure.value)
