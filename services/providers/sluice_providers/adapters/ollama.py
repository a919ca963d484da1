"""`ollama`: chat, embeddings and models of an Ollama server, by its own interface over plain HTTP."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from sluice.chat.v1 import usage_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import Reason, SluiceError
from sluice_kit.rpc import invalid_field
from sluice_providers import ollama_cli
from sluice_providers.base import Emitter
from sluice_providers.exchange import JSON_LINES, HttpAdapter
from sluice_providers.http import JSON, HttpSettings
from sluice_providers.ollama_address import base_url
from sluice_providers.sizes import human_size
from sluice_providers.wire import ollama_request
from sluice_providers.wire.ollama_stream import OllamaStream

log = logging.getLogger(__name__)
T = TypeVar("T")
_SHOWN_AT_ONCE: Final = 4
_TOO_LONG: Final = ("context length", "context size")
_BUSY: Final = "maximum pending requests"
_CAPABILITIES: Final = {
    "completion": model_pb2.CAPABILITY_STREAMING,
    "tools": model_pb2.CAPABILITY_TOOLS,
    "vision": model_pb2.CAPABILITY_IMAGES,
    "thinking": model_pb2.CAPABILITY_REASONING,
    "embedding": model_pb2.CAPABILITY_EMBEDDINGS,
}
"""The vendor's words for what a model can do. `insert`, which fills gaps in code, has no counterpart here."""


class OllamaSettings(HttpSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the `ollama` adapter."""

    base_url: str = ""
    """Address of the server. Empty: by `host`."""
    host: str = ""
    """The same, written as Ollama's own `OLLAMA_HOST`. Empty: http://127.0.0.1:11434, and in a container
    http://host.docker.internal:11434."""
    container: bool | None = None
    """Whether this process runs in a container, for that default. Unset: it is found out."""
    num_ctx: int | None = None
    """Context length in tokens that models are run with. Unset: the server's own, which may be far below the
    model's."""
    keep_alive: str = ""
    """How long a model stays loaded after a request, e.g. `10m`; negative: for ever. Empty: the server's own."""
    truncate: bool = False
    """Whether the server may leave out the beginning of a prompt that does not fit. False: that is an error."""
    embed_batch: int = 64
    """Texts in one request for embeddings."""
    cli: bool = True
    """Whether models are asked of the command line where the server does not answer."""
    cli_path: str = "ollama"
    """The command: its path, or its name on PATH."""
    cli_seconds: float = 10.0
    """Longest duration of the command."""


class _Details(msgspec.Struct):
    family: str = ""
    parameter_size: str = ""


class _Tag(msgspec.Struct):
    name: str = ""
    model: str = ""
    size: int = 0
    digest: str = ""
    remote_host: str = ""
    details: _Details | None = None


class _Tags(msgspec.Struct):
    models: list[_Tag] | None


class _Shown(msgspec.Struct):
    capabilities: list[str] | None = None
    model_info: dict[str, Any] | None = None

    @property
    def context_length(self) -> int | None:
        """Most tokens that the model was made for."""
        info = self.model_info or {}
        found = info.get(f"{info.get('general.architecture')}.context_length")
        return found if isinstance(found, int) else None


class _Version(msgspec.Struct):
    version: str


class _Vectors(msgspec.Struct):
    embeddings: list[list[float]]
    model: str = ""
    prompt_eval_count: int | None = None


class OllamaAdapter(HttpAdapter):
    """Ollama's own interface, which knows more than the OpenAI format that it speaks as well."""

    TITLE = "Ollama"
    SETUP = (
        "Run `ollama serve`; its address is taken from `OLLAMA_HOST`. In a container the default is the machine's own "
        "server, which Docker on Linux reaches with `--add-host host.docker.internal:host-gateway` and a server that "
        "listens beyond loopback. For ollama.com set `base_url: https://ollama.com` and `OLLAMA_API_KEY`."
    )
    OPTIONS = ollama_request.OPTIONS
    Settings = OllamaSettings
    DEFAULTS: ClassVar[Mapping[str, Any]] = {"host": "${OLLAMA_HOST:-}", "api_key": "${OLLAMA_API_KEY:-}"}

    def __init__(self, integration: str, settings: OllamaSettings) -> None:
        address = base_url(settings.base_url, settings.host, settings.container)
        super().__init__(integration, msgspec.structs.replace(settings, base_url=address))
        self._shown: dict[str, _Shown] = {}  # by digest: what it says changes with the model only
        self._showing = asyncio.Semaphore(_SHOWN_AT_ONCE)

    def missing(self) -> tuple[str, ...]:
        key = self.settings.api_key.missing
        return (key,) if key else ()

    async def authorize(self, path: str, body: bytes) -> Mapping[str, str]:
        headers = dict(self.settings.headers)
        if body:
            headers["Content-Type"] = JSON
        key = self.settings.api_key.reveal()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def unsupported(self, request: pb.GenerateRequest, options: Collection[str]) -> Collection[str]:
        return ollama_request.unsupported(request, options)

    def reason_of(self, body: Any) -> Reason | None:
        """The vendor's errors are sentences without a code: a prompt that is too long is known by its words alone, and
        a full queue shares its status with proxies that find no server."""
        text = body.get("error") if isinstance(body, dict) else None
        if not isinstance(text, str):
            return None
        if any(sign in text for sign in _TOO_LONG):
            return ErrorReason.ERROR_REASON_CONTEXT_TOO_LONG
        return ErrorReason.ERROR_REASON_UPSTREAM_OVERLOADED if _BUSY in text else None

    async def generate(self, request: pb.GenerateRequest, emitter: Emitter) -> None:
        settings: OllamaSettings = self.settings
        body = ollama_request.chat_body(
            request,
            integration=self.integration,
            truncate=settings.truncate,
            num_ctx=settings.num_ctx,
            keep_alive=settings.keep_alive,
        )
        await self.exchange("/api/chat", body, request, emitter, lambda _: OllamaStream(self.integration), JSON_LINES)

    async def embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        settings: OllamaSettings = self.settings
        response = pb.EmbedResponse(model=request.target.model)
        size = max(1, settings.embed_batch)
        body: dict[str, Any] = {"model": request.target.model, "truncate": False}
        if request.HasField("dimensions"):
            body["dimensions"] = request.dimensions
        if settings.keep_alive:
            body["keep_alive"] = settings.keep_alive
        if settings.num_ctx is not None:
            body["options"] = {"num_ctx": settings.num_ctx}
        for start in range(0, len(request.texts), size):
            texts = list(request.texts[start : start + size])
            reply = await self._call("/api/embed", {**body, "input": texts}, _Vectors, request.target.model)
            for vector in reply.embeddings:
                if request.HasField("dimensions") and len(vector) != request.dimensions:
                    raise self._no_such_dimensions(request)
                response.embeddings.add(values=vector)
            if reply.prompt_eval_count is not None:
                response.usage.input_tokens += reply.prompt_eval_count
                response.usage.source = usage_pb2.USAGE_SOURCE_PROVIDER
            response.model = reply.model or response.model
        return response

    def _no_such_dimensions(self, request: pb.EmbedRequest) -> SluiceError:
        """The vendor shortens vectors and never says that it could not; older servers do not know the option."""
        error = invalid_field("dimensions", f"{request.target.model} makes no vectors of that length here")
        error.reason = ErrorReason.ERROR_REASON_UNSUPPORTED_OPTION
        error.metadata = {"option": "dimensions", "provider": self.integration}
        return error

    async def ping(self) -> str:
        return (await self._call("/api/version", None, _Version)).version

    async def list_models(self) -> list[model_pb2.Model]:
        tags = (await self._call("/api/tags", None, _Tags)).models or []
        shown = await asyncio.gather(*map(self._show, tags))
        self._shown = {tag.digest: facts for tag, facts in zip(tags, shown, strict=True) if facts and tag.digest}
        return [self._model(tag, facts) for tag, facts in zip(tags, shown, strict=True)]

    async def models_without_vendor(self) -> list[model_pb2.Model]:
        """Asks the command line."""
        settings: OllamaSettings = self.settings
        if not settings.cli:
            return []
        try:
            rows = await ollama_cli.listed(settings.cli_path, self.upstream.base_url, settings.cli_seconds)
        except (OSError, TimeoutError) as error:
            log.info(
                "the command line tells no models",
                extra={"integration": self.integration, "exception_type": type(error).__qualname__},
            )
            return []
        source = model_pb2.MODEL_SOURCE_DISCOVERED
        return [model_pb2.Model(id=row.name, display_size=row.size, source=source) for row in rows]

    async def _show(self, tag: _Tag) -> _Shown | None:
        """Returns what the server says of one model; None where it cannot, which is no reason to list none."""
        known = self._shown.get(tag.digest)
        if known is not None:
            return known
        async with self._showing:
            try:
                return await self._call("/api/show", {"model": tag.model or tag.name}, _Shown)
            except (SluiceError, msgspec.DecodeError) as error:
                reason = error.reason_name if isinstance(error, SluiceError) else type(error).__qualname__
                log.info("a model cannot be shown", extra={"integration": self.integration, "reason": reason})
                return None

    def _model(self, tag: _Tag, shown: _Shown | None) -> model_pb2.Model:
        details = tag.details or _Details()
        model = model_pb2.Model(
            id=tag.model or tag.name,
            family=details.family,
            parameter_size=details.parameter_size,
            source=model_pb2.MODEL_SOURCE_DISCOVERED,
        )
        if tag.size and not tag.remote_host:
            model.size_bytes = tag.size
            model.display_size = human_size(tag.size)
        if shown is None:
            return model
        if shown.context_length is not None:
            limit = self.settings.num_ctx
            model.context_window = min(shown.context_length, limit) if limit else shown.context_length
        told = shown.capabilities or []
        model.capabilities.extend(_CAPABILITIES[word] for word in told if word in _CAPABILITIES)
        if "completion" in told and not tag.remote_host:
            # The server itself holds the sampling to a schema, whatever the model; the models of its cloud it does not
            # run (https://docs.ollama.com/capabilities/structured-outputs).
            model.capabilities.append(model_pb2.CAPABILITY_STRUCTURED_OUTPUT)
        return model

    async def _call(self, path: str, body: Mapping[str, Any] | None, kind: type[T], model: str = "") -> T:
        """Sends a request that is no stream and returns its reply."""
        data = None if body is None else msgspec.json.encode(body)
        headers = await self.authorize(path, data or b"")
        method = "GET" if data is None else "POST"
        async with self.upstream.request(method, path, data, headers, accept=JSON, model=model) as reply:
            return msgspec.json.decode(await reply.whole(), type=kind)
