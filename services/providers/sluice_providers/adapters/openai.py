"""`openai`: chat completions, embeddings and models of OpenAI, and of everyone who speaks its format (`base_url`)."""

import functools
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import Reason
from sluice_kit.secrets import Secret
from sluice_providers import responses
from sluice_providers.base import Emitter
from sluice_providers.entra import EntraTokens
from sluice_providers.exchange import SERVER_SENT_EVENTS
from sluice_providers.failures import STATUS, error_words
from sluice_providers.http import check_base_url, printable_header
from sluice_providers.vendor import VendorAdapter
from sluice_providers.wire import chat_request, responses_request
from sluice_providers.wire.chat_dialect import ChatDialect
from sluice_providers.wire.chat_models import openai_capabilities, read_models
from sluice_providers.wire.chat_stream import ChatStream
from sluice_providers.wire.chat_vectors import add_vectors, read_ranks

if TYPE_CHECKING:
    import openai

_R = ErrorReason
_NO_RESOURCE: Final = "https://resource.invalid"
"""Stands for an Azure resource that is not configured; nothing is ever sent there."""


class OpenAISettings(ChatDialect, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the `openai` adapter."""

    base_url: str = "https://api.openai.com/v1"
    organization: str = ""
    """Organization to bill. Empty: the key's own."""
    project: str = ""
    """Project to bill. Empty: the key's own."""
    auth: Literal["bearer", "api-key", "entra"] = "bearer"
    """How a request is let through: the key as `Authorization: Bearer`, the key in the header `api-key`, or, without a
    key, a token of Microsoft Entra, which needs the package extra `azure`."""
    azure_endpoint: Secret | None = None
    """Address of an Azure OpenAI resource, e.g. `https://NAME.openai.azure.com`, where the models of requests are the
    names of its deployments. It stands instead of `base_url`."""
    api_version: str = ""
    """Version of Azure's older interface, e.g. `2024-10-21`. Empty: `/openai/v1`, which needs none."""
    responses: Literal["auto", "always", "never"] | None = None
    """Which requests go to the Responses interface (`/responses`) instead of `/chat/completions`. `auto`: those that
    need what only it has, which is an answer in the background, reasoning of a given effort, and reasoning of earlier
    turns that goes back sealed. Unset: `auto` where `base_url` is OpenAI's own, `never` elsewhere, because few others
    have it; say `auto` or `always` for a proxy or a server that does."""
    reasoning_summary: Literal["auto", "concise", "detailed", "none"] = "auto"
    """How the Responses interface sums up reasoning for the reader. `none` for organizations that may not see it."""


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
    CODES: ClassVar[Mapping[str, Reason]] = {str(status): reason for status, reason in STATUS.items()} | {
        "400": _R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT,
        "billing_hard_limit_reached": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        **responses.CODES,
        "content_filter": _R.ERROR_REASON_CONTENT_FILTERED,
        "content_policy_violation": _R.ERROR_REASON_CONTENT_FILTERED,
        "context_length_exceeded": _R.ERROR_REASON_CONTEXT_TOO_LONG,
        "insufficient_quota": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        "invalid_api_key": _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
        "model_not_found": _R.ERROR_REASON_MODEL_NOT_FOUND,
        "rate_limit_exceeded": _R.ERROR_REASON_UPSTREAM_RATE_LIMITED,
        # Others of the same format: DashScope, DeepSeek, Groq, LiteLLM, llama.cpp, Moonshot.
        "Arrearage": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        "budget_exceeded": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        "data_inspection_failed": _R.ERROR_REASON_CONTENT_FILTERED,
        "engine_overloaded_error": _R.ERROR_REASON_UPSTREAM_OVERLOADED,
        "exceed_context_size_error": _R.ERROR_REASON_CONTEXT_TOO_LONG,
        "exceeded_current_quota_error": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        "insufficient_system_resource": _R.ERROR_REASON_UPSTREAM_OVERLOADED,
        "model_decommissioned": _R.ERROR_REASON_MODEL_NOT_FOUND,
    }

    def __init__(self, integration: str, settings: OpenAISettings) -> None:
        super().__init__(integration, _arranged(settings))
        self._entra = EntraTokens(integration, settings) if settings.auth == "entra" else None

    async def start(self) -> None:
        if self._entra is not None:
            await self._entra.start()
        await super().start()
        if self.settings.auth == "api-key":
            self._headers.pop("Authorization", None)

    async def close(self) -> None:
        await super().close()
        if self._entra is not None:
            await self._entra.close()

    def make_client(self, sdk: Any, arguments: dict[str, Any]) -> Any:
        settings: OpenAISettings = self.settings
        if self._entra is not None:
            arguments["api_key"] = self._entra.token
        if settings.auth == "api-key":
            arguments["default_headers"] = {**arguments["default_headers"], "api-key": settings.api_key.reveal()}
        client = sdk.AsyncOpenAI(**arguments)
        # Set by name, because the SDK takes them from the environment where they are not given.
        client.organization = settings.organization or None
        client.project = settings.project or None
        return client

    def missing(self) -> tuple[str, ...]:
        endpoint = self.settings.azure_endpoint
        variable = endpoint.missing if endpoint is not None else None
        lacking = self._entra is not None and self._entra.lacks_package
        return (
            *((variable,) if variable else ()),
            *super().missing(),
            *(("the package extra sluice-providers[azure]",) if lacking else ()),
        )

    async def authorize(self, path: str, body: bytes) -> Mapping[str, str]:
        headers = await super().authorize(path, body)
        return headers if self._entra is None else {**headers, "Authorization": f"Bearer {await self._entra.token()}"}

    def path_of(self, operation: str, model: str = "") -> str:
        """Returns where an operation is asked for: after the base address, or from the root of its host if it begins
        with a slash. Azure's older interface names the deployment there."""
        if operation.startswith("/"):
            return urljoin(self.upstream.base_url, operation)
        version = self.settings.api_version
        if not version:
            return f"/{operation}"
        return f"{_deployment(model) if model else ''}/{operation}?api-version={quote(version, safe='')}"

    def unsupported(self, request: pb.GenerateRequest, options: Collection[str]) -> Collection[str]:
        if self._takes_responses(request):
            return responses_request.unsupported(options, self.settings.vendor_options)
        return chat_request.unsupported(request, options, self.settings)

    def _takes_responses(self, request: pb.GenerateRequest) -> bool:
        return responses.wanted(
            request, self.integration, self.settings.responses, own=_is_openai(self.upstream.base_url)
        )

    def queues(self, request: pb.GenerateRequest) -> bool:
        return request.background and self._takes_responses(request)

    async def generate(self, request: pb.GenerateRequest, emitter: Emitter) -> None:
        settings: OpenAISettings = self.settings
        if self._takes_responses(request):
            summary = "" if settings.reasoning_summary == "none" else settings.reasoning_summary
            await responses.generate(self, request, emitter, summary=summary, path_of=self.path_of)
            return
        body = chat_request.chat_body(request, settings)
        if not request.whole:
            body["stream"] = True
            if settings.stream_usage:
                body["stream_options"] = {"include_usage": True}
        by_finish = settings.terminal == "finish_reason"
        await self.exchange(
            self.path_of("chat/completions", request.target.model),
            body,
            request,
            emitter,
            lambda reply: ChatStream(
                self.integration, printable_header(reply.headers.get("x-request-id")), by_finish=by_finish
            ),
            SERVER_SENT_EVENTS,
        )

    async def embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        if not self.settings.embeddings:
            raise self.unsupported_operation("Embed")
        response = pb.EmbedResponse(model=request.target.model)
        extra: dict[str, Any] = {"dimensions": request.dimensions} if request.HasField("dimensions") else {}
        if self.settings.auth == "api-key" and self._module is not None:
            extra["extra_headers"] = {"Authorization": self._module.Omit()}  # the SDK honours it here alone
        size = max(1, self.settings.embed_batch)
        client: openai.AsyncOpenAI = self.client
        if self.settings.api_version:
            base = self.upstream.base_url + _deployment(request.target.model)
            client = client.with_options(base_url=base, default_query={"api-version": self.settings.api_version})
        for start in range(0, len(request.texts), size):
            texts = list(request.texts[start : start + size])
            # Raw, because the SDK does not check that a reply is what its types say.
            raw = await client.embeddings.with_raw_response.create(
                input=texts, model=request.target.model, encoding_format="float", **extra
            )
            add_vectors(self.integration, raw.content, len(texts), response)
        return response

    async def rerank(self, request: pb.RerankRequest) -> pb.RerankResponse:
        if not self.settings.rerank_path:
            raise self.unsupported_operation("Rerank")
        body: dict[str, Any] = {
            "model": request.target.model,
            "query": request.query,
            "documents": list(request.texts),
            "top_n": request.top_n if request.HasField("top_n") else len(request.texts),
        }
        data = msgspec.json.encode(body)
        path = self.path_of(self.settings.rerank_path)
        found = await self.upstream.fetch("POST", path, await self.authorize(path, data), data)
        return read_ranks(self.integration, found, request.target.model)

    async def list_models(self) -> list[model_pb2.Model]:
        common = [model_pb2.Capability.Value(f"CAPABILITY_{name.upper()}") for name in self.settings.capabilities]
        models = read_models(self.integration, await self._model_list(), common)
        if _is_openai(self.upstream.base_url):
            for model in models:
                known = openai_capabilities(model.id)
                model.capabilities[:] = sorted({*model.capabilities} | known)
        return models

    async def ping(self) -> str:
        await self._model_list()
        return ""

    async def _model_list(self) -> Any:
        # Not by the SDK, which knows OpenAI's own list only: others tell more, or elsewhere.
        path = self.path_of(self.settings.models_path)
        return await self.upstream.fetch("GET", path, await self.authorize(path, b""))

    def words_of(self, body: Any, headers: Mapping[str, str]) -> tuple[str | None, ...]:
        # Some write the HTTP status as their code, which tells less than a type in words.
        return tuple(sorted(error_words(body), key=lambda word: (word or "").isdigit()))

    def reason_of(self, body: Any) -> Reason | None:
        error = body.get("error") if isinstance(body, dict) else None
        metadata = error.get("metadata") if isinstance(error, dict) else None
        # OpenRouter says 403 of inputs that its moderation flagged, and why in a list.
        flagged = isinstance(metadata, dict) and isinstance(metadata.get("reasons"), list)
        return _R.ERROR_REASON_CONTENT_FILTERED if flagged else None


def _arranged(settings: OpenAISettings) -> OpenAISettings:
    """Returns the settings with the base address of an Azure resource, and without a key where tokens replace it."""
    if settings.auth == "entra":
        settings = msgspec.structs.replace(settings, api_key=Secret(""))
    if settings.azure_endpoint is None:
        return settings
    resource = settings.azure_endpoint.reveal() if settings.azure_endpoint else _NO_RESOURCE
    path = "/openai" if settings.api_version else "/openai/v1"
    return msgspec.structs.replace(settings, base_url=check_base_url(resource) + path)


def _deployment(model: str) -> str:
    return f"/deployments/{quote(model, safe='')}"


@functools.cache
def _is_openai(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")
