"""`google`: Gemini by API key at the Gemini API, and by application-default credentials on Vertex AI (`project`)."""

import asyncio
import importlib
import re
from collections.abc import Awaitable, Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import aiohttp
import msgspec

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import Reason, SluiceError
from sluice_kit.secrets import Secret
from sluice_providers import tokens
from sluice_providers.adapters.google_credentials import Credentials
from sluice_providers.base import Emitter
from sluice_providers.exchange import SERVER_SENT_EVENTS, HttpAdapter
from sluice_providers.failures import protocol_error, vendor_failure
from sluice_providers.http import HttpSettings
from sluice_providers.wire import gemini_errors, gemini_models, gemini_request
from sluice_providers.wire.gemini_stream import GeminiStream

if TYPE_CHECKING:
    from google import genai

T = TypeVar("T")

_SDK: Final = "google.genai"
_GEMINI_API: Final = "https://generativelanguage.googleapis.com"
_MULTI_REGIONS: Final = frozenset({"eu", "us"})
_RESOURCE: Final = re.compile(r"[\w.:-]+")
_PAGE: Final = 100


class GoogleSettings(HttpSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the `google` adapter."""

    base_url: str = ""
    """Empty: the Gemini API, or with `project` Vertex AI in its location."""
    other_api_key: Secret | None = None
    """The key where `api_key` is missing."""
    api_version: str = ""
    """Version of the interface. Empty: `v1beta`, on Vertex AI `v1beta1`."""
    project: str = ""
    """Google Cloud project. Set: Vertex AI is used, with application-default credentials instead of a key."""
    location: str = "global"
    """Region of Vertex AI."""
    embed_batch: int = 100
    """Texts in one request for embeddings; the vendor takes 100 at most."""


class GoogleAdapter(HttpAdapter):
    """The Gemini format, at the Gemini API and on Vertex AI."""

    TITLE = "Google Gemini"
    SETUP = (
        "Make a key in AI Studio and set `GEMINI_API_KEY` (or `GOOGLE_API_KEY`). For Vertex AI set `project` and "
        "`location` in the section, and sign in with `gcloud auth application-default login` or set "
        "`GOOGLE_APPLICATION_CREDENTIALS`."
    )
    EXACT_COUNT = True
    OPTIONS = gemini_request.OPTIONS
    Settings = GoogleSettings
    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "api_key": "${GEMINI_API_KEY}",
        "other_api_key": "${GOOGLE_API_KEY}",
    }
    CODES = gemini_errors.CODES

    def __init__(self, integration: str, settings: GoogleSettings) -> None:
        for word in filter(None, (settings.project, settings.location, settings.api_version)):
            if not _RESOURCE.fullmatch(word):
                raise ValueError(f"'{word}' is no name of a project, location or version")
        address = settings.base_url or _address(settings)
        super().__init__(integration, msgspec.structs.replace(settings, base_url=address))
        self._version = settings.api_version or ("v1beta1" if settings.project else "v1beta")
        self._key = settings.api_key
        if self._key.missing and settings.other_api_key is not None and not settings.other_api_key.missing:
            self._key = settings.other_api_key
        self._credentials = Credentials(settings) if settings.project else None
        self._session: aiohttp.ClientSession | None = None
        self._module: Any = None
        self._client: Any = None
        self._lacks_sdk = False

    async def start(self) -> None:
        await super().start()
        if self._credentials is None and self._key.missing:
            return
        # The SDK takes a session, so it gets one with the same rules as the token path's.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self.upstream.tls), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )
        try:
            # It takes a second to import, during which health checks are answered.
            await asyncio.to_thread(self._load, self._session)
        except ModuleNotFoundError:
            self._lacks_sdk = True

    def _load(self, session: aiohttp.ClientSession) -> None:
        """Makes the SDK's client."""
        sdk = importlib.import_module(_SDK)
        settings: GoogleSettings = self.settings
        arguments: dict[str, Any]
        if self._credentials is None:
            # The SDK insists on some key, also where the server wants none.
            arguments = {"api_key": self._key.reveal() or "none"}
        else:
            self._credentials.load()
            if self._credentials.missing:
                return
            arguments = {
                "project": settings.project,
                "location": settings.location,
                "credentials": self._credentials.found,
            }
        self._client = sdk.Client(
            enterprise=self._credentials is not None,
            http_options=sdk.types.HttpOptions(
                base_url=self.upstream.base_url,
                api_version=self._version,
                headers=settings.headers,
                aiohttp_client=session,
                # The SDK makes clients that nobody uses, which would take the environment's proxies.
                client_args={"trust_env": False},
                async_client_args={
                    "trust_env": False,
                    "proxy": settings.proxy.reveal() if settings.proxy else None,
                    "allow_redirects": False,
                    "ssl": self.upstream.tls,
                },
                # Without options of its own it would try a broken connection again.
                retry_options=sdk.types.HttpRetryOptions(attempts=1),
            ),
            **arguments,
        )
        self._module = sdk

    async def close(self) -> None:
        await super().close()
        if self._client is not None:
            await self._client.aio.aclose()
            self._client.close()
        if self._session is not None:
            await self._session.close()
        if self._credentials is not None:
            self._credentials.close()

    def missing(self) -> tuple[str, ...]:
        if self._credentials is None and self._key.missing:
            return (self._key.missing,)
        if self._lacks_sdk:
            return ("the package extra sluice-providers[google]",)
        if self._credentials is not None and self._credentials.missing:
            return ("GOOGLE_APPLICATION_CREDENTIALS",)
        return ()

    async def authorize(self, path: str, body: bytes) -> Mapping[str, str]:
        headers = {"Content-Type": "application/json"}
        if self._credentials is not None:
            headers |= await self._credentials.headers()
        elif self._key.reveal():
            headers["x-goog-api-key"] = self._key.reveal()
        settings: GoogleSettings = self.settings
        return headers | settings.headers

    def unsupported(self, request: pb.GenerateRequest, options: Collection[str]) -> Collection[str]:
        return gemini_request.unsupported(request, options)

    async def generate(self, request: pb.GenerateRequest, emitter: Emitter) -> None:
        await self.exchange(
            self._path(request.target.model, "generateContent" if request.whole else "streamGenerateContent?alt=sse"),
            gemini_request.gemini_body(request, integration=self.integration),
            request,
            emitter,
            lambda _: GeminiStream(self.integration),
            SERVER_SENT_EVENTS,
        )

    def _path(self, model: str, method: str) -> str:
        name = self._resource(gemini_request.checked_model(model))
        if self._credentials is not None and not name.startswith("projects/"):
            name = f"projects/{self.settings.project}/locations/{self.settings.location}/{name}"
        return f"/{self._version}/{name}:{method}"

    def _resource(self, model: str) -> str:
        """Returns a model's full name, as the SDK makes it."""
        if self._credentials is None:
            return model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"
        if model.startswith(("projects/", "models/", "publishers/")):
            return model
        publisher, _, name = model.rpartition("/")
        return f"publishers/{publisher or 'google'}/models/{name}"

    async def embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        sdk = await self._ready()
        model = gemini_request.checked_model(request.target.model)
        response = pb.EmbedResponse(model=model)
        config: Any = gemini_models.embed_config(request)
        size = max(1, self.settings.embed_batch)
        for start in range(0, len(request.texts), size):
            contents: Any = gemini_models.embed_contents(request, request.texts[start : start + size])
            reply = await self._read(sdk.aio.models.embed_content(model=model, contents=contents, config=config))
            rows = reply.embeddings or []
            if len(rows) != len(contents) or not all(row.values for row in rows):
                raise protocol_error(self.integration, "the vectors do not match the texts")
            for row in rows:
                response.embeddings.add(values=row.values)
            gemini_models.add_usage(response.usage, reply)
        return response

    async def count_tokens(self, request: pb.CountTokensRequest) -> pb.CountTokensResponse:
        if self.missing() or any(tool.HasField("custom") for tool in request.tools):
            return tokens.count_request(request)
        prompt = gemini_request.prompt_body(
            pb.GenerateRequest(
                target=request.target,
                messages=request.messages,
                system_instruction=request.system_instruction or None,
                tools=request.tools,
            ),
            integration=self.integration,
        )
        path = self._path(request.target.model, "countTokens")
        if self._credentials is None:
            # By its SDK the Gemini API counts the dialogue alone; in this form all of the prompt.
            prompt = {"generateContentRequest": {"model": self._resource(request.target.model)} | prompt}
        body = msgspec.json.encode(prompt)
        try:
            reply = await self.upstream.fetch("POST", path, await self.authorize(path, body), body)
        except Exception as error:
            failure = error if isinstance(error, SluiceError) else self.failure(error)
            if failure is None or not failure.retryable:
                raise
            # Counting helps to decide before a call; while the vendor cannot, an estimate is better than none.
            return tokens.count_request(request)
        # A count of nothing is left out, as JSON made of protocol buffers leaves out every zero.
        total = reply.get("totalTokens", 0) if isinstance(reply, dict) else None
        if not isinstance(total, int):
            raise protocol_error(self.integration, "a count of tokens is not a number")
        return pb.CountTokensResponse(tokens=total, kind=pb.TOKEN_COUNT_KIND_EXACT)

    async def list_models(self) -> list[model_pb2.Model]:
        sdk = await self._ready()

        async def every_page() -> list[model_pb2.Model]:
            return [gemini_models.model_of(row) async for row in await sdk.aio.models.list(config={"page_size": _PAGE})]

        return await self._read(every_page())

    async def ping(self) -> str:
        sdk = await self._ready()
        await self._read(sdk.aio.models.list(config={"page_size": 1}))
        return ""

    async def _read(self, work: Awaitable[T]) -> T:
        """Awaits a call of the SDK, which reads replies without looking what they are."""
        try:
            return await work
        except (AttributeError, KeyError, TypeError):
            raise protocol_error(self.integration, "a reply is not what its format promises") from None

    async def _ready(self) -> "genai.Client":
        """Returns the SDK's client, for everything but tokens; its credentials are fresh."""
        if self._client is None:
            raise RuntimeError("the adapter was not started")
        if self._credentials is not None:
            await self._credentials.headers()
        client: genai.Client = self._client
        return client

    def words_of(self, body: Any, headers: Mapping[str, str]) -> tuple[str | None, ...]:
        return gemini_errors.words(body)

    def reason_of(self, body: Any) -> Reason | None:
        return ErrorReason.ERROR_REASON_CONTEXT_TOO_LONG if gemini_errors.says_too_long(body) else None

    def retry_after_of(self, body: Any) -> float | None:
        return gemini_errors.retry_delay(body)

    def failure(self, error: Exception) -> SluiceError | None:
        found = super().failure(error)
        if found is not None or self._module is None:
            return found
        if isinstance(error, self._module.errors.APIError):
            refused: Any = error
            return vendor_failure(
                self.integration,
                status=refused.code,
                words=self.words_of(refused.details, {}),
                codes=self.CODES,
                headers=refused.response.headers,
                reason=self.reason_of(refused.details),
                seconds=self.retry_after_of(refused.details),
            )
        if self._credentials is not None:
            found = self._credentials.failure(error, self.integration)
        if found is None and isinstance(error, ValueError):
            return protocol_error(self.integration, "a reply is not what its format promises")
        return found


def _address(settings: GoogleSettings) -> str:
    """Returns where the interface is, as the SDK knows it."""
    if not settings.project:
        return _GEMINI_API
    if settings.location == "global":
        return "https://aiplatform.googleapis.com"
    if settings.location in _MULTI_REGIONS:
        return f"https://aiplatform.{settings.location}.rep.googleapis.com"
    return f"https://{settings.location}-aiplatform.googleapis.com"
