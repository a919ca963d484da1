"""The retrieval service as the gateway sees it."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from sluice.chat.v1.passage_pb2 import Passage
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_service_pb2 as corpus_pb
from sluice.retrieval.v1 import search_service_pb2 as search_pb
from sluice.retrieval.v1.corpus_pb2 import Corpus
from sluice.task.v1 import task_service_pb2 as task_pb
from sluice_kit.call import Call
from sluice_kit.channels import Calling, outgoing
from sluice_kit.errors import SluiceError, from_rpc_error, make_error

_SEARCH: Final = "/sluice.retrieval.v1.SearchService/"
_CORPORA: Final = "/sluice.retrieval.v1.CorpusService/"
_TASKS: Final = "/sluice.task.v1.TaskService/"
_SEARCH_SECONDS: Final = 15.0
_VERIFY_SECONDS: Final = 5.0
_CORPUS_SECONDS: Final = 30.0
"""To begin an index the service looks up the address of a repository's host."""
_MAX_SPANS: Final = 256
_AGAIN_SECONDS: Final = 0.1
_AWAY: Final = frozenset({ErrorReason.ERROR_REASON_GROUNDING_UNAVAILABLE, ErrorReason.ERROR_REASON_DRAINING})


class Retrieval:
    """Corpora, search and the check of spans, over a channel; `channel` None: there is no retrieval service.

    Every method raises GROUNDING_UNAVAILABLE if nobody answers, else what the service says. `patient`: where the service
    cannot be reached, it is waited for and asked again.
    """

    def __init__(self, channel: grpc.aio.Channel | None, wait_seconds: float = 0.0) -> None:
        """`wait_seconds` is how long a patient call waits for a service that is being started."""
        self._channel = channel
        self._wait_seconds = wait_seconds
        self._methods: dict[str, Any] = {}
        self._watch: Any = None
        if channel is None:
            return
        for path, request, response in (
            (f"{_SEARCH}Search", search_pb.SearchRequest, search_pb.SearchResponse),
            (f"{_SEARCH}VerifySpans", search_pb.VerifySpansRequest, search_pb.VerifySpansResponse),
            (f"{_CORPORA}GetCorpus", corpus_pb.GetCorpusRequest, corpus_pb.GetCorpusResponse),
            (f"{_CORPORA}CreateCorpus", corpus_pb.CreateCorpusRequest, corpus_pb.CreateCorpusResponse),
            (f"{_CORPORA}IndexCorpus", corpus_pb.IndexCorpusRequest, corpus_pb.IndexCorpusResponse),
        ):
            self._methods[path] = channel.unary_unary(path, request.SerializeToString, response.FromString)
        self._watch = channel.unary_stream(
            f"{_TASKS}WatchTask", task_pb.WatchTaskRequest.SerializeToString, task_pb.WatchTaskResponse.FromString
        )

    async def search(self, request: search_pb.SearchRequest, call: Call, *, patient: bool = False) -> Sequence[Passage]:
        """Returns the passages found."""
        response = await self._ask(f"{_SEARCH}Search", request, call, _SEARCH_SECONDS, patient=patient)
        passages: Sequence[Passage] = response.passages
        return passages

    async def _is_back(self, end: float) -> bool:
        """Waits until the service can be reached again, at most to a time of the loop's clock."""
        if self._channel is None:
            return False
        try:
            async with asyncio.timeout_at(end):
                # One that has just begun to stop may look as if it were there.
                await asyncio.sleep(_AGAIN_SECONDS)
                await self._channel.channel_ready()
        except TimeoutError:
            return False
        return True

    async def verify(
        self, spans: Iterable[search_pb.SpanToVerify], call: Call
    ) -> Sequence["search_pb.SpanState.ValueType"]:
        """Returns the state of each span."""
        rows = list(spans)
        states: list[search_pb.SpanState.ValueType] = []
        for start in range(0, len(rows), _MAX_SPANS):
            request = search_pb.VerifySpansRequest(spans=rows[start : start + _MAX_SPANS])
            response = await self._ask(f"{_SEARCH}VerifySpans", request, call, _VERIFY_SECONDS)
            states.extend(response.states)
        return states

    async def corpus(self, name: str, call: Call, *, patient: bool = False) -> Corpus:
        """Returns a corpus, by its resource name. Raises NotFoundError."""
        request = corpus_pb.GetCorpusRequest(name=name)
        response = await self._ask(f"{_CORPORA}GetCorpus", request, call, _CORPUS_SECONDS, patient=patient)
        corpus: Corpus = response.corpus
        return corpus

    async def create(self, request: corpus_pb.CreateCorpusRequest, call: Call, *, patient: bool = False) -> None:
        """Makes a corpus. Raises ALREADY_EXISTS."""
        await self._ask(f"{_CORPORA}CreateCorpus", request, call, _CORPUS_SECONDS, patient=patient)

    async def index(self, request: corpus_pb.IndexCorpusRequest, call: Call, *, patient: bool = False) -> str:
        """Begins to index and returns the name of the task. Raises CORPUS_BUSY, SOURCE_NOT_ALLOWED, NotFoundError.

        Where an answer was lost on its way, the one after it is CORPUS_BUSY, which names the same task.
        """
        response = await self._ask(f"{_CORPORA}IndexCorpus", request, call, _CORPUS_SECONDS, patient=patient)
        task: str = response.task.name
        return task

    async def watch(self, task: str, after: int, call: Call) -> AsyncGenerator[task_pb.TaskEvent | None]:
        """Yields the events of a task from a sequence on, up to its end; None for a heartbeat.

        Closing it ends the call, not the task.
        """
        if self._watch is None:
            raise _absent()
        stream = self._watch(task_pb.WatchTaskRequest(name=task, after_sequence=after), **outgoing(call))
        try:
            async for batch in stream:
                if not batch.events:
                    yield None
                for event in batch.events:
                    yield event
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from None
        finally:
            stream.cancel()

    async def _ask(self, path: str, request: Message, call: Call, seconds: float, *, patient: bool = False) -> Any:
        end = asyncio.get_running_loop().time() + (self._wait_seconds if patient else 0.0)
        while True:
            try:
                return await self._ask_once(path, request, call, seconds)
            except SluiceError as error:
                if error.reason not in _AWAY or not await self._is_back(end):
                    raise

    async def _ask_once(self, path: str, request: Message, call: Call, seconds: float) -> Any:
        method = self._methods.get(path)
        if method is None:
            raise _absent()
        left = call.time_remaining()
        with Calling(call, path, seconds) as options:
            try:
                return await method(request, **options)
            except grpc.aio.AioRpcError as error:
                failure = _failure(error)
                if failure.reason == ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED and (left is None or left > seconds):
                    # Our limit, not the caller's.
                    raise make_error(
                        ErrorReason.ERROR_REASON_GROUNDING_UNAVAILABLE,
                        f"the retrieval service did not answer within {seconds:g} s",
                    ) from None
                raise failure from None


def _absent() -> SluiceError:
    return make_error(
        ErrorReason.ERROR_REASON_GROUNDING_UNAVAILABLE,
        "this mesh has no retrieval service: set gateway.retrieval.address",
    )


def _failure(error: grpc.aio.AioRpcError) -> SluiceError:
    failure = from_rpc_error(error, "retrieval")
    if failure.reason == ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE:
        return make_error(ErrorReason.ERROR_REASON_GROUNDING_UNAVAILABLE, "the retrieval service does not answer")
    return failure
