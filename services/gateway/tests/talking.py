"""Conversations over a running gateway, and what its models were told."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from sluice.chat.v1.message_pb2 import Message
from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice.gateway.v1 import conversation_service_pb2 as pb
from sluice.gateway.v1 import conversation_service_pb2_grpc as pb_grpc
from sluice.provider.v1 import provider_service_pb2 as provider_pb
from sluice_kit.errors import SluiceError, from_rpc_error

NAME = "conversations/talk"


class Told:
    """Stands before an adapter and keeps what it is asked."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.requests: list[provider_pb.GenerateRequest] = []
        self.counted: list[provider_pb.CountTokensRequest] = []
        self.count: Callable[[provider_pb.CountTokensRequest], Awaitable[provider_pb.CountTokensResponse]] | None = None
        """Counts tokens in the adapter's place."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def generate(self, request: provider_pb.GenerateRequest, call: Any, send: Any) -> None:
        copy = provider_pb.GenerateRequest()
        copy.CopyFrom(request)
        self.requests.append(copy)
        await self._inner.generate(request, call, send)

    async def count_tokens(self, request: provider_pb.CountTokensRequest, call: Any) -> provider_pb.CountTokensResponse:
        self.counted.append(request)
        if self.count is not None:
            return await self.count(request)
        answer: provider_pb.CountTokensResponse = await self._inner.count_tokens(request, call)
        return answer

    @property
    def texts(self) -> list[str]:
        """What the last request told the model, message by message."""
        return [text_of(message) for message in self.requests[-1].messages]


def text_of(message: Message) -> str:
    """Returns a message as a short text, tools included."""
    said = []
    for part in message.parts:
        match part.WhichOneof("kind"):
            case "text":
                said.append(part.text)
            case "tool_call":
                said.append(f"call {part.tool_call.id}")
            case "tool_result":
                said.append(f"result {part.tool_result.call_id}")
            case "reasoning":
                said.append(f"({part.reasoning.text})")
    return " ".join(said)


async def failure(call: Any) -> SluiceError:
    """Returns what a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


class Talker:
    """A client that asks within a conversation."""

    def __init__(self, client: Any, ask: Any) -> None:
        self.client = client
        self.ask = ask
        self.stub: Any = pb_grpc.ConversationServiceStub(client.channel)
        integration = client.gateway._integrations.get("scripted")
        self.told = Told(integration.generator)
        integration.generator = self.told

    async def create(self, **fields: Any) -> pb.Conversation:
        """Makes the conversation."""
        request = pb.CreateConversationRequest(**{"conversation_id": "talk", **fields})
        made: pb.Conversation = (await self.stub.CreateConversation(request)).conversation
        return made

    async def get(self) -> pb.Conversation:
        """Returns it."""
        found: pb.Conversation = (await self.stub.GetConversation(pb.GetConversationRequest(name=NAME))).conversation
        return found

    def spec(self, text: str, model: str = "scripted/echo", **fields: Any) -> chat_pb.ChatSpec:
        """Returns a question in it."""
        spec: chat_pb.ChatSpec = self.ask(model, text, **{"conversation": NAME, **fields})
        return spec

    async def say(self, text: str, model: str = "scripted/echo", request_id: str = "", **fields: Any) -> Any:
        """Asks in it, and returns what was seen."""
        return await self.client.stream(self.spec(text, model, **fields), request_id)

    async def turns(self, **fields: Any) -> list[pb.Turn]:
        """Returns its turns."""
        request = pb.ListTurnsRequest(conversation=NAME, **{"page_size": 100, **fields})
        return list((await self.stub.ListTurns(request)).turns)
