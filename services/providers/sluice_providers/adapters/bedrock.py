"""`bedrock`: the models of many makers at Amazon Bedrock, by Converse; embeddings of Titan and Cohere, and reranking."""

import asyncio
import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, ClassVar, Final
from urllib.parse import quote

import msgspec

from sluice.chat.v1 import usage_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import Reason, SluiceError
from sluice_kit.rpc import invalid_field
from sluice_providers import tokens
from sluice_providers.aws import Aws, AwsSettings, BadCredentials, NoCredentials, Service, refusal_of, sdk_failure
from sluice_providers.base import Emitter
from sluice_providers.eventstream import BrokenFrame, EventStreamDecoder
from sluice_providers.exchange import Framing, HttpAdapter
from sluice_providers.failures import by_status, protocol_error, vendor_failure
from sluice_providers.http import JSON, Reply, check_base_url, printable_header
from sluice_providers.wire import bedrock_embeddings, bedrock_models, converse_request
from sluice_providers.wire.converse_stream import ConverseStream
from sluice_providers.wire.messages_request import Source

_R = ErrorReason
_BEARER: Final = "AWS_BEARER_TOKEN_BEDROCK"
_SIGNING_NAME: Final = "bedrock"
_PROFILES: Final = "inferenceProfileSummaries"
_SPARE_THREADS: Final = 4
"""Threads beside those for embeddings, so that credentials and models never wait for these."""
_EVENT_STREAM: Final = "application/vnd.amazon.eventstream"
_GEOGRAPHY: Final = re.compile(r"^(us-gov|us|eu|apac|jp|au|ca|global)\.(?=[a-z0-9-]+\.)")
"""What an id of an inference profile has before the id of its model."""
_TOO_LONG: Final = (
    "input is too long",
    "prompt is too long",
    "exceed context limit",
    "maximum context length",
    "too many input tokens",
)
_UNKNOWN_MODEL: Final = "model identifier is invalid"
_ORIGINAL_STATUSES: Final = frozenset({400, 408, 413, 429})
"""Statuses of the model itself that say something about the request; what it says of keys is not ours."""


class BedrockSettings(AwsSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the `bedrock` adapter."""

    base_url: str = ""
    """Where models are run. Empty: the region's own address; another one e.g. for an endpoint inside a VPC."""
    control_url: str = ""
    """Where models are listed. Empty: the region's own address."""
    agent_url: str = ""
    """Where texts are ranked. Empty: the region's own address."""
    native_citations: bool = True
    """Whether passages are handed over as search results to models that cite them; else inside the prompt."""
    embed_concurrency: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8
    """Most calls for embeddings at a time. Titan takes one text a call."""
    embedding_forms: dict[str, bedrock_embeddings.FormName] = msgspec.field(default_factory=dict)
    """How embedding models are asked whose ids do not tell, e.g. the ARN of provisioned throughput: id → form."""


class BedrockAdapter(HttpAdapter):
    """Amazon Bedrock."""

    TITLE = "Amazon Bedrock"
    SETUP = (
        "Set `AWS_REGION`, and credentials in any way that the tools of AWS know: variables, a profile, SSO, or the "
        f"role of the machine. Or make an API key of Bedrock and set `{_BEARER}`."
    )
    EXACT_COUNT = True
    OPTIONS = converse_request.OPTIONS
    Settings = BedrockSettings
    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "region": "${AWS_REGION:-}",
        "api_key": f"${{{_BEARER}:-}}",
        # The rest is read by the chain, in its own order: a profile of the section is before keys of the variables.
    }
    CODES: ClassVar[Mapping[str, Reason]] = {
        "AccessDeniedException": _R.ERROR_REASON_UPSTREAM_PERMISSION,
        "DependencyFailedException": _R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
        "ExpiredTokenException": _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
        "IncompleteSignatureException": _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
        "InternalServerException": _R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
        "InvalidSignatureException": _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
        "MissingAuthenticationTokenException": _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
        "ModelErrorException": _R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
        "ModelNotReadyException": _R.ERROR_REASON_UPSTREAM_OVERLOADED,
        "ModelStreamErrorException": _R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
        "ModelTimeoutException": _R.ERROR_REASON_UPSTREAM_TIMEOUT,
        "ResourceNotFoundException": _R.ERROR_REASON_MODEL_NOT_FOUND,
        "ServiceQuotaExceededException": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        "ServiceUnavailableException": _R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
        "ThrottlingException": _R.ERROR_REASON_UPSTREAM_RATE_LIMITED,
        "UnrecognizedClientException": _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
        "ValidationException": _R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT,
    }

    def __init__(self, integration: str, settings: BedrockSettings) -> None:
        # The address follows the region, which may stand in a profile; until that is read, any will do.
        url = settings.base_url or "https://bedrock-runtime.amazonaws.com"
        super().__init__(integration, msgspec.structs.replace(settings, base_url=url))
        self._given_url = settings.base_url
        for other in filter(None, (settings.control_url, settings.agent_url)):
            check_base_url(other)
        self._aws = Aws(settings, settings.embed_concurrency + _SPARE_THREADS)
        self._embedding = asyncio.Semaphore(settings.embed_concurrency)
        self._lacks_sdk = False

    async def start(self) -> None:
        await super().start()
        try:
            await self._aws.start()
        except ModuleNotFoundError:
            self._lacks_sdk = True
            return
        if not self._given_url:
            self.upstream.base_url = self._aws.address("bedrock-runtime")

    async def close(self) -> None:
        await super().close()
        await self._aws.close()

    def missing(self) -> tuple[str, ...]:
        if self._lacks_sdk:
            return ("the package extra sluice-providers[bedrock]",)
        return self._aws.missing(_BEARER)

    async def authorize(self, path: str, body: bytes) -> Mapping[str, str]:
        headers = {**self.settings.headers, "Content-Type": JSON}
        try:
            return await self._aws.headers(self.upstream.base_url + path, body, headers, _SIGNING_NAME)
        except NoCredentials:
            raise self._no_credentials() from None

    def _no_credentials(self) -> SluiceError:
        names = ", ".join(self.missing())
        return self.error(
            _R.ERROR_REASON_INTEGRATION_MISCONFIGURED,
            f"{self.integration} is not configured: set {names}",
            setting=names,
        )

    def unsupported(self, request: pb.GenerateRequest, options: Collection[str]) -> Collection[str]:
        return converse_request.unsupported(request, options)

    async def generate(self, request: pb.GenerateRequest, emitter: Emitter) -> None:
        body, sources = self._body(request)
        model = request.target.model
        # A colon stays as it is, because the HTTP client would write it so, and what is signed must be what is sent.
        path = f"/model/{quote(model, safe=':')}/{'converse' if request.whole else 'converse-stream'}"
        decoder = EventStreamDecoder()

        def reader_for(reply: Reply) -> ConverseStream:
            request_id = printable_header(reply.headers.get("x-amzn-requestid"))
            return ConverseStream(self.integration, request_id, model, sources, decoder)

        await self.exchange(path, body, request, emitter, reader_for, Framing(_EVENT_STREAM, lambda: decoder))

    def _body(self, request: pb.GenerateRequest) -> tuple[dict[str, Any], list[Source]]:
        return converse_request.converse_body(
            request, integration=self.integration, native_citations=self.settings.native_citations
        )

    async def _call(self, service: Service, function: Callable[[Any], Any]) -> Any:
        """Calls a function that blocks with a client of the SDK, in a thread."""
        settings: BedrockSettings = self.settings
        url = {
            "bedrock": settings.control_url,
            "bedrock-runtime": self._given_url,
            "bedrock-agent-runtime": settings.agent_url,
        }[service]
        try:
            client = await self._aws.client(service, url)
        except NoCredentials:
            raise self._no_credentials() from None
        return await self._aws.run(lambda: function(client))

    async def embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        model = request.target.model
        form = self._embedding_form(model)
        if form is None:
            raise self.error(
                _R.ERROR_REASON_UNSUPPORTED_OPERATION,
                f"{self.integration} embeds with models of Titan and Cohere, and {model} is none that it knows; "
                "the setting embedding_forms can say how it is asked",
                operation="Embed",
            )
        if request.HasField("dimensions") and not form.sized:
            raise invalid_field("dimensions", "cannot be chosen with this model")
        starts = range(0, len(request.texts), form.batch)
        bodies = [form.body(request.texts[start : start + form.batch], request) for start in starts]
        calls = [asyncio.create_task(self._invoke(model, body)) for body in bodies]
        try:
            replies = await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()
        response = pb.EmbedResponse(model=model)
        total = 0
        for start, (content, counted) in zip(starts, replies, strict=True):
            vectors = form.read(content)
            if len(vectors.rows) != min(form.batch, len(request.texts) - start):
                raise protocol_error(self.integration, "a call gave another number of vectors than of texts")
            response.embeddings.extend(pb.Embedding(values=row) for row in vectors.rows)
            total += counted if vectors.tokens is None else vectors.tokens
        if total:
            response.usage.input_tokens = total
            response.usage.source = usage_pb2.USAGE_SOURCE_PROVIDER
        return response

    def _embedding_form(self, model: str) -> bedrock_embeddings.EmbeddingForm | None:
        named = self.settings.embedding_forms.get(model)
        return bedrock_embeddings.FORMS[named] if named else bedrock_embeddings.form_of(model)

    async def _invoke(self, model: str, body: Mapping[str, Any]) -> tuple[bytes, int]:
        """Runs a model in its maker's form. Returns its reply, and the tokens that the service counted."""
        data = msgspec.json.encode(body)

        def invoke(client: Any) -> tuple[bytes, str]:
            reply = client.invoke_model(modelId=model, body=data, contentType=JSON, accept=JSON)
            headers = reply["ResponseMetadata"]["HTTPHeaders"]
            return reply["body"].read(), headers.get("x-amzn-bedrock-input-token-count", "")

        async with self._embedding:
            content, counted = await self._call("bedrock-runtime", invoke)
        return content, int(counted) if counted.isdecimal() else 0

    async def rerank(self, request: pb.RerankRequest) -> pb.RerankResponse:
        if self._aws.bearer:
            raise self.error(
                _R.ERROR_REASON_UNSUPPORTED_OPERATION,
                f"{self.integration} has an API key, and texts are ranked for credentials of AWS only",
                operation="Rerank",
            )
        model = request.target.model
        here = f"arn:{self._aws.partition}:bedrock:{self._aws.region}::foundation-model/"
        ranking: dict[str, Any] = {
            "modelConfiguration": {"modelArn": model if model.startswith("arn:") else here + model}
        }
        if request.HasField("top_n"):
            ranking["numberOfResults"] = min(request.top_n, len(request.texts))
        asked: dict[str, Any] = {
            "queries": [{"type": "TEXT", "textQuery": {"text": request.query}}],
            "sources": [
                {"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": text}}}
                for text in request.texts
            ],
            "rerankingConfiguration": {
                "type": "BEDROCK_RERANKING_MODEL",
                "bedrockRerankingConfiguration": ranking,
            },
        }
        response = pb.RerankResponse(model=model)
        while True:
            page = await self._call("bedrock-agent-runtime", lambda client: client.rerank(**asked))
            for row in self._rows(page, "results"):
                response.results.add(index=row.get("index", -1), score=row.get("relevanceScore", 0.0))
            if not page.get("nextToken"):
                return response
            asked["nextToken"] = page["nextToken"]

    async def count_tokens(self, request: pb.CountTokensRequest) -> pb.CountTokensResponse:
        if self.missing():
            return tokens.count_request(request)
        body, _ = self._body(
            pb.GenerateRequest(
                target=request.target,
                messages=request.messages,
                system_instruction=request.system_instruction or None,
                tools=request.tools,
            )
        )
        # The service counts for models, and knows no inference profiles.
        model = _GEOGRAPHY.sub("", request.target.model)
        try:
            counted = await self._call(
                "bedrock-runtime", lambda client: client.count_tokens(modelId=model, input={"converse": body})
            )
        except Exception as error:
            # That a model cannot count is told like any other fault of a request. And while the service cannot, an
            # estimate is better than none, because counting helps to decide before a call.
            failure = self.failure(error)
            invalid = _R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT
            if failure is None or not (failure.retryable or failure.reason == invalid):
                raise
            return tokens.count_request(request)
        if "inputTokens" not in counted:
            raise protocol_error(self.integration, "the reply holds no count")
        return pb.CountTokensResponse(tokens=counted["inputTokens"], kind=pb.TOKEN_COUNT_KIND_EXACT)

    async def list_models(self) -> list[model_pb2.Model]:
        def every_profile(client: Any) -> list[Any]:
            pages = client.get_paginator("list_inference_profiles").paginate()
            return [row for page in pages for row in self._rows(page, _PROFILES)]

        summaries, profiles = await asyncio.gather(
            self._call("bedrock", lambda client: self._rows(client.list_foundation_models(), "modelSummaries")),
            self._call("bedrock", every_profile),
        )
        return list(bedrock_models.models(summaries, profiles, lambda id: self._embedding_form(id) is not None))

    def _rows(self, reply: Mapping[str, Any], name: str) -> list[Any]:
        """Returns the list of a reply. The SDK takes what is no JSON at all for a reply without one."""
        if name not in reply:
            raise protocol_error(self.integration, "the reply holds no list")
        rows: list[Any] = reply[name]
        return rows

    async def ping(self) -> str:
        reply = await self._call("bedrock", lambda client: client.list_inference_profiles(maxResults=1))
        self._rows(reply, _PROFILES)
        return ""

    def words_of(self, body: Any, headers: Mapping[str, str]) -> tuple[str | None, ...]:
        """The type of an error stands in a header, behind which an address may follow, or in the body, where a name
        space may come first. Inside a stream it begins with a small letter."""
        named = [headers.get("x-amzn-errortype"), body.get("__type") if isinstance(body, dict) else None]
        words = (str(name).partition(":")[0].rpartition("#")[2] for name in named if name)
        return tuple(word[:1].upper() + word[1:] for word in words)

    def reason_of(self, body: Any) -> Reason | None:
        """What the vendor tells by no code: a prompt that is too long and a model that does not exist are invalid
        requests that say so in words, and a model's own failure hides its status in the body."""
        if not isinstance(body, dict):
            return None
        text = str(body.get("message") or body.get("Message") or "").lower()
        if any(sign in text for sign in _TOO_LONG):
            return _R.ERROR_REASON_CONTEXT_TOO_LONG
        if _UNKNOWN_MODEL in text:
            return _R.ERROR_REASON_MODEL_NOT_FOUND
        original = body.get("originalStatusCode")
        return by_status(original) if original in _ORIGINAL_STATUSES else None

    def failure(self, error: Exception) -> SluiceError | None:
        name = self.integration
        if isinstance(error, BrokenFrame):
            return protocol_error(name, "a message of the stream is damaged")
        if isinstance(error, BadCredentials):
            return self.error(
                _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
                f"the credentials of {name} could not be renewed; sign in again, or check the profile or role",
            )
        found = super().failure(error)
        if found is not None or self._lacks_sdk:
            return found
        refused = refusal_of(error)
        if refused is None:
            return sdk_failure(error, name)
        return vendor_failure(
            name,
            status=refused.status,
            words=self.words_of(refused.body, {}),
            codes=self.CODES,
            headers=refused.headers,
            reason=self.reason_of(refused.body),
        )
