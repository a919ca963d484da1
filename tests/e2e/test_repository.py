"""Repositories that requests name: indexed on demand, by one task for all who want them, then found ready."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from sluice.chat.v1.event_pb2 import Event, NoticeCode
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.retrieval.v1.corpus_pb2 import GitSource, LocalSource, PathFilters, Source
from sluice.task.v1.task_service_pb2 import TASK_STATE_SUCCEEDED
from sluice_client import NumberedEvent, SluiceClient, question, repository
from sluice_kit.errors import SluiceError
from sluice_kit.testing import Mesh, make_service, mesh, running

from .processes import Up

R = ErrorReason
BEST_EFFORT = pb.GROUNDING_POLICY_BEST_EFFORT
VALVE = '"""Where the valve lives."""\n\n\ndef open_valve(width: float) -> float:\n    return width * 12.5\n'
PUMP = '"""Where the pump lives."""\n\n\ndef prime_pump(name: str) -> str:\n    return f"primed {name}"\n'


def git(folder: Path, *words: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "GIT_CONFIG_NOSYSTEM": "1"} | {
        f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    ended = subprocess.run(["git", "-C", str(folder), *words], env=environment, check=True, capture_output=True)
    return ended.stdout.decode().strip()


def commit(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "more")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def works(tmp_path: Path) -> Path:
    """A git repository."""
    folder = tmp_path / "sources" / "Water.Works"
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "--initial-branch=main", "--template=")
    commit(folder, valve=VALVE)
    return folder


def settings(folder: Path, **sections: Any) -> dict[str, Any]:
    providers = {"scripted": {"adapter": "scripted"}, "extractive": {"adapter": "extractive"}}
    return {"providers": providers, "retrieval": {"allowed_roots": [str(folder.parent)]}, **sections}


@contextlib.asynccontextmanager
async def started(works: Path, **sections: Any) -> AsyncIterator[tuple[SluiceClient, Mesh]]:
    async with mesh(settings(works, **sections), retrieval=True) as up, SluiceClient(up.address) as client:
        yield client, up


def ask(
    works: Path | str, text: str = "open valve width", *, model: str = "extractive/quote", **fields: Any
) -> pb.ChatSpec:
    """A question about a repository. `fields` are those of its message, and `corpora` and `policy` of the grounding."""
    url = works.as_uri() if isinstance(works, Path) else works
    policy, corpora = fields.pop("policy", None), fields.pop("corpora", ())
    spec = question(text, model=model)
    git_source = GitSource(url=url, revision=fields.pop("revision", None))
    wanted = pb.Repository(source=Source(git=git_source), files=fields.pop("files", None))
    if "max_age" in fields:
        wanted.max_age.FromMilliseconds(round(1000 * fields.pop("max_age")))
    spec.grounding.CopyFrom(pb.Grounding(repository=wanted, corpora=corpora, policy=policy))
    if "seconds" in fields:
        spec.max_duration.FromMilliseconds(round(1000 * fields.pop("seconds")))
    assert not fields
    return spec


async def events_of(client: SluiceClient, spec: pb.ChatSpec) -> list[NumberedEvent]:
    async with client.stream_chat(spec) as stream:
        return [item async for item in stream]


def hide(folder: Path) -> None:
    folder.rename(folder.with_name("gone"))


def of(events: Iterable[NumberedEvent], kind: str) -> list[Any]:
    return [getattr(item.event, kind) for item in events if item.kind == kind]


def files(events: Iterable[NumberedEvent]) -> set[str]:
    return {passage.path for found in of(events, "retrieved") for passage in found.passages}


async def tasks(client: SluiceClient) -> list[str]:
    return [task.name async for task in client.list_tasks()]


async def test_it_is_indexed_once_and_found_ready_from_then_on(works: Path) -> None:
    async with started(works) as (client, up):
        first = await events_of(client, ask(works))
        told = of(first, "indexing")
        kinds = [item.kind for item in first]
        assert kinds[: 2 + len(told)] == ["accepted", *["indexing"] * len(told), "retrieved"]
        assert [one.progress for one in told] == sorted(one.progress for one in told)
        assert told[-1].progress == 1
        assert len({(one.step, round(one.progress, 1)) for one in told}) > 2
        assert await tasks(client) == list({one.task for one in told})
        assert files(first) == {"valve.py"}
        assert [item.event.citation.state for item in first if item.kind == "citation"] != []
        # Whoever comes later sees the same, its progress included.
        async with client.resume_chat(first[0].event.accepted.response) as stream:
            assert [item async for item in stream] == first
        again = await events_of(client, ask(works))
        assert of(again, "indexing") == []
        assert files(again) == {"valve.py"}
        # However it is spelled, it is the same; with other files it is another.
        same = await events_of(client, ask(f"file://{works.parent}//{works.name}/"))
        assert of(same, "indexing") == []
        other = await events_of(client, ask(works, files=PathFilters(include=["docs/"])))
        assert of(other, "indexing")
        assert files(other) == set()
        corpora = [corpus async for corpus in client.list_corpora()]
        assert len(corpora) == 2
        assert {corpus.name.rpartition("-")[0] for corpus in corpora} == {"corpora/repo-water-works"}
        assert {corpus.display_name for corpus in corpora} == {"sources/Water.Works"}
        # Together with a corpus of one's own; asked for in one piece.
        notes = works.parent / "notes"
        notes.mkdir()
        (notes / "tides.md").write_text("# Tides\n\nThe valve is opened at low tide.\n")
        await client.create_corpus("notes")
        task = await client.index_corpus("notes", Source(local=LocalSource(path=str(notes))))
        assert (await client.watch_task(task.name).result()).state == TASK_STATE_SUCCEEDED
        answer = await client.chat(ask(works, corpora=["corpora/notes"]))
        assert {passage.path for passage in answer.passages} == {"valve.py", "tides.md"}
        rows = await up.services["gateway"]._ledger.rows("attempts")  # type: ignore[attr-defined]  # the gateway's own
        assert [row["outcome"] for row in rows] == ["completed"] * 5


async def test_who_wants_it_at_the_same_time_shares_the_task(works: Path) -> None:
    async with started(works) as (client, up):
        runner = up.services["retrieval"].runner  # type: ignore[attr-defined]  # the retrieval service's own
        spec = ask(works)
        async with runner.quiet():
            streams = [client.stream_chat(spec, resume=False) for _ in range(4)]
            named = set()
            for stream in streams:
                async for item in stream:
                    if item.kind == "indexing":
                        named.add(item.event.indexing.task)
                        assert (item.event.indexing.step, item.event.indexing.progress) == ("waiting", 0)
                        break
            # One leaves, one is cancelled, one has no time left; the task is nobody's of them.
            left, cancelled, *others = streams
            await left.aclose()
            assert await client.cancel_chat(str(cancelled.response)) == pb.RESPONSE_STATE_CANCELLED
            with pytest.raises(SluiceError) as caught:
                await client.chat(ask(works, seconds=0.3))
            assert caught.value.reason == R.ERROR_REASON_DEADLINE_EXCEEDED
            assert await client.cancel_chat(str(left.response)) == pb.RESPONSE_STATE_CANCELLED
        for stream in others:
            assert [item.kind async for item in stream][-1] == "completed"
        assert len(named) == 1
        assert await tasks(client) == list(named)
        rows = await up.services["gateway"]._ledger.rows("attempts")  # type: ignore[attr-defined]  # the gateway's own
        assert [row["outcome"] for row in rows] == ["completed"] * 2
        # An index that is brought up to date is waited for half of the time, because there is an older one.
        async with runner.quiet():
            late = await events_of(client, ask(works, max_age=0, seconds=4))
        [notice] = [one for one in of(late, "notice") if one.code == NoticeCode.NOTICE_CODE_INDEX_OUTDATED]
        assert notice.metadata["reason"] == "DEADLINE_EXCEEDED"
        assert files(late) == {"valve.py"}


async def test_an_older_index_is_brought_up_to_date(works: Path) -> None:
    async with started(works) as (client, _):
        old = git(works, "rev-parse", "HEAD")
        fixed = ask(works, "prime pump or open valve", revision=old, max_age=0)
        assert of(await events_of(client, fixed), "indexing")
        await events_of(client, ask(works))
        new = commit(works, pump=PUMP)
        assert files(await events_of(client, ask(works, "prime pump or open valve", max_age=3600))) == {"valve.py"}
        seen = await events_of(client, ask(works, "prime pump or open valve", max_age=0))
        assert of(seen, "indexing")
        assert files(seen) == {"valve.py", "pump.py"}
        # A commit does not change.
        seen = await events_of(client, fixed)
        assert of(seen, "indexing") == []
        assert files(seen) == {"valve.py"}
        # The cache goes by what was found, and keeps no answer that was made in want of a newer index.
        spec = ask(works, "prime pump", max_age=3600)
        spec.cache = pb.CACHE_POLICY_USE
        assert [(await client.chat(spec)).completed.HasField("cached") for _ in range(2)] == [False, True]
        new = commit(works, pump=PUMP.replace("primed", "filled"))
        spec.grounding.repository.max_age.FromSeconds(0)
        assert not (await client.chat(spec)).completed.HasField("cached")
        hide(works)
        outdated = ask(works, "pump name", max_age=0)
        outdated.cache = pb.CACHE_POLICY_USE
        assert [(await client.chat(outdated)).completed.HasField("cached") for _ in range(2)] == [False, False]
        seen = await events_of(client, ask(works, "prime pump", max_age=0))
        [notice] = [one for one in of(seen, "notice") if one.code == NoticeCode.NOTICE_CODE_INDEX_OUTDATED]
        assert dict(notice.metadata) == {"reason": "SOURCE_UNREADABLE", "revision": new}
        assert files(seen) == {"pump.py"}
        assert seen[-1].kind == "completed"


async def test_what_cannot_be_indexed_fails_the_answer_or_is_told(works: Path) -> None:
    async with started(works) as (client, _):
        for where, reason in (
            (ask(works, revision="absent"), R.ERROR_REASON_SOURCE_UNREADABLE),
            (ask("https://git.example.org/a/b"), R.ERROR_REASON_SOURCE_NOT_ALLOWED),
            (ask("/etc"), R.ERROR_REASON_SOURCE_NOT_ALLOWED),
            (ask("https://u:p@github.com/a/b"), R.ERROR_REASON_INVALID_REQUEST),
        ):
            with pytest.raises(SluiceError) as caught:
                await client.chat(where)
            assert caught.value.reason == reason, where
            where.grounding.policy = BEST_EFFORT
            answer = await client.chat(where)
            notice = answer.notices[0]
            assert notice.code == NoticeCode.NOTICE_CODE_UNGROUNDED
            assert notice.metadata["reason"] == ErrorReason.Name(reason).removeprefix("ERROR_REASON_")
            assert not answer.passages
        # What is refused leaves nothing behind; the task that failed says so to all who watched it.
        assert [corpus.document_count async for corpus in client.list_corpora()] == [0]
        await client.create_corpus("mine")
        task = await client.index_corpus("mine", Source(local=LocalSource(path=str(works))))
        await client.watch_task(task.name).result()
        answer = await client.chat(ask(works, revision="absent", corpora=["corpora/mine"], policy=BEST_EFFORT))
        assert "not grounded in the repository" in answer.notices[0].message
        assert {passage.path for passage in answer.passages} == {"valve.py"}
        with pytest.raises(SluiceError) as caught:
            await client.chat(ask(works, corpora=[f"corpora/c{number}" for number in range(16)]))
        assert caught.value.violations[0].field == "spec.grounding.corpora"


async def test_who_may_not_index_may_ask_once_it_is(works: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    rows = [("reader", "user"), ("writer", "editor")]
    keys.write_text(
        "keys:\n"
        + "".join(
            f"  - {{id: {name}, sha256: {hashlib.sha256(name.encode()).hexdigest()}, tenant: t, roles: [{role}]}}\n"
            for name, role in rows
        )
    )
    auth = {"mode": "keys", "keys_file": str(keys)}
    async with (
        mesh(settings(works, auth=auth), retrieval=True) as up,
        SluiceClient(up.address, key="reader") as reader,
        SluiceClient(up.address, key="writer") as writer,
    ):
        with pytest.raises(SluiceError) as caught:
            await reader.chat(ask(works))
        assert caught.value.reason == R.ERROR_REASON_PERMISSION_DENIED
        assert caught.value.metadata == {"role": "EDITOR"}
        assert [corpus async for corpus in reader.list_corpora()] == []
        await writer.chat(ask(works))
        assert not of(await events_of(reader, ask(works)), "indexing")
        seen = await events_of(reader, ask(works, max_age=0))
        assert [one.metadata["reason"] for one in of(seen, "notice")][:1] == ["PERMISSION_DENIED"]
        assert files(seen) == {"valve.py"}


@pytest.mark.slow
async def test_the_retrieval_service_may_be_killed_meanwhile(tmp_path: Path) -> None:
    """The task goes on in the next process, and who watches it is answered by the same stream."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(200):
        text = VALVE.replace("valve", f"valve_{number}") * 20
        (folder / f"valve_{number}.py").write_text(text)
    spec = question("open valve_7", model="extractive/quote", repository=repository(str(folder)))
    up = Up(tmp_path, settings(folder))
    try:
        async with SluiceClient(up.address) as client:
            stream = client.stream_chat(spec)
            seen: list[Event] = []
            async for item in stream:
                seen.append(item.event)
                if item.kind == "indexing" and item.event.indexing.progress > 0:
                    assert item.event.indexing.progress < 1
                    break
            said = len(up.said)
            os.kill(up.service("retrieval", "up")["pid"], signal.SIGKILL)
            up.service("retrieval", "up", after=said)
            seen += [item.event async for item in stream]
    finally:
        assert up.end() == 0
    told = [event.indexing for event in seen if event.HasField("indexing")]
    assert len({one.task for one in told}) == 1
    assert [one.progress for one in told] == sorted(one.progress for one in told)
    assert next(passage.path for event in seen for passage in event.retrieved.passages) == "valve_7.py"
    assert seen[-1].HasField("completed")


async def test_the_retrieval_service_may_be_started_anew_meanwhile(works: Path, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/r.sock"
    sections = settings(works, gateway={"retrieval": {"address": address}})
    sections["retrieval"]["listen"] = address
    async with mesh(sections) as up, SluiceClient(up.address) as client:
        async with contextlib.AsyncExitStack() as stack:
            before = make_service("retrieval", up.document)
            await stack.enter_async_context(running(before, up.document, 0.2))
            await stack.enter_async_context(before.runner.quiet())  # type: ignore[attr-defined]  # its own
            stream = client.stream_chat(ask(works))
            seen: list[Event] = []
            async for item in stream:
                seen.append(item.event)
                if item.kind == "indexing":
                    break
        reading = asyncio.create_task(anext(stream))
        waiting = client.stream_chat(ask(works))
        assert (await anext(waiting)).kind == "accepted"
        impatient = await client.chat(ask(works, policy=BEST_EFFORT))
        assert impatient.notices[0].metadata["reason"] == "GROUNDING_UNAVAILABLE"
        async with running(make_service("retrieval", up.document), up.document):
            seen += [(await reading).event, *[item.event async for item in stream]]
            assert [item.kind async for item in waiting][-1] == "completed"
        assert len({event.indexing.task for event in seen if event.HasField("indexing")}) == 1
        assert [event.WhichOneof("kind") for event in seen][-1] == "completed"
        assert seen[-1].completed.attempts
