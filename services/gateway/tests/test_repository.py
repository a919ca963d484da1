"""Repositories on demand, where the retrieval service is awkward. With a real one: tests/e2e/test_repository.py."""

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from sluice.chat.v1.event_pb2 import Event, NoticeCode
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1.chat_service_pb2 import Repository
from sluice.retrieval.v1.corpus_pb2 import Corpus, GitHost, GitSource, LocalSource, PathFilters, Source
from sluice.task.v1.task_service_pb2 import Task, TaskEvent, TaskState
from sluice_gateway.pipeline.repository import Repositories, corpus_of
from sluice_gateway.retrieval import Retrieval
from sluice_kit.call import Call
from sluice_kit.errors import NotFoundError, SluiceError, make_error, to_status

from .virtual import VirtualLoop

R = ErrorReason
URL = "https://github.com/Sea/Gate"
DONE, RUNNING = TaskState.TASK_STATE_SUCCEEDED, TaskState.TASK_STATE_RUNNING


def git(url: str = URL, **fields: Any) -> Source:
    return Source(git=GitSource(url=url, **fields))


def repository(source: Source | None = None, **fields: Any) -> Repository:
    return Repository(source=source or git(), **fields)


def gone(reason: "ErrorReason.ValueType" = R.ERROR_REASON_GROUNDING_UNAVAILABLE) -> SluiceError:
    return make_error(reason, "gone")


class Scripted(Retrieval):
    """Says of its one corpus and its tasks what a test wants. What is scripted is an answer or a failure, in order."""

    def __init__(self, *watches: Any, corpus: Corpus | None = None, tasks: Iterator[Any] | None = None) -> None:
        super().__init__(None)
        self._corpus = corpus
        self._tasks = tasks or iter(())
        self._watches = iter(watches)
        self.after: list[int] = []
        self.created: list[str] = []

    async def corpus(self, name: str, call: Call, *, patient: bool = False) -> Corpus:
        if self._corpus is None:
            raise NotFoundError("no such corpus")
        corpus = Corpus(name=name)
        corpus.MergeFrom(self._corpus)
        return corpus

    async def create(self, request: Any, call: Call, *, patient: bool = False) -> None:
        self.created.append(request.display_name)
        raise make_error(R.ERROR_REASON_ALREADY_EXISTS, "it exists")

    async def index(self, request: Any, call: Call, *, patient: bool = False) -> str:
        made = next(self._tasks, "tasks/ret-1")
        if isinstance(made, Exception):
            raise made
        return str(made)

    async def watch(self, task: str, after: int, call: Call) -> AsyncGenerator[TaskEvent | None]:
        self.after.append(after)
        for item in next(self._watches, [gone()]):
            if isinstance(item, Exception):
                raise item
            if item is not None:
                item.task.name = task
            yield item


def event(sequence: int, state: "TaskState.ValueType" = RUNNING, **fields: Any) -> TaskEvent:
    return TaskEvent(sequence=sequence, task=Task(state=state, kind=fields.pop("kind", "index_corpus"), **fields))


def done(sequence: int = 9, **fields: Any) -> TaskEvent:
    made = event(sequence, DONE, progress=1, **fields)
    made.task.start_time.GetCurrentTime()
    return made


def indexed(age: float = 7200, source: Source | None = None) -> Corpus:
    corpus = Corpus(revision="abc", source=source or git())
    corpus.index_time.FromMilliseconds(round((time.time() - age) * 1000))
    return corpus


class Ready:
    """Asks for repositories in virtual time."""

    def __init__(self, retrieval: Retrieval, loop: VirtualLoop) -> None:
        self._repositories = Repositories(retrieval)
        self._loop = loop
        self.events: list[Event] = []

    def __call__(self, wanted: Repository | None = None) -> str:
        async def ready() -> str:
            return await self._repositories.ready(wanted or repository(), Call("/m"), self.events.append, patient=True)

        return self._loop.finish(ready())

    @property
    def told(self) -> list[tuple[str, float]]:
        return [(one.indexing.step, round(one.indexing.progress, 2)) for one in self.events if one.HasField("indexing")]

    @property
    def notices(self) -> list[dict[str, str]]:
        for one in self.events:
            if one.HasField("notice"):
                assert one.notice.code == NoticeCode.NOTICE_CODE_INDEX_OUTDATED
        return [dict(one.notice.metadata) for one in self.events if one.HasField("notice")]


@contextmanager
def asking(retrieval: Retrieval) -> Iterator[Ready]:
    loop = VirtualLoop()
    try:
        yield Ready(retrieval, loop)
    finally:
        loop.close()


SAME = (
    (git(), [git("HTTPS://GitHub.com:443/Sea/Gate.git"), git(f"{URL}//"), git(host=GitHost.GIT_HOST_GITHUB)]),
    (git(revision="a" * 40), [git(revision="A" * 40)]),
    (git("/srv/x y/gate"), [git("file:///srv/x%20y/./gate/"), git("FILE:///srv//x y/gate")]),
    (Source(local=LocalSource(path="/srv/gate")), [Source(local=LocalSource(path="/srv//gate/"))]),
)
OTHER = (
    repository(),
    repository(git("https://github.com/sea/gate")),  # hosts may tell them apart
    repository(git("http://github.com/Sea/Gate")),
    repository(git("https://github.com:8443/Sea/Gate")),
    repository(git(revision="main")),
    repository(git(revision="Main")),
    repository(git(credential="work")),
    repository(git("/srv/gate")),
    repository(git("/srv/../gate")),
    repository(Source(local=LocalSource(path="/srv/gate"))),
    repository(files=PathFilters(include=["a"])),
    repository(files=PathFilters(exclude=["a"])),
    repository(files=PathFilters(include=["a", "b"])),
    repository(files=PathFilters(include=["a"], exclude=["b"])),
)


@pytest.mark.parametrize(("one", "spellings"), SAME)
def test_one_repository_has_one_index_however_it_is_spelled(one: Source, spellings: list[Source]) -> None:
    assert {corpus_of(repository(other)) for other in spellings} == {corpus_of(repository(one))}


def test_what_differs_has_an_index_of_its_own() -> None:
    names = [corpus_of(one) for one in OTHER]
    assert len(set(names)) == len(names)
    assert corpus_of(OTHER[0]).startswith("corpora/repo-gate-")
    again = repository(files=PathFilters(include=["b", "a", "b"]))
    assert corpus_of(again) == names[-2]
    # A name that has been given stays, over versions: it is where the index is.
    assert names[0] == "corpora/repo-gate-c2c5f810798638bd"
    for strange in ("https://h/", "https://h/" + "x" * 300, "https://h/Ü-ß", "/"):
        assert len(corpus_of(repository(git(strange)))) <= len("corpora/") + 63


def test_progress_is_told_where_it_changed() -> None:
    events = [event(1), event(2, step="reading", progress=0.01), event(3, step="reading", progress=0.04), None]
    events += [
        event(4, step="reading", progress=0.061),
        event(5, step="writing", progress=0.061),
        done(6, step="writing"),
    ]
    with asking(Scripted(events)) as ready:
        ready()
    assert ready.told == [("waiting", 0), ("reading", 0.01), ("reading", 0.06), ("writing", 0.06), ("writing", 1)]


def test_a_watch_that_breaks_goes_on_where_it_was() -> None:
    broken = [[event(1), gone()], [gone(R.ERROR_REASON_DRAINING)], [event(2, step="a"), None], [done(3)]]
    retrieval = Scripted(*broken)
    with asking(retrieval) as ready:
        ready()
    assert retrieval.after == [0, 1, 1, 2]
    assert ready.told == [("waiting", 0), ("a", 0), ("waiting", 1)]


def test_a_service_that_stays_away_is_given_up() -> None:
    with asking(Scripted([event(1)])) as ready, pytest.raises(SluiceError) as caught:
        ready()
    assert caught.value.reason == R.ERROR_REASON_GROUNDING_UNAVAILABLE
    empty: list[list[TaskEvent]] = [[] for _ in range(99)]
    with asking(Scripted(*empty)) as ready, pytest.raises(SluiceError, match="how the task ends"):
        ready()


def test_what_is_no_break_is_the_failure() -> None:
    with asking(Scripted([gone(R.ERROR_REASON_INTERNAL)])) as ready, pytest.raises(SluiceError) as caught:
        ready()
    assert caught.value.reason == R.ERROR_REASON_INTERNAL


def test_a_corpus_is_made_by_whoever_comes_first() -> None:
    busy = make_error(R.ERROR_REASON_CORPUS_BUSY, "busy", metadata={"task": "tasks/ret-7"})
    retrieval = Scripted([done()], tasks=iter([NotFoundError("no corpus"), busy]))
    with asking(retrieval) as ready:
        name = ready()
    assert name == corpus_of(repository())
    assert retrieval.created == ["Sea/Gate"]
    assert [one.indexing.task for one in ready.events] == ["tasks/ret-7"]


def test_a_task_of_another_kind_is_waited_for() -> None:
    with asking(Scripted([done(kind="move_corpus")], [done()])) as ready:
        ready()
    with (
        asking(Scripted(*([done(kind="move_corpus")] for _ in range(9)))) as ready,
        pytest.raises(SluiceError) as caught,
    ):
        ready()
    assert caught.value.reason == R.ERROR_REASON_CORPUS_NOT_READY
    odd = make_error(R.ERROR_REASON_CORPUS_BUSY, "busy")
    with asking(Scripted(tasks=iter([odd]))) as ready, pytest.raises(SluiceError) as caught:
        ready()
    assert caught.value is odd


def test_how_a_task_ended_is_the_failure() -> None:
    failed = event(1, TaskState.TASK_STATE_FAILED)
    failed.task.error.CopyFrom(to_status(gone(R.ERROR_REASON_SOURCE_UNREADABLE)))
    with asking(Scripted([failed])) as ready, pytest.raises(SluiceError) as caught:
        ready()
    assert caught.value.reason == R.ERROR_REASON_SOURCE_UNREADABLE
    assert caught.value.metadata["task"] == "tasks/ret-1"
    cancelled = event(1, TaskState.TASK_STATE_CANCELLED)
    with asking(Scripted([cancelled])) as ready, pytest.raises(SluiceError, match="cancelled tasks/ret-1") as caught:
        ready()
    assert caught.value.reason == R.ERROR_REASON_CORPUS_NOT_READY
    with asking(Scripted([failed], corpus=indexed())) as ready:
        ready()
    assert ready.notices == [{"reason": "SOURCE_UNREADABLE", "revision": "abc"}]


@pytest.mark.parametrize(
    ("wanted", "age", "indexes"),
    [
        (repository(), 3500, False),
        (repository(), 3700, True),
        (repository(max_age=Duration(seconds=60)), 50, False),
        (repository(max_age=Duration(seconds=60)), 70, True),
        (repository(max_age=Duration()), -5, True),
        (repository(git(revision="c" * 40), max_age=Duration()), 1e6, False),
        (repository(git(revision="main")), 1e6, True),
    ],
)
def test_how_old_an_index_may_be(wanted: Repository, age: float, *, indexes: bool) -> None:
    with asking(Scripted([done()], corpus=indexed(age, wanted.source))) as ready:
        ready(wanted)
    assert bool(ready.told) == indexes


def test_one_that_was_looked_at_is_as_good_as_new() -> None:
    """An index that finds nothing new leaves the time of the one before."""
    with asking(Scripted([done()], [done()], corpus=indexed())) as ready:
        ready()
        ready()
        assert len(ready.told) == 1
        ready(repository(max_age=Duration()))
        assert len(ready.told) == 2


def test_an_index_of_something_else_is_none() -> None:
    """Whoever may index can index anything into the corpus."""
    with asking(Scripted([done()], corpus=indexed(0, git("https://github.com/sea/other")))) as ready:
        ready()
    assert ready.told
