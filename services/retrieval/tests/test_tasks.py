"""Indexing as a task: its events, its end, and what survives."""

import asyncio
import os
import signal

import pytest

from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_pb2, corpus_service_pb2
from sluice.task.v1 import task_service_pb2 as pb
from sluice_kit.errors import SluiceError

R = ErrorReason
EMBEDDER = corpus_pb2.Embedder(target=Target(provider="test", model="words"), dimensions=32)


def gateway(embedder, **settings):
    return {"gateway": {"address": embedder.address}, **settings}


async def events_of(client, name: str, after: int = 0) -> list[pb.TaskEvent]:
    return [event async for event in client.watch(name, after)]


async def test_events_are_gapless_and_end_with_the_state(client, source):
    await client.create()
    name = (await client.start_index(source)).name
    watchers = await asyncio.gather(*(events_of(client, name) for _ in range(5)))
    assert all(watcher == watchers[0] for watcher in watchers)
    events = watchers[0]
    assert name.startswith("tasks/ret-")
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[0].task.state == pb.TASK_STATE_PENDING
    assert [event.task.state for event in events[1:-1]] == [pb.TASK_STATE_RUNNING] * (len(events) - 2)
    last = events[-1].task
    assert last.state == pb.TASK_STATE_SUCCEEDED
    assert (last.progress, last.kind, last.subject) == (1.0, "index_corpus", "corpora/docs")
    assert last.counts["files"] == 4
    progress = [event.task.progress for event in events]
    assert progress == sorted(progress)
    steps = list(dict.fromkeys(event.task.step for event in events if event.task.step))
    assert steps == ["opening", "reading", "chunking", "sealing", "publishing"]
    assert last.create_time.ToNanoseconds() <= last.start_time.ToNanoseconds() <= last.end_time.ToNanoseconds()
    for after in (1, len(events) - 1, len(events), 1000):
        assert await events_of(client, name, after) == events[after:]
    got = await client.call("GetTask", pb.GetTaskRequest(name=name))
    assert got.task == last


async def test_cancel_stops_the_work_and_leaves_nothing(start, source, tmp_path, embedder, children_of):
    async with start(gateway(embedder)) as client:
        await client.create(embedder=EMBEDDER)
        embedder.gate.clear()
        task = await client.start_index(source)
        await asyncio.wait_for(embedder.called.wait(), 60)
        assert len(children_of(os.getpid(), "indexer")) == 1
        cancelled = await client.call("CancelTask", pb.CancelTaskRequest(name=task.name))
        assert cancelled.task.name == task.name
        assert (await client.ended(task.name)).state == pb.TASK_STATE_CANCELLED
        assert children_of(os.getpid(), "indexer") == []
        assert len(children_of(os.getpid(), "edge")) == 1
        assert not list((tmp_path / ".state" / "retrieval").glob("vectors/*/*/*"))
        assert (await client.get()).revision == ""
        await client.service._sweep_if_idle()
        assert not list((tmp_path / ".state" / "retrieval").glob("blobs/*/*/*"))
        again = await client.call("CancelTask", pb.CancelTaskRequest(name=task.name))
        assert again.task.state == pb.TASK_STATE_CANCELLED
        embedder.gate.set()
        assert (await client.index(source)).files == 4


async def test_one_corpus_is_indexed_once_at_a_time(start, source, embedder):
    async with start(gateway(embedder, concurrent_tasks=2)) as client:
        await client.create(embedder=EMBEDDER)
        embedder.gate.clear()
        task = await client.start_index(source)
        await asyncio.wait_for(embedder.called.wait(), 60)
        for attempt in (
            client.start_index(source),
            client.call("DeleteCorpus", corpus_service_pb2.DeleteCorpusRequest(name="corpora/docs")),
        ):
            with pytest.raises(SluiceError) as failure:
                await attempt
            assert failure.value.reason == R.ERROR_REASON_CORPUS_BUSY
            assert failure.value.metadata == {"task": task.name}
        # To count changes nothing, so it may.
        assert (await client.index(source, dry_run=True)).files == 4
        embedder.gate.set()
        assert (await client.ended(task.name)).state == pb.TASK_STATE_SUCCEEDED


async def test_a_task_that_waits_can_be_cancelled(start, source, embedder):
    async with start(gateway(embedder)) as client:
        await client.create("a", embedder=EMBEDDER)
        await client.create("b")
        embedder.gate.clear()
        running = await client.start_index(source, "a")
        await asyncio.wait_for(embedder.called.wait(), 60)
        waiting = await client.start_index(source, "b")
        assert waiting.state == pb.TASK_STATE_PENDING
        await client.call("CancelTask", pb.CancelTaskRequest(name=waiting.name))
        events = await events_of(client, waiting.name)
        assert [event.task.state for event in events] == [pb.TASK_STATE_PENDING, pb.TASK_STATE_CANCELLED]
        embedder.gate.set()
        assert (await client.ended(running.name)).state == pb.TASK_STATE_SUCCEEDED


async def test_a_request_id_makes_one_task(client, source):
    await client.create()
    request_id = "3b1d9c6e-6a2f-4f55-9c1e-0c8a4d2e7f10"
    first = await client.start_index(source, request_id=request_id)
    again = await client.start_index(source, request_id=request_id)
    assert again.name == first.name
    with pytest.raises(SluiceError) as failure:
        await client.start_index(source / "pot", request_id=request_id)
    assert failure.value.reason == R.ERROR_REASON_REQUEST_ID_REUSED
    assert (await client.ended(first.name)).state == pb.TASK_STATE_SUCCEEDED


async def test_tasks_are_listed_newest_first(client, source):
    await client.create()
    names = []
    for _ in range(3):
        names.append((await client.start_index(source)).name)
        await client.ended(names[-1])
    await client.create("none")
    failed = await client.start_index(source, "none", filters=corpus_pb2.PathFilters(include=["nothing"]))
    await client.ended(failed.name)
    names.append(failed.name)

    async def listed(**fields):
        found, token = [], ""
        while True:
            request = pb.ListTasksRequest(page_size=2, page_token=token, **fields)
            response = await client.call("ListTasks", request)
            found += [task.name for task in response.tasks]
            token = response.next_page_token
            if not token:
                return found

    assert await listed() == names[::-1]
    assert await listed(kind="index_corpus", states=[pb.TASK_STATE_SUCCEEDED]) == names[::-1]
    assert await listed(kind="other") == []
    assert await listed(states=[pb.TASK_STATE_FAILED]) == []


async def test_nothing_that_counts_is_an_empty_revision(client, source):
    result = await client.index(source, filters=corpus_pb2.PathFilters(include=["nothing"]))
    assert (result.files, result.chunks) == (0, 0)
    assert await client.search("tea") == []


async def test_a_stop_interrupts_and_the_next_start_resumes(start, source, embedder):
    async with start(gateway(embedder)) as client:
        await client.create(embedder=EMBEDDER)
        embedder.gate.clear()
        task = await client.start_index(source)
        await asyncio.wait_for(embedder.called.wait(), 60)
        watcher = asyncio.create_task(events_of(client, task.name))
        await client.until(task.name, "embedding")
        client.service.runner.drain()
        with pytest.raises(SluiceError) as failure:
            await watcher
        assert failure.value.reason == R.ERROR_REASON_DRAINING
    embedder.gate.set()
    async with start(gateway(embedder)) as client:
        events = await events_of(client, task.name)
        assert events[-1].task.state == pb.TASK_STATE_SUCCEEDED
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert [event.task.step for event in events].count("embedding") >= 2
        progress = [event.task.progress for event in events]
        assert progress == sorted(progress)
        assert await client.search("brew tea")
        assert embedder.tenants == {"local"}


async def test_what_is_interrupted_again_and_again_is_failed(start, source, embedder):
    embedder.gate.clear()
    name = ""
    for attempt in range(3):
        embedder.called.clear()
        async with start(gateway(embedder)) as client:
            if not attempt:
                await client.create(embedder=EMBEDDER)
                name = (await client.start_index(source)).name
            await asyncio.wait_for(embedder.called.wait(), 60)
    async with start(gateway(embedder)) as client:
        task = await client.ended(name)
        assert task.state == pb.TASK_STATE_FAILED
        assert "INTERNAL" in str(task.error)
        embedder.gate.set()
        assert (await client.index(source)).files == 4


async def test_the_reader_s_death_fails_the_task_clearly(start, source, embedder, children_of):
    async with start(gateway(embedder)) as client:
        await client.create(embedder=EMBEDDER)
        for number in range(200):
            (source / f"{number}.txt").write_text(f"number {number}\n" * 50)
        embedder.gate.clear()
        task = await client.start_index(source)
        await asyncio.wait_for(embedder.called.wait(), 60)
        for pid in children_of(os.getpid(), "indexer"):
            os.kill(pid, signal.SIGKILL)
        embedder.gate.set()
        ended = await client.ended(task.name)
        assert ended.state == pb.TASK_STATE_FAILED
        assert "ended unexpectedly" in ended.error.message
        assert (await client.index(source)).files == 204


async def test_the_writer_s_death_is_made_good(start, source, embedder, children_of):
    async with start(gateway(embedder)) as client:
        await client.create(embedder=EMBEDDER)
        embedder.gate.clear()
        searching = children_of(os.getpid(), "edge")
        task = await client.start_index(source)
        await asyncio.wait_for(embedder.called.wait(), 60)
        writing = set(children_of(os.getpid(), "edge")) - set(searching)
        assert len(writing) == 1
        for pid in writing:
            os.kill(pid, signal.SIGKILL)
        embedder.gate.set()
        assert (await client.ended(task.name)).state == pb.TASK_STATE_SUCCEEDED
        assert (await client.search("brew_tea"))[0].path in ("README.md", "pot/server.py")


async def test_the_searcher_s_death_is_not_noticed(client, source, children_of):
    await client.index(source)
    before = await client.search("brew_tea")
    for pid in children_of(os.getpid(), "edge"):
        os.kill(pid, signal.SIGKILL)
    found = await asyncio.gather(*(client.search("brew_tea") for _ in range(8)))
    assert found == [before] * 8
    assert len(children_of(os.getpid(), "edge")) == 1
