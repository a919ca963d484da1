"""Repository: an index of the repository that a request names, made or brought up to date where that is due.

The index is a corpus of the tenant, whose id is derived from the source and the choice of files, so that every request
for the same repository finds the same one, at any gateway. Indexing is a task of the retrieval service: requests watch
it, share it, and leave it to itself when they end.
"""

import asyncio
import hashlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import aclosing
from typing import Final
from urllib.parse import quote, unquote

from sluice.chat.v1.event_pb2 import Event, Indexing, Notice, NoticeCode
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1.chat_service_pb2 import Repository
from sluice.retrieval.v1.corpus_pb2 import Corpus, Source
from sluice.retrieval.v1.corpus_service_pb2 import CreateCorpusRequest, IndexCorpusRequest
from sluice.task.v1.task_service_pb2 import Task, TaskState
from sluice_gateway.retrieval import Retrieval
from sluice_kit.call import Call
from sluice_kit.errors import NotFoundError, SluiceError, from_status, make_error
from sluice_kit.roles import authorize

log = logging.getLogger(__name__)

Emit = Callable[[Event], object]

DEFAULT_MAX_AGE: Final = 3600.0
_INDEX: Final = "/sluice.retrieval.v1.CorpusService/IndexCorpus"
_KIND: Final = "index_corpus"
_ENDED: Final = (TaskState.TASK_STATE_SUCCEEDED, TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_CANCELLED)
_PASSING: Final = (
    ErrorReason.ERROR_REASON_GROUNDING_UNAVAILABLE,
    ErrorReason.ERROR_REASON_DRAINING,
    ErrorReason.ERROR_REASON_WATCHER_STALLED,
    ErrorReason.ERROR_REASON_CANCELLED,  # by the service, which ends its calls when it stops
)
"""A task outlives what breaks its watch off by these."""
_PATIENCE_SECONDS: Final = 30.0
"""Longest a retrieval service that does not answer is waited for, while its task is watched."""
_PAUSES: Final = (0.1, 0.2, 0.4, 0.8, 1.0)
_ROUNDS: Final = 4
"""How often in all an index is asked for, where something else is done to the corpus in between."""
_PROGRESS_STEP: Final = 0.05
"""Less progress than this is not worth an event."""
_REMEMBERED: Final = 4096
_COMMIT: Final = re.compile(r"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}")
_MAX_SHORT_NAME: Final = 36


class Repositories:
    """The repositories that requests name. One for the whole gateway."""

    def __init__(self, retrieval: Retrieval) -> None:
        self._retrieval = retrieval
        self._looked: OrderedDict[tuple[str, str], float] = OrderedDict()
        """When an index was last seen to be up to date, by tenant and corpus. One that finds nothing new leaves the
        corpus as it is, its time included."""

    async def ready(self, repository: Repository, call: Call, emit: Emit, *, patient: bool) -> str:
        """Returns the corpus to search, once it has an index that is not older than the request wants.

        How far that is goes out as `Indexing` events. Where an older index cannot be brought up to date in half of the
        time that is left, it is taken with a Notice; `patient`: the first index may take all of the time, and a service
        that cannot be reached is waited for. Raises
        PERMISSION_DENIED for a caller who may not index, else what the task failed with.
        """
        name = corpus_of(repository)
        corpus = await self._find(name, repository, call, patient=patient)
        if corpus is not None and self._is_fresh(corpus, repository, call.tenant):
            return name
        left = call.time_remaining()
        limited = call if left is None or (patient and corpus is None) else call.with_timeout(left / 2)
        try:
            authorize(call.identity, _INDEX)
            await self._index(name, repository, limited, emit, patient=patient)
        except SluiceError as error:
            if corpus is None:
                raise
            emit(_outdated(corpus, error))
        return name

    async def _find(self, name: str, repository: Repository, call: Call, *, patient: bool) -> Corpus | None:
        """Returns the corpus if it has an index of this repository."""
        try:
            corpus = await self._retrieval.corpus(name, call, patient=patient)
        except NotFoundError:
            return None
        # Whoever may index can index anything into it by its name.
        is_its = bool(corpus.revision) and _canonical(corpus.source) == _canonical(repository.source)
        return corpus if is_its else None

    def _is_fresh(self, corpus: Corpus, repository: Repository, tenant: str) -> bool:
        if _COMMIT.fullmatch(repository.source.git.revision):
            return True
        max_age = DEFAULT_MAX_AGE
        if repository.HasField("max_age"):
            max_age = repository.max_age.ToMilliseconds() / 1000
        seen = max(corpus.index_time.ToMilliseconds() / 1000, self._looked.get((tenant, corpus.name), 0.0))
        return max_age > 0 and time.time() - seen < max_age

    async def _index(self, name: str, repository: Repository, call: Call, emit: Emit, *, patient: bool) -> None:
        request = IndexCorpusRequest(name=name, source=repository.source)
        if repository.HasField("files"):
            request.filters.CopyFrom(repository.files)
        for _ in range(_ROUNDS):
            try:
                # Asked for first, so that a source which is not allowed leaves no empty corpus.
                task = await self._retrieval.index(request, call, patient=patient)
            except NotFoundError:
                await self._create(name, repository, call)
                continue
            except SluiceError as error:
                task = error.metadata.get("task", "")
                if error.reason != ErrorReason.ERROR_REASON_CORPUS_BUSY or not task:
                    raise
            ended = await self._follow(task, call, emit)
            if ended.kind != _KIND:
                continue  # it was moved to another store
            if ended.state == TaskState.TASK_STATE_SUCCEEDED:
                self._remember(call.tenant, name, ended.start_time.ToMilliseconds() / 1000)
                return
            raise _failure_of(ended, name)
        raise make_error(
            ErrorReason.ERROR_REASON_CORPUS_NOT_READY,
            f"{name} is changed by others all the time, so that it could not be indexed",
            metadata={"resource": name},
        )

    async def _create(self, name: str, repository: Repository, call: Call) -> None:
        request = CreateCorpusRequest(corpus_id=name.removeprefix("corpora/"), display_name=_title(repository.source))
        try:
            await self._retrieval.create(request, call, patient=True)
        except SluiceError as error:
            if error.reason != ErrorReason.ERROR_REASON_ALREADY_EXISTS:  # by another request, in this moment
                raise

    async def _follow(self, name: str, call: Call, emit: Emit) -> Task:
        """Watches a task to its end, over breaks of the connection, and returns it as it ended."""
        progress = _Progress(emit)
        clock = asyncio.get_running_loop()
        after, breaks, broken = 0, 0, 0.0
        while True:
            failure: SluiceError | None = None
            try:
                async with aclosing(self._retrieval.watch(name, after, call)) as events:
                    async for event in events:
                        breaks = 0
                        if event is None:
                            continue
                        after = event.sequence
                        progress.show(event.task)
                        if event.task.state in _ENDED:
                            return event.task
            except SluiceError as error:
                if error.reason not in _PASSING:
                    raise
                failure = error
            now = clock.time()
            broken = broken if breaks else now
            if now - broken > _PATIENCE_SECONDS:
                raise failure or make_error(
                    ErrorReason.ERROR_REASON_GROUNDING_UNAVAILABLE,
                    "the retrieval service does not say how the task ends",
                )
            await asyncio.sleep(_PAUSES[min(breaks, len(_PAUSES) - 1)])
            breaks += 1

    def _remember(self, tenant: str, name: str, when: float) -> None:
        self._looked[tenant, name] = when
        self._looked.move_to_end((tenant, name))
        if len(self._looked) > _REMEMBERED:
            self._looked.popitem(last=False)


class _Progress:
    """Makes events of a task, of the changes that are worth one."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._step: str | None = None
        self._progress = 0.0

    def show(self, task: Task) -> None:
        step = task.step or "waiting"
        over = task.state == TaskState.TASK_STATE_SUCCEEDED
        if step == self._step and task.progress < self._progress + _PROGRESS_STEP and not over:
            return
        self._step, self._progress = step, task.progress
        self._emit(Event(indexing=Indexing(task=task.name, progress=task.progress, step=step)))


def corpus_of(repository: Repository) -> str:
    """Returns the name of the corpus that a repository's index is in: the same for the same source and files."""
    digest = hashlib.sha256()
    files = repository.files
    for part in (*_canonical(repository.source), "i", *sorted(set(files.include)), "e", *sorted(set(files.exclude))):
        data = part.encode()
        # With its length, so that nothing can move from one part to the next.
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    last = _title(repository.source).rpartition("/")[2]
    short = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:_MAX_SHORT_NAME].strip("-")
    return f"corpora/repo-{short or 'source'}-{digest.hexdigest()[:16]}"


def _canonical(source: Source) -> tuple[str, ...]:
    """Returns a source in the one form that all its spellings have.

    The credential is a part of it: who does not name it is not to read what it opens. The kind of host is not.
    """
    if source.WhichOneof("kind") == "local":
        return "local", _path(source.local.path)
    git = source.git
    revision = git.revision.lower() if _COMMIT.fullmatch(git.revision) else git.revision
    return "git", _address(git.url), revision, git.credential


def _address(url: str) -> str:
    scheme, colon, rest = url.partition("://")
    if not colon:
        return f"file://{quote(_path(url))}"
    if scheme.lower() == "file":
        return f"file://{quote(_path(unquote(rest)))}"
    host, _, path = rest.partition("/")
    host = host.lower().removesuffix(":443") if scheme.lower() == "https" else host.lower()
    return f"{scheme.lower()}://{host}{_path('/' + path).removesuffix('.git')}"


def _path(path: str) -> str:
    """Returns a path without what says nothing; `..` stays, because it may lead through a link."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts)


def _title(source: Source) -> str:
    """Returns what people call a source: the end of its address or path."""
    if source.WhichOneof("kind") == "local":
        return _path(source.local.path).rpartition("/")[2]
    path = _address(source.git.url).partition("://")[2].partition("/")[2]
    return "/".join(unquote(path).removesuffix(".git").split("/")[-2:])[-256:]


def _failure_of(task: Task, corpus: str) -> SluiceError:
    if task.state == TaskState.TASK_STATE_CANCELLED:
        return make_error(
            ErrorReason.ERROR_REASON_CORPUS_NOT_READY,
            f"somebody cancelled {task.name}, which was to index the repository",
            metadata={"resource": corpus, "task": task.name},
        )
    error = from_status(task.error)
    error.metadata.setdefault("task", task.name)
    return error


def _outdated(corpus: Corpus, error: SluiceError) -> Event:
    return Event(
        notice=Notice(
            code=NoticeCode.NOTICE_CODE_INDEX_OUTDATED,
            message=f"the repository could not be indexed anew, so an older index of it is used: {error.message}",
            metadata={"reason": error.reason_name, "revision": corpus.revision},
        )
    )
