"""`ConversationService`: what was asked and answered before."""

import hashlib
from typing import Final

from sluice.gateway.v1 import conversation_service_pb2 as pb
from sluice_gateway.conversations.conversations import Conversations
from sluice_gateway.conversations.store import NewConversation
from sluice_gateway.services.paging import decode_token, encode_token
from sluice_gateway.services.storable import check_labels
from sluice_kit.call import Call
from sluice_kit.rpc import invalid_field

_DEFAULT_PAGE: Final = 100
_DEFAULT_TURNS: Final = 20


class ConversationService:
    """Implements sluice.gateway.v1.ConversationService."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations

    async def CreateConversation(
        self, request: pb.CreateConversationRequest, call: Call
    ) -> pb.CreateConversationResponse:
        retention = request.retention
        check_labels("labels", request.labels)
        new = NewConversation(
            tenant=call.tenant,
            conversation_id=request.conversation_id,
            display_name=request.display_name,
            labels=request.labels,
            max_age_ns=retention.max_age.ToNanoseconds() if retention.HasField("max_age") else None,
            max_turns=retention.max_turns if retention.HasField("max_turns") else None,
            request_id=request.request_id.lower() or None,
            fingerprint=_fingerprint(request),
        )
        return pb.CreateConversationResponse(conversation=await self._conversations.create(new))

    async def GetConversation(self, request: pb.GetConversationRequest, call: Call) -> pb.GetConversationResponse:
        return pb.GetConversationResponse(conversation=await self._conversations.get(call.tenant, request.name))

    async def ListConversations(self, request: pb.ListConversationsRequest, call: Call) -> pb.ListConversationsResponse:
        after = decode_token(request.page_token) if request.page_token else ""
        found, following = await self._conversations.page(call.tenant, after, request.page_size or _DEFAULT_PAGE)
        return pb.ListConversationsResponse(
            conversations=found, next_page_token=encode_token(following) if following else ""
        )

    async def DeleteConversation(
        self, request: pb.DeleteConversationRequest, call: Call
    ) -> pb.DeleteConversationResponse:
        await self._conversations.delete(call.tenant, request.name)
        return pb.DeleteConversationResponse()

    async def ListTurns(self, request: pb.ListTurnsRequest, call: Call) -> pb.ListTurnsResponse:
        found, following = await self._conversations.turns(
            call.tenant,
            request.conversation,
            _number(request.page_token) if request.page_token else None,
            request.page_size or _DEFAULT_TURNS,
            newest_first=request.newest_first,
        )
        token = "" if following is None else encode_token(str(following))
        return pb.ListTurnsResponse(turns=found, next_page_token=token)

    async def ClearConversation(self, request: pb.ClearConversationRequest, call: Call) -> pb.ClearConversationResponse:
        return pb.ClearConversationResponse(conversation=await self._conversations.clear(call.tenant, request.name))


def _fingerprint(request: pb.CreateConversationRequest) -> str:
    bare = pb.CreateConversationRequest()
    bare.CopyFrom(request)
    bare.ClearField("request_id")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _number(token: str) -> int:
    text = decode_token(token)
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise invalid_field("page_token", "not a token of an earlier response")
    return int(text)
