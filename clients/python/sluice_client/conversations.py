"""Conversations."""

import uuid
from collections.abc import Mapping
from datetime import timedelta

from sluice.gateway.v1 import conversation_service_pb2 as pb
from sluice.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from sluice_client.connection import Connection
from sluice_client.pages import Pager
from sluice_client.requests import conversation_name


class ConversationCalls(Connection):
    """The calls of `sluice.gateway.v1.ConversationService`. Conversations may be named `plans` or `conversations/plans`.

    A question goes on with one when its spec names it: `question("And then?", conversation="plans")`.
    """

    async def create_conversation(
        self,
        conversation_id: str | None = None,
        *,
        display_name: str | None = None,
        labels: Mapping[str, str] | None = None,
        max_age: timedelta | None = None,
        max_turns: int | None = None,
        request_id: str | None = None,
    ) -> pb.Conversation:
        """Creates an empty conversation. Raises ConflictError if there is one of that id.

        `conversation_id` None: the gateway makes one up. `max_age` and `max_turns` say how long turns are kept; None is
        as the gateway is configured.
        """
        request = pb.CreateConversationRequest(
            conversation_id=None if conversation_id is None else conversation_id.removeprefix("conversations/"),
            display_name=display_name,
            labels=labels,
            request_id=request_id or str(uuid.uuid4()),
        )
        if max_age is not None:
            request.retention.max_age.FromTimedelta(max_age)
        if max_turns is not None:
            request.retention.max_turns = max_turns
        return (await self.unary(self.stub(ConversationServiceStub).CreateConversation, request)).conversation

    async def get_conversation(self, name: str) -> pb.Conversation:
        """Returns a conversation."""
        request = pb.GetConversationRequest(name=conversation_name(name))
        return (await self.unary(self.stub(ConversationServiceStub).GetConversation, request)).conversation

    def list_conversations(self, page_size: int = 0) -> Pager[pb.ListConversationsResponse, pb.Conversation]:
        """Lists the conversations, by name."""

        async def fetch(token: str) -> pb.ListConversationsResponse:
            request = pb.ListConversationsRequest(page_size=page_size, page_token=token)
            return await self.unary(self.stub(ConversationServiceStub).ListConversations, request)

        return Pager(fetch, lambda page: page.conversations)

    async def delete_conversation(self, name: str) -> None:
        """Deletes a conversation with its turns and responses. Not repeated: a second try would not find it.

        Answers that are being made in it are cancelled.
        """
        request = pb.DeleteConversationRequest(name=conversation_name(name))
        await self.unary(self.stub(ConversationServiceStub).DeleteConversation, request, repeatable=False)

    def list_turns(
        self, name: str, *, newest_first: bool = False, page_size: int = 0
    ) -> Pager[pb.ListTurnsResponse, pb.Turn]:
        """Lists the turns of a conversation, oldest first unless `newest_first`."""

        async def fetch(token: str) -> pb.ListTurnsResponse:
            request = pb.ListTurnsRequest(
                conversation=conversation_name(name), page_size=page_size, page_token=token, newest_first=newest_first
            )
            return await self.unary(self.stub(ConversationServiceStub).ListTurns, request)

        return Pager(fetch, lambda page: page.turns)

    async def clear_conversation(self, name: str) -> pb.Conversation:
        """Deletes the turns of a conversation, which stays. Raises ConflictError while an answer is made in it.

        Not repeated: a second try might delete what was said in between.
        """
        request = pb.ClearConversationRequest(name=conversation_name(name))
        method = self.stub(ConversationServiceStub).ClearConversation
        return (await self.unary(method, request, repeatable=False)).conversation
