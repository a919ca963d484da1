"""Ground: find the passages an answer is to be made from."""

from collections.abc import Sequence
from typing import Final

from sluice.chat.v1.event_pb2 import Event, Notice, NoticeCode, Retrieved
from sluice.chat.v1.message_pb2 import Message
from sluice.chat.v1.passage_pb2 import Passage
from sluice.gateway.v1.chat_service_pb2 import ChatSpec, GroundingPolicy
from sluice.retrieval.v1.search_service_pb2 import SearchRequest
from sluice_gateway.pipeline.query import question_of, search_query
from sluice_gateway.pipeline.repository import Emit, Repositories, corpus_of
from sluice_gateway.retrieval import Retrieval
from sluice_kit.call import Call
from sluice_kit.errors import SluiceError
from sluice_kit.rpc import invalid_field

DEFAULT_TOP_K: Final = 8
DEFAULT_TOKEN_BUDGET: Final = 6000
_MAX_CORPORA: Final = 16
"""Most that one search takes."""


def check_grounding(spec: ChatSpec) -> None:
    """Raises InvalidRequestError for a grounding that cannot be searched for, before anything is begun."""
    grounding = spec.grounding
    if not grounding.HasField("query") and not question_of(spec.messages)[0]:
        raise invalid_field("spec.grounding.query", "required, because no user message has text to search for")
    if grounding.HasField("repository"):
        corpora = {*grounding.corpora, corpus_of(grounding.repository)}
        if len(corpora) > _MAX_CORPORA:
            raise invalid_field("spec.grounding.corpora", f"at most {_MAX_CORPORA - 1} beside a repository")


class Grounder:
    """Finds passages. One for the whole gateway."""

    def __init__(self, retrieval: Retrieval) -> None:
        self._retrieval = retrieval
        self._repositories = Repositories(retrieval)

    async def find(self, spec: ChatSpec, call: Call, emit: Emit, past: Sequence[Message] = ()) -> list[Passage]:
        """Returns the passages for a request, and tells the client of them by events.

        `past` is what was said before in its conversation, oldest first. Raises what indexing or the search fails with,
        unless the request takes an ungrounded answer instead; then a Notice says so.
        """
        grounding = spec.grounding
        best_effort = grounding.policy == GroundingPolicy.GROUNDING_POLICY_BEST_EFFORT
        corpora = list(grounding.corpora)
        if grounding.HasField("repository"):
            try:
                name = await self._repositories.ready(grounding.repository, call, emit, patient=not best_effort)
            except SluiceError as error:
                if not best_effort:
                    raise
                emit(_ungrounded(error, "not grounded in the repository" if corpora else "not grounded"))
                if not corpora:
                    return []
            else:
                if name not in corpora:
                    corpora.append(name)
        request = SearchRequest(
            corpora=corpora,
            query=grounding.query if grounding.HasField("query") else search_query(spec.messages, past),
            top_k=grounding.top_k if grounding.HasField("top_k") else DEFAULT_TOP_K,
            filters=grounding.filters if grounding.HasField("filters") else None,
            pinned_paths=grounding.pinned_paths,
            token_budget=grounding.token_budget if grounding.HasField("token_budget") else DEFAULT_TOKEN_BUDGET,
        )
        try:
            passages = list(await self._retrieval.search(request, call, patient=not best_effort))
        except SluiceError as error:
            if not best_effort:
                raise
            emit(_ungrounded(error, "not grounded"))
            return []
        # Ids are the gateway's, so that they are unique over several corpora and short enough to be cited well.
        for number, passage in enumerate(passages, start=1):
            passage.id = f"p{number}"
        emit(Event(retrieved=Retrieved(passages=passages)))
        return passages


def _ungrounded(error: SluiceError, what: str) -> Event:
    return Event(
        notice=Notice(
            code=NoticeCode.NOTICE_CODE_UNGROUNDED,
            message=f"the answer is {what}: {error.message}",
            metadata={"reason": error.reason_name},
        )
    )
