"""What an adapter is: it translates a request, opens the stream, and translates the vendor's events.

Everything that all adapters share belongs to the servicer around them: the order of events, limits of time, closing,
mapping of exceptions, unsupported options, status. An adapter is made once for each integration and serves many
attempts at a time; it keeps nothing between them and never retries.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import msgspec

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import model_pb2, sign_in_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import SluiceError, make_error
from sluice_providers import tokens

CapabilityName = Literal[
    "streaming", "tools", "structured_output", "images", "reasoning", "embeddings", "assistant_prefill", "agent",
    "citations",
]  # fmt: skip  # names read better side by side


class StaticModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that the configuration lists: what the vendor does not tell, or instead of asking it."""

    id: str
    display_name: str = ""
    family: str = ""
    context_window: int | None = None
    max_output_tokens: int | None = None
    capabilities: tuple[CapabilityName, ...] = ()

    def message(self) -> model_pb2.Model:
        """Returns it as the contract's message."""
        return model_pb2.Model(
            id=self.id,
            display_name=self.display_name,
            family=self.family,
            context_window=self.context_window,
            max_output_tokens=self.max_output_tokens,
            capabilities=[model_pb2.Capability.Value(f"CAPABILITY_{name.upper()}") for name in self.capabilities],
            source=model_pb2.MODEL_SOURCE_STATIC,
        )


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of every integration: section `providers.<id>`. An adapter's own type adds to them."""

    adapter: str = ""
    """Name of the adapter. Empty: the integration's id."""
    listen: str = "127.0.0.1:0"
    """Address of the integration's own process."""
    probe: str | None = None
    """Address for health checks alone. Unset: none."""
    ttft_seconds: float = 300.0
    """Longest wait for the first sign of an answer (TTFT). Reasoning models may be silent for minutes."""
    idle_seconds: float = 120.0
    """Longest silence of the vendor after that."""
    call_seconds: float = 60.0
    """Longest duration of a call that is no stream: embeddings, models, token counts, a probe."""
    models: tuple[StaticModel, ...] = ()
    """Models known beside the ones the vendor lists."""
    discover: bool = True
    """Whether the vendor is asked for its models. False: `models` is all there is."""

    def resolved(self, resolve: Callable[[str], Path]) -> Self:
        """Returns the same settings with absolute paths, made by `resolve`."""
        return self

    def kept_in(self, folder: Callable[[], Path]) -> Self:
        """Returns the same settings, knowing the folder for what the integration keeps, if it keeps anything.

        `folder` returns it, below the state folder; nothing is made there yet.
        """
        return self


class Emitter(Protocol):
    """Where an adapter's events go: the servicer's side of one attempt."""

    async def emit(self, batch: pb.GenerateResponse) -> None:
        """Passes events on, in order, as one message. Waits while the receiver cannot take more.

        An empty batch is a heartbeat. Raises SluiceError if the events break the order of a stream.
        """

    def touch(self) -> None:
        """Says that the vendor is alive though it sent no event, so that no idle limit strikes."""


class Adapter:
    """Base of all adapters. What a vendor does not have is left as it is here: refused as unsupported."""

    TITLE: ClassVar[str] = ""
    """The vendor's name for people; docs/providers.md shows it."""
    SETUP: ClassVar[str] = ""
    """How to get going, in a sentence or two of Markdown, for the same page."""
    EXACT_COUNT: ClassVar[bool] = False
    """Whether `count_tokens` is exact where the vendor can be reached."""
    Settings: ClassVar[type[Settings]] = Settings
    """The type of its section."""
    DEFAULTS: ClassVar[Mapping[str, Any]] = {}
    """Settings for what the section leaves out, with placeholders: `{"api_key": "${OPENAI_API_KEY}"}`."""
    OPTIONS: ClassVar[Collection[str]] = ()
    """Names of the request options it honours; see `sluice_providers.options`."""

    def __init__(self, integration: str, settings: Any) -> None:
        self.integration = integration
        self.settings = settings

    async def start(self) -> None:
        """Gets ready. A missing credential is not an error here."""

    async def close(self) -> None:
        """Ends every connection."""

    def missing(self) -> Sequence[str]:
        """Returns the settings that are missing, by the name the operator must set."""
        return ()

    def unsupported(self, request: pb.GenerateRequest, options: Collection[str]) -> Collection[str]:
        """Returns those of the request's options that cannot be honoured, e.g. for their value or with this model."""
        return [name for name in options if name not in self.OPTIONS]

    def queues(self, request: pb.GenerateRequest) -> bool:
        """Tells whether the vendor may keep a request waiting in a queue of jobs, so that no limit holds for its first
        content; the limit of silence does, and signs of life from the queue count."""
        return False

    async def generate(self, request: pb.GenerateRequest, emitter: Emitter) -> None:
        """Runs one attempt: emits `Started` first and `Completed` last, then returns."""
        raise self.unsupported_operation("Generate")

    async def embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        """Turns texts into vectors, in order."""
        raise self.unsupported_operation("Embed")

    async def rerank(self, request: pb.RerankRequest) -> pb.RerankResponse:
        """Orders texts by how well they answer a query, best first."""
        raise self.unsupported_operation("Rerank")

    async def count_tokens(self, request: pb.CountTokensRequest) -> pb.CountTokensResponse:
        """Counts the tokens of a prompt; by default estimated from its length."""
        return tokens.count_request(request)

    async def list_models(self) -> list[model_pb2.Model]:
        """Returns the models that the vendor lists."""
        return []

    async def models_without_vendor(self) -> list[model_pb2.Model]:
        """Returns the models that can be found where the vendor cannot be reached. Raises nothing."""
        return []

    async def ping(self) -> str:
        """Asks the vendor whether it is there, and returns the version of its server where it tells one."""
        return ""

    async def sign_in(self, show: Callable[[sign_in_pb2.SignInChallenge], Awaitable[None]]) -> str:
        """Signs in by the device flow: shows the challenge, waits for consent, keeps the credential.

        Returns the account at the vendor; empty where it tells none.
        """
        raise self.unsupported_operation("SignIn")

    def failure(self, error: Exception) -> SluiceError | None:
        """Returns what an exception of the vendor's SDK means; None if it is none of those."""
        return None

    def error(self, reason: "ErrorReason.ValueType", message: str, **metadata: str) -> SluiceError:
        """Returns an error that names this integration."""
        return make_error(reason, message, metadata={"provider": self.integration} | metadata)

    def unsupported_operation(self, operation: str) -> SluiceError:
        """Returns the error for a method that the vendor does not offer."""
        return self.error(
            ErrorReason.ERROR_REASON_UNSUPPORTED_OPERATION,
            f"{self.integration} does not offer {operation}",
            operation=operation,
        )
