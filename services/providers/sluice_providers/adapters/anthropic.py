"""`anthropic`: messages, models and token counts of Anthropic. Passages come back cited natively."""

import importlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import Reason
from sluice_providers import tokens
from sluice_providers.base import Emitter
from sluice_providers.exchange import SERVER_SENT_EVENTS
from sluice_providers.http import HttpSettings, printable_header
from sluice_providers.vendor import VendorAdapter
from sluice_providers.wire import messages_request
from sluice_providers.wire.messages_cache import PromptCache
from sluice_providers.wire.messages_stream import MessagesStream

if TYPE_CHECKING:
    import anthropic

_R = ErrorReason
_TOO_LONG: Final = ("prompt is too long", "exceed context limit")
_SPENT: Final = ("credit balance is too low", "specified API usage limits")
_KEPT_CONNECTIONS: Final = 100
"""Connections of the SDK that are kept for what comes next; how many there are is for the caller to limit."""


class AnthropicSettings(HttpSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the `anthropic` adapter."""

    base_url: str = "https://api.anthropic.com"
    """Where the vendor's interface starts, without `/v1`."""
    max_output_tokens: int = 8192
    """Limit of output tokens where the request sets none; the vendor insists on one."""
    native_citations: bool = True
    """Whether passages are handed over as search results, which the model cites; else inside the prompt."""
    prompt_cache: PromptCache = True
    """Whether the vendor keeps the stable beginning of prompts: for five minutes after its last use, or as long as
    said. False for servers of the same format that know no caching."""


class AnthropicAdapter(VendorAdapter):
    """The Anthropic format."""

    TITLE = "Anthropic"
    SETUP = "Make a key in the console and set `ANTHROPIC_API_KEY`."
    EXACT_COUNT = True
    OPTIONS = messages_request.OPTIONS
    SDK = "anthropic"
    Settings = AnthropicSettings
    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "api_key": "${ANTHROPIC_API_KEY}",
        "base_url": "${ANTHROPIC_BASE_URL:-https://api.anthropic.com}",
    }
    # The codes in `details` first, then the types: both as the SDK's `types.shared` lists them.
    CODES: ClassVar[Mapping[str, Reason]] = {
        "cmek_key_disabled": _R.ERROR_REASON_UPSTREAM_PERMISSION,
        "cmek_key_network_blocked": _R.ERROR_REASON_UPSTREAM_PERMISSION,
        "contract_spend_limit_reached": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        "enforced_spend_limit_reached": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        "linked_organization_billing_unavailable": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        "linked_organization_spend_limit_reached": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        "organization_on_hold": _R.ERROR_REASON_UPSTREAM_PERMISSION,
        "organization_type_not_supported": _R.ERROR_REASON_UPSTREAM_PERMISSION,
        "authentication_error": _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
        "billing_error": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        # Another change was under way; the vendor's SDK tries again.
        "conflict_error": _R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
        "invalid_request_error": _R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT,
        "not_found_error": _R.ERROR_REASON_MODEL_NOT_FOUND,
        "overloaded_error": _R.ERROR_REASON_UPSTREAM_OVERLOADED,
        "permission_error": _R.ERROR_REASON_UPSTREAM_PERMISSION,
        "rate_limit_error": _R.ERROR_REASON_UPSTREAM_RATE_LIMITED,
        "request_too_large": _R.ERROR_REASON_CONTEXT_TOO_LONG,
        "timeout_error": _R.ERROR_REASON_UPSTREAM_TIMEOUT,
    }

    def make_http_client(self, sdk: Any, rules: dict[str, Any]) -> Any:
        # The SDK's own kind takes the environment's proxies, whatever it is told.
        http = importlib.import_module("httpx2")
        limits = http.Limits(max_connections=None, max_keepalive_connections=_KEPT_CONNECTIONS)
        return http.AsyncClient(**rules, limits=limits)

    def make_client(self, sdk: Any, arguments: dict[str, Any]) -> Any:
        return sdk.AsyncAnthropic(**arguments)

    def unsupported(self, request: pb.GenerateRequest, options: Collection[str]) -> Collection[str]:
        return messages_request.unsupported(request, options)

    async def generate(self, request: pb.GenerateRequest, emitter: Emitter) -> None:
        body, sources = self._body(request, self.settings.prompt_cache)
        if not request.whole:
            body["stream"] = True
        await self.exchange(
            "/v1/messages",
            body,
            request,
            emitter,
            lambda reply: MessagesStream(self.integration, printable_header(reply.headers.get("request-id")), sources),
            SERVER_SENT_EVENTS,
        )

    def _body(
        self, request: pb.GenerateRequest, prompt_cache: PromptCache = False
    ) -> tuple[dict[str, Any], list[messages_request.Source]]:
        return messages_request.messages_body(
            request,
            integration=self.integration,
            max_tokens=self.settings.max_output_tokens,
            native_citations=self.settings.native_citations,
            prompt_cache=prompt_cache,
        )

    def reason_of(self, body: Any) -> Reason | None:
        """The vendor has no code for a prompt that is too long, nor for a limit of spending that its customer set and
        for credit that is used up: each is an invalid request that says so in words."""
        error = body.get("error") if isinstance(body, dict) else None
        if not isinstance(error, dict) or error.get("type") != "invalid_request_error":
            return None
        text = str(error.get("message", ""))
        if any(sign in text for sign in _TOO_LONG):
            return _R.ERROR_REASON_CONTEXT_TOO_LONG
        return _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED if any(sign in text for sign in _SPENT) else None

    async def count_tokens(self, request: pb.CountTokensRequest) -> pb.CountTokensResponse:
        if self.missing():
            return tokens.count_request(request)
        sdk: anthropic.AsyncAnthropic = self.client
        body, _ = self._body(
            pb.GenerateRequest(
                target=request.target,
                messages=request.messages,
                system_instruction=request.system_instruction or None,
                tools=request.tools,
            )
        )
        del body["max_tokens"]
        try:
            counted = await sdk.messages.count_tokens(**body)
        except Exception as error:
            failure = self.failure(error)
            if failure is None or not failure.retryable:
                raise
            # Counting helps to decide before a call; while the vendor cannot, an estimate is better than none.
            return tokens.count_request(request)
        return pb.CountTokensResponse(tokens=counted.input_tokens, kind=pb.TOKEN_COUNT_KIND_EXACT)

    async def list_models(self) -> list[model_pb2.Model]:
        sdk: anthropic.AsyncAnthropic = self.client
        # Retired models stay in the vendor's list, but requests that name them fail.
        return [_model(row) async for row in sdk.models.list(limit=1000) if row.lifecycle != "retired"]


def _model(row: "anthropic.types.ModelInfo") -> model_pb2.Model:
    model = model_pb2.Model(
        id=row.id,
        display_name=row.display_name,
        owned_by="anthropic",
        family=row.line or "",
        context_window=row.max_input_tokens,
        max_output_tokens=row.max_tokens,
        source=model_pb2.MODEL_SOURCE_DISCOVERED,
    )
    if row.created_at.timestamp() > 0:  # the epoch stands for what is not known
        model.create_time.FromDatetime(row.created_at)
    # Every model of this interface streams and calls tools. None is said to continue a started assistant message: the
    # list does not tell, and models since 4.6 refuse it.
    model.capabilities.extend((model_pb2.CAPABILITY_STREAMING, model_pb2.CAPABILITY_TOOLS))
    able = row.capabilities
    if able is not None:
        for capability, supported in (
            (model_pb2.CAPABILITY_STRUCTURED_OUTPUT, able.structured_outputs),
            (model_pb2.CAPABILITY_IMAGES, able.image_input),
            (model_pb2.CAPABILITY_REASONING, able.thinking),
            (model_pb2.CAPABILITY_CITATIONS, able.citations),
        ):
            if getattr(supported, "supported", False):  # a server may leave out what the SDK says is always there
                model.capabilities.append(capability)
    return model
