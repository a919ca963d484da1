"""The client: one object, one channel, every RPC of the gateway.

Who repeats what. A response is identified by its request id (the client makes a UUID where none is given), so a stream
that breaks before `Accepted` is asked for again with the same id, and the gateway attaches it to the same response.
After `Accepted` a broken stream goes on by `ResumeChat` from the next event; for that the client asks for a
`detach_grace`. Reads, and changes that carry a request id or are safe to repeat, are repeated when the connection broke.
A failure that a service decided on is never repeated: it is raised.

Deadlines. `timeout` is seconds for the whole operation, every try included. For an answer it is also asked of the
gateway as `max_duration`, because with a grace the call's own deadline would only detach the watcher.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from sluice.chat.v1 import message_pb2, tool_pb2
from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice.gateway.v1 import embedding_service_pb2 as embedding_pb
from sluice.gateway.v1 import integration_service_pb2 as integration_pb
from sluice.gateway.v1 import model_service_pb2 as model_pb
from sluice.gateway.v1.chat_service_pb2_grpc import ChatServiceStub
from sluice.gateway.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.gateway.v1.integration_service_pb2_grpc import IntegrationServiceStub
from sluice.gateway.v1.model_service_pb2_grpc import ModelServiceStub
from sluice.provider.v1 import provider_service_pb2 as provider_pb
from sluice_client.conversations import ConversationCalls
from sluice_client.corpora import CorpusCalls
from sluice_client.health import HealthStream
from sluice_client.integrations import RegistrationCalls
from sluice_client.pages import Pager
from sluice_client.reader import StreamingCall
from sluice_client.sign_in import SignInCalls
from sluice_client.streams import ChatStream
from sluice_client.tasks import TaskCalls
from sluice_client.usage import UsageCalls
from sluice_kit.errors import SluiceError

DETACH_GRACE_SECONDS: Final = 30.0
"""How long a response waits for its watcher to come back, where the client resumes and the request says nothing."""


class SluiceClient(ConversationCalls, CorpusCalls, RegistrationCalls, SignInCalls, TaskCalls, UsageCalls):
    """A client of one gateway.

    `address` is `host:port` or `unix:/path`. `key` is sent as `authorization: Bearer …` with every call. `tls` is True
    for the system's certificates, or grpc's channel credentials; unset is plain text, for this machine and meshes that
    encrypt below. `retry` says how long broken connections are tried again, `timeout` how many seconds a single call
    may take. Use it as an async context manager, inside one running event loop.
    """

    def stream_chat(
        self,
        spec: chat_pb.ChatSpec,
        *,
        request_id: str | None = None,
        resume: bool = True,
        timeout: float | None = None,
    ) -> ChatStream:
        """Asks for an answer and returns its stream; the call is made when the stream is first read.

        `request_id` is a UUID that makes the request idempotent for 24 hours; None: the client makes one. With
        `resume` off, a stream that breaks after `Accepted` fails, and the response is cancelled with it. The stream
        raises SluiceError: any reason of the gateway or of a vendor, DeadlineError after `timeout`, UnavailableError
        when the gateway stays out of reach.
        """
        wanted = chat_pb.ChatSpec()
        wanted.CopyFrom(spec)
        if resume and not wanted.HasField("detach_grace") and not wanted.background:
            wanted.detach_grace.FromMilliseconds(round(DETACH_GRACE_SECONDS * 1000))
        if timeout is not None and not wanted.HasField("max_duration"):
            wanted.max_duration.FromMilliseconds(max(1, round(timeout * 1000)))
        grace = wanted.detach_grace.ToMilliseconds() / 1000
        request = chat_pb.StreamChatRequest(request_id=request_id or str(uuid.uuid4()), spec=wanted)
        chat = self.stub(ChatServiceStub)
        return ChatStream(
            lambda left: chat.StreamChat(request, timeout=left, metadata=self.metadata),
            self._resume_call,
            self._cancel_call,
            policy=self.retry,
            grace=max(grace, DETACH_GRACE_SECONDS if wanted.background else 0.0) if resume else None,
            timeout=timeout,
        )

    def resume_chat(self, response: str, after_sequence: int = 0, *, timeout: float | None = None) -> ChatStream:
        """Returns the stream of a response that was asked for earlier, from the event after `after_sequence` on.

        It has the same events, numbers and end as the first stream. Leaving it early cancels the response, unless it
        was detached. Raises NotFoundError with RESUME_WINDOW_EXPIRED where the events are no longer kept.
        """
        return ChatStream(
            None,
            self._resume_call,
            self._cancel_call,
            policy=self.retry,
            grace=DETACH_GRACE_SECONDS,
            timeout=timeout,
            response=response,
            after_sequence=after_sequence,
        )

    async def chat(
        self, spec: chat_pb.ChatSpec, *, request_id: str | None = None, timeout: float | None = None
    ) -> chat_pb.Answer:
        """Asks for an answer in one piece. Repeated with the same request id if the connection breaks.

        `timeout` unset: no limit but the route's.
        """
        request = chat_pb.ChatRequest(request_id=request_id or str(uuid.uuid4()), spec=spec)
        limit = _NO_LIMIT if timeout is None else timeout
        return (await self.unary(self.stub(ChatServiceStub).Chat, request, timeout=limit)).answer

    async def cancel_chat(self, response: str, *, timeout: float | None = None) -> "chat_pb.ResponseState.ValueType":
        """Ends a response and returns where it stands. One that has ended stays as it is."""
        request = chat_pb.CancelChatRequest(response=response)
        return (await self.unary(self.stub(ChatServiceStub).CancelChat, request, timeout=timeout)).state

    async def get_response(self, response: str) -> chat_pb.GetResponseResponse:
        """Returns a response as far as it is."""
        return await self.unary(self.stub(ChatServiceStub).GetResponse, chat_pb.GetResponseRequest(response=response))

    def list_models(
        self, integration: str = "", *, refresh: bool = False
    ) -> "Pager[model_pb.ListModelsResponse, model_pb.IntegrationModel]":
        """Lists the models of every integration, or of one. Its pages name the integrations that did not answer.

        With `refresh` they are asked anew, instead of what the gateway remembers for a short while.
        """

        async def fetch(token: str) -> model_pb.ListModelsResponse:
            request = model_pb.ListModelsRequest(integration=integration, page_token=token, refresh=refresh)
            return await self.unary(self.stub(ModelServiceStub).ListModels, request)

        return Pager(fetch, lambda page: page.models)

    async def get_model(self, name: str) -> model_pb.IntegrationModel:
        """Returns one model, by `integration/model`."""
        request = model_pb.GetModelRequest(name=name)
        return (await self.unary(self.stub(ModelServiceStub).GetModel, request)).model

    async def list_routes(self) -> model_pb.ListRoutesResponse:
        """Returns the aliases, what they lead to, and which one is the default."""
        return await self.unary(self.stub(ModelServiceStub).ListRoutes, model_pb.ListRoutesRequest())

    def list_integrations(
        self,
    ) -> "Pager[integration_pb.ListIntegrationsResponse, integration_pb.Integration]":
        """Lists the integrations with what is known of their health."""

        async def fetch(token: str) -> integration_pb.ListIntegrationsResponse:
            request = integration_pb.ListIntegrationsRequest(page_token=token)
            return await self.unary(self.stub(IntegrationServiceStub).ListIntegrations, request)

        return Pager(fetch, lambda page: page.integrations)

    async def integration_health(
        self, integration: str, *, timeout: float | None = None
    ) -> integration_pb.IntegrationHealth:
        """Probes an integration now and returns its health."""
        request = integration_pb.GetIntegrationHealthRequest(integration=integration)
        method = self.stub(IntegrationServiceStub).GetIntegrationHealth
        return (await self.unary(method, request, timeout=timeout)).health

    def watch_integration_health(
        self,
        integration: str = "",
        *,
        timeout: float | None = None,
        patience: float | None = None,
        on_break: Callable[[SluiceError], None] | None = None,
    ) -> HealthStream:
        """Follows the health of every integration, or of one: how each is now, by id, then each change as it is seen.

        Where the connection breaks or the gateway restarts, the stream goes on with the present state of each, after
        `on_break` was told of the failure. `patience` is how many seconds it tries, `math.inf` for ever; None: as long
        as the client's `retry` says. Raises NotFoundError for an unknown integration, UnavailableError when the gateway
        stays out of reach, DeadlineError after `timeout`.
        """
        health = self.stub(IntegrationServiceStub)
        request = integration_pb.WatchIntegrationHealthRequest(integration=integration)
        return HealthStream(
            lambda left: health.WatchIntegrationHealth(request, timeout=left, metadata=self.metadata),
            policy=self.retry if patience is None else replace(self.retry, patience=patience),
            timeout=timeout,
            on_break=on_break,
        )

    async def embed(
        self,
        model: str,
        texts: Sequence[str],
        *,
        dimensions: int | None = None,
        task: "provider_pb.EmbedTask.ValueType | None" = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> embedding_pb.EmbedResponse:
        """Turns texts into vectors, in order; at most 4096 texts. `task` is a value of `sluice.provider.v1.EmbedTask`.
        `labels` are for the ledger.

        Not repeated when the connection breaks, because it is paid for.
        """
        request = embedding_pb.EmbedRequest(model=model, texts=texts, dimensions=dimensions, labels=labels)
        if task is not None:
            request.task = task
        return await self.unary(self.stub(EmbeddingServiceStub).Embed, request, timeout=timeout, repeatable=False)

    async def rerank(
        self,
        model: str,
        query: str,
        texts: Sequence[str],
        *,
        top_n: int | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> embedding_pb.RerankResponse:
        """Orders texts by how well they answer a query: `results` has their indexes, best first, with scores.

        At most 1000 texts; `top_n` is how many results to return, None for all; `labels` are for the ledger. Scores
        compare within one response only. Raises InvalidRequestError with UNSUPPORTED_OPERATION where the integration does not rerank. Not repeated
        when the connection breaks, because it is paid for.
        """
        request = embedding_pb.RerankRequest(model=model, query=query, texts=texts, top_n=top_n, labels=labels)
        return await self.unary(self.stub(EmbeddingServiceStub).Rerank, request, timeout=timeout, repeatable=False)

    async def count_tokens(
        self,
        model: str,
        messages: Sequence[message_pb2.Message],
        *,
        system: str | None = None,
        tools: Sequence[tool_pb2.Tool] = (),
        timeout: float | None = None,
    ) -> embedding_pb.CountTokensResponse:
        """Counts the tokens of a prompt. `kind` says whether the count is exact; if not, `margin` how far it may be off.

        `model` empty: the default route. A ChatSpec's `messages`, `system_instruction` and `tools` fit.
        """
        request = embedding_pb.CountTokensRequest(
            model=model, messages=messages, system_instruction=system, tools=tools
        )
        return await self.unary(self.stub(EmbeddingServiceStub).CountTokens, request, timeout=timeout)

    def _resume_call(self, response: str, after: int, left: float | None) -> StreamingCall[chat_pb.ResumeChatResponse]:
        request = chat_pb.ResumeChatRequest(response=response, after_sequence=after)
        return self.stub(ChatServiceStub).ResumeChat(request, timeout=left, metadata=self.metadata)

    async def _cancel_call(self, response: str, limit: float) -> None:
        await self.cancel_chat(response, timeout=limit)


_NO_LIMIT: Final = 86_400.0
