"""`openai`: chat completions, embeddings and models of OpenAI, and of everyone who speaks its format (`base_url`)."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sluice.chat.v1 import usage_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import Reason
from sluice_providers.base import Emitter
from sluice_providers.exchange import SERVER_SENT_EVENTS
from sluice_providers.failures import protocol_error
from sluice_providers.http import HttpSettings, printable_header
from sluice_providers.vendor import VendorAdapter
from sluice_providers.wire import chat_request
from sluice_providers.wire.chat_stream import ChatStream

if TYPE_CHECKING:
    import openai

_R = ErrorReason


class OpenAISettings(HttpSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the `openai` adapter."""

    base_url: str = "https://api.openai.com/v1"
    organization: str = ""
    """Organization to bill. Empty: the key's own."""
    project: str = ""
    """Project to bill. Empty: the key's own."""
    max_tokens_field: str = "max_completion_tokens"
    """How the limit of output tokens is called. Older servers of this format say `max_tokens`."""
    system_role: str = "system"
    """Role of the system instruction; some models want `developer`."""
    stream_usage: bool = True
    """Whether usage is asked for in streams. Off for servers that refuse `stream_options`."""
    vendor_options: tuple[str, ...] = ()
    """Further names that requests may set in `vendor_options`."""
    embed_batch: int = 256
    """Texts in one request for embeddings."""


class OpenAIAdapter(VendorAdapter):
    """The OpenAI format. Vendors that speak it differ by their settings only."""

    TITLE = "OpenAI"
    SETUP = "Make a key on the platform and set `OPENAI_API_KEY`."
    OPTIONS = chat_request.OPTIONS
    SDK = "openai"
    Settings = OpenAISettings
    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "api_key": "${OPENAI_API_KEY}",
        "base_url": "${OPENAI_BASE_URL:-https://api.openai.com/v1}",
        "organization": "${OPENAI_ORG_ID:-}",
        "project": "${OPENAI_PROJECT_ID:-}",
    }
    CODES: ClassVar[Mapping[str, Reason]] = {
        "billing_hard_limit_reached": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        "content_filter": _R.ERROR_REASON_CONTENT_FILTERED,
        "content_policy_violation": _R.ERROR_REASON_CONTENT_FILTERED,
        "context_length_exceeded": _R.ERROR_REASON_CONTEXT_TOO_LONG,
        "insufficient_quota": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        "invalid_api_key": _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
        "model_not_found": _R.ERROR_REASON_MODEL_NOT_FOUND,
        "rate_limit_exceeded": _R.ERROR_REASON_UPSTREAM_RATE_LIMITED,
    }

    def make_client(self, sdk: Any, arguments: dict[str, Any]) -> Any:
        client = sdk.AsyncOpenAI(**arguments)
        # Set by name, because the SDK takes them from the environment where they are not given.
        client.organization = self.settings.organization or None
        client.project = self.settings.project or None
        return client

    def unsupported(self, request: pb.GenerateRequest, options: Collection[str]) -> Collection[str]:
        return chat_request.unsupported(request, options, chat_request.VENDOR_OPTIONS | {*self.settings.vendor_options})

    async def generate(self, request: pb.GenerateRequest, emitter: Emitter) -> None:
        settings: OpenAISettings = self.settings
        body = chat_request.chat_body(
            request, max_tokens_field=settings.max_tokens_field, system_role=settings.system_role
        )
        if not request.whole:
            body["stream"] = True
            if settings.stream_usage:
                body["stream_options"] = {"include_usage": True}
        await self.exchange(
            "/chat/completions",
            body,
            request,
            emitter,
            lambda reply: ChatStream(self.integration, printable_header(reply.headers.get("x-request-id"))),
            SERVER_SENT_EVENTS,
        )

    async def embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        sdk: openai.AsyncOpenAI = self.client
        response = pb.EmbedResponse(model=request.target.model)
        size = max(1, self.settings.embed_batch)
        extra: dict[str, Any] = {"dimensions": request.dimensions} if request.HasField("dimensions") else {}
        for start in range(0, len(request.texts), size):
            texts = list(request.texts[start : start + size])
            reply = await sdk.embeddings.create(
                input=texts, model=request.target.model, encoding_format="float", **extra
            )
            data: Any = getattr(reply, "data", None)  # the SDK returns whatever JSON there was
            if not isinstance(data, list):
                raise protocol_error(self.integration, "a reply without vectors")
            rows = sorted(data, key=lambda row: row.index)
            if [row.index for row in rows] != list(range(len(texts))):
                raise protocol_error(self.integration, "the vectors do not match the texts")
            for row in rows:
                response.embeddings.add(values=row.embedding)
            usage: Any = reply.usage  # servers of the same format leave it out
            if usage is not None:
                response.usage.input_tokens += usage.prompt_tokens
                response.usage.source = usage_pb2.USAGE_SOURCE_PROVIDER
            response.model = reply.model
        return response

    async def list_models(self) -> list[model_pb2.Model]:
        sdk: openai.AsyncOpenAI = self.client
        found = []
        async for model in sdk.models.list():
            row = model_pb2.Model(id=model.id, owned_by=model.owned_by, source=model_pb2.MODEL_SOURCE_DISCOVERED)
            if model.created:
                row.create_time.FromSeconds(model.created)
            found.append(row)
        return found
