"""Ground: find the passages an answer is to be made from."""

from dataclasses import dataclass
from typing import Final

from sluice.chat.v1.event_pb2 import Event, Notice, NoticeCode, Retrieved
from sluice.chat.v1.message_pb2 import MessageRole
from sluice.chat.v1.passage_pb2 import Passage
from sluice.gateway.v1.chat_service_pb2 import ChatSpec, GroundingPolicy
from sluice.retrieval.v1.search_service_pb2 import SearchRequest
from sluice_gateway.pipeline.prompts import GROUNDED, Template, template
from sluice_gateway.retrieval import Retrieval
from sluice_kit.call import Call
from sluice_kit.errors import SluiceError
from sluice_kit.rpc import invalid_field

DEFAULT_TOP_K: Final = 8
DEFAULT_TOKEN_BUDGET: Final = 6000
_MAX_QUERY_CHARS: Final = 65536


@dataclass(slots=True)
class Grounded:
    """What grounding found: the passages, and the event that tells the client."""

    passages: list[Passage]
    event: Event


def template_for(spec: ChatSpec) -> Template | None:
    """Returns the template a request's grounding uses; None without grounding."""
    if not spec.HasField("grounding"):
        return None
    return template(GROUNDED, spec.answer_language or "en")


def query_of(spec: ChatSpec) -> str:
    """Returns what to search for: the request's own query, else the text of the last user message.

    Raises InvalidRequestError if there is neither.
    """
    if spec.grounding.HasField("query"):
        return spec.grounding.query
    for message in reversed(spec.messages):
        if message.role == MessageRole.MESSAGE_ROLE_USER:
            text = "\n".join(part.text for part in message.parts if part.WhichOneof("kind") == "text").strip()
            if text:
                return text[:_MAX_QUERY_CHARS]
    raise invalid_field("spec.grounding.query", "required, because no user message has text to search for")


async def ground(spec: ChatSpec, retrieval: Retrieval, call: Call) -> Grounded:
    """Searches the corpora. Raises what the search says, unless the request takes an ungrounded answer instead."""
    grounding = spec.grounding
    request = SearchRequest(
        corpora=grounding.corpora,
        query=query_of(spec),
        top_k=grounding.top_k if grounding.HasField("top_k") else DEFAULT_TOP_K,
        filters=grounding.filters if grounding.HasField("filters") else None,
        pinned_paths=grounding.pinned_paths,
        token_budget=grounding.token_budget if grounding.HasField("token_budget") else DEFAULT_TOKEN_BUDGET,
    )
    try:
        passages = list(await retrieval.search(request, call))
    except SluiceError as error:
        if grounding.policy != GroundingPolicy.GROUNDING_POLICY_BEST_EFFORT:
            raise
        notice = Notice(
            code=NoticeCode.NOTICE_CODE_UNGROUNDED,
            message=f"the answer is not grounded: {error.message}",
            metadata={"reason": error.reason_name},
        )
        return Grounded([], Event(notice=notice))
    # Ids are the gateway's, so that they are unique over several corpora and short enough to be cited well.
    for number, passage in enumerate(passages, start=1):
        passage.id = f"p{number}"
    return Grounded(passages, Event(retrieved=Retrieved(passages=passages)))
