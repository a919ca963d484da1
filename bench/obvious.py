"""The same two services as most people would write them: the yardstick for what the rules of docs/performance.md save.

grpc.aio with its defaults, the vendor's SDK with its objects, one protobuf message for each token, `async for … yield`
at each hop, asyncio's own event loop, TCP between the two. It speaks the same contract, and leaves out nearly all that
the real services do: no keys, no limits, no ledger, no log to resume from.

    python -m bench.obvious adapter PORT UPSTREAM_URL
    python -m bench.obvious gateway PORT ADAPTER_ADDRESS
"""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import openai

from sluice.chat.v1.event_pb2 import Accepted, Completed, Event, Started, TextDelta
from sluice.chat.v1.message_pb2 import Message, MessageRole, Part
from sluice.chat.v1.target_pb2 import Target
from sluice.chat.v1.usage_pb2 import FinishReason
from sluice.gateway.v1 import chat_service_pb2, chat_service_pb2_grpc
from sluice.provider.v1 import provider_service_pb2, provider_service_pb2_grpc


class Adapter(provider_service_pb2_grpc.ProviderServiceServicer):
    """Talks to the vendor through its SDK."""

    def __init__(self, base_url: str) -> None:
        self._client = openai.AsyncOpenAI(base_url=base_url, api_key="sk-upstream", max_retries=0)

    async def Generate(  # noqa: N802 - the RPC's name
        self, request: provider_service_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[provider_service_pb2.GenerateResponse]:
        messages: Any = [
            {"role": "user", "content": "".join(part.text for part in message.parts)} for message in request.messages
        ]
        model = request.target.model
        yield _batch(Event(started=Started(model=model)))
        if request.whole:
            answer = await self._client.chat.completions.create(model=model, messages=messages)
            yield _batch(Event(text_delta=TextDelta(text=answer.choices[0].message.content or "")))
        else:
            stream = await self._client.chat.completions.create(model=model, messages=messages, stream=True)
            async for chunk in stream:
                for choice in chunk.choices:
                    if choice.delta.content:
                        yield _batch(Event(text_delta=TextDelta(text=choice.delta.content)))
        yield _batch(Event(completed=Completed(finish_reason=FinishReason.FINISH_REASON_STOP)))


def _batch(event: Event) -> provider_service_pb2.GenerateResponse:
    return provider_service_pb2.GenerateResponse(events=[event])


class Gateway(chat_service_pb2_grpc.ChatServiceServicer):
    """Numbers the adapter's events."""

    def __init__(self, adapter: str) -> None:
        self._stub: Any = provider_service_pb2_grpc.ProviderServiceStub(grpc.aio.insecure_channel(adapter))

    async def StreamChat(  # noqa: N802 - the RPC's name
        self, request: chat_service_pb2.StreamChatRequest, context: Any
    ) -> AsyncIterator[chat_service_pb2.StreamChatResponse]:
        sequence = 1
        response = f"responses/{uuid.uuid4().hex}"
        yield chat_service_pb2.StreamChatResponse(
            first_sequence=sequence, events=[Event(accepted=Accepted(response=response))]
        )
        async for batch in self._stub.Generate(_generate(request.spec)):
            for event in batch.events:
                sequence += 1
                yield chat_service_pb2.StreamChatResponse(first_sequence=sequence, events=[event])

    async def Chat(  # noqa: N802 - the RPC's name
        self, request: chat_service_pb2.ChatRequest, context: Any
    ) -> chat_service_pb2.ChatResponse:
        answer = chat_service_pb2.Answer(response=f"responses/{uuid.uuid4().hex}")
        async for batch in self._stub.Generate(_generate(request.spec, whole=True)):
            for event in batch.events:
                if event.HasField("text_delta"):
                    answer.text += event.text_delta.text
                elif event.HasField("completed"):
                    answer.completed.CopyFrom(event.completed)
        answer.message.CopyFrom(Message(role=MessageRole.MESSAGE_ROLE_ASSISTANT, parts=[Part(text=answer.text)]))
        return chat_service_pb2.ChatResponse(answer=answer)


def _generate(spec: chat_service_pb2.ChatSpec, *, whole: bool = False) -> provider_service_pb2.GenerateRequest:
    provider, _, model = spec.model.partition("/")
    return provider_service_pb2.GenerateRequest(
        attempt_id=str(uuid.uuid4()),
        target=Target(provider=provider, model=model),
        messages=spec.messages,
        whole=whole,
    )


async def serve(kind: str, port: str, upstream: str) -> None:
    """Serves one of the two until the process ends."""
    server = grpc.aio.server()
    if kind == "adapter":
        adapter = Adapter(upstream)  # type: ignore[abstract]  # only what the benchmark calls is written
        provider_service_pb2_grpc.add_ProviderServiceServicer_to_server(adapter, server)
    else:
        gateway = Gateway(upstream)  # type: ignore[abstract]  # as above
        chat_service_pb2_grpc.add_ChatServiceServicer_to_server(gateway, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
