"""What adapters in front of an HTTP vendor share: its SDK, the path of tokens, and what its exceptions mean.

Tokens come over our own HTTP and decoder; the vendor's SDK does the rest and says how requests are authenticated.
docs/adr/0010-token-path.md has the reasons.
"""

import asyncio
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ClassVar, Protocol

import msgspec

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import Reason, SluiceError, make_error
from sluice_providers.base import Adapter, Emitter
from sluice_providers.failures import VendorError, error_words, protocol_error, vendor_failure
from sluice_providers.http import EVENT_STREAM, JSON, HttpSettings, Reply, Upstream, sdk_transport
from sluice_providers.sse import EventTooLong, SSEDecoder


class ReplyReader(Protocol):
    """Translates one reply of a wire format into events.

    `done` is set by the format's terminal marker and by nothing else; `alive` by a sign of life that is no event.
    """

    done: bool
    alive: bool

    def translate(self, payloads: list[bytes]) -> pb.GenerateResponse:
        """Returns the events of some payloads of the stream. Raises VendorError, SluiceError, msgspec.DecodeError."""

    def translate_whole(self, payload: bytes) -> pb.GenerateResponse:
        """Returns the events of a reply that came whole. Raises like `translate`."""


class VendorAdapter(Adapter, ABC):
    """Base of adapters that stream by HTTP and have an SDK for the rest."""

    SDK: ClassVar[str]
    """Import name of the vendor's SDK, which is an extra of this distribution."""
    CODES: ClassVar[Mapping[str, Reason]]
    """What the vendor's error codes and types mean, where they say more than the status."""

    def __init__(self, integration: str, settings: HttpSettings) -> None:
        super().__init__(integration, settings)
        self.upstream = Upstream(integration, settings, self.CODES, self.reason_of)
        self._client: Any = None
        self._module: ModuleType | None = None
        self._headers: dict[str, str] = {}
        self._lacks_sdk = False

    async def start(self) -> None:
        await self.upstream.start()
        if self.settings.api_key.missing:
            return
        try:
            # It takes a second to import, during which health checks are answered.
            self._module = await asyncio.to_thread(importlib.import_module, self.SDK)
        except ModuleNotFoundError:
            self._lacks_sdk = True
            return
        self._client = self.make_client(self._module, self._client_arguments(self._module))
        sent = dict(self._client.default_headers) | self._client.auth_headers
        self._headers = {
            name: value
            for name, value in sent.items()
            # Omitted headers are no text; the SDK's own telemetry would not be true of our requests.
            if isinstance(value, str) and not name.lower().startswith("x-stainless")
        }
        if not self.settings.api_key.reveal():
            self._headers.pop("Authorization", None)

    @abstractmethod
    def make_client(self, sdk: Any, arguments: dict[str, Any]) -> Any:
        """Makes the SDK's asynchronous client."""

    def _client_arguments(self, sdk: Any) -> dict[str, Any]:
        settings: HttpSettings = self.settings
        return {
            # The SDK insists on some key, also where the server wants none.
            "api_key": settings.api_key.reveal() or "none",
            "base_url": self.upstream.base_url,
            "default_headers": settings.headers,
            "max_retries": 0,
            "timeout": sdk.Timeout(settings.call_seconds, connect=settings.connect_seconds),
            "http_client": sdk.DefaultAsyncHttpxClient(**sdk_transport(self.upstream, settings)),
        }

    @property
    def client(self) -> Any:
        """The SDK's client, for everything but tokens."""
        if self._client is None:
            raise RuntimeError("the adapter was not started")
        return self._client

    async def close(self) -> None:
        await self.upstream.close()
        if self._client is not None:
            await self._client.close()

    def missing(self) -> tuple[str, ...]:
        key = self.settings.api_key.missing
        return (key,) if key else (f"the package extra sluice-providers[{self.SDK}]",) if self._lacks_sdk else ()

    async def ping(self) -> str:
        await self.client.models.list()
        return ""

    async def exchange(
        self,
        path: str,
        body: dict[str, Any],
        request: pb.GenerateRequest,
        emitter: Emitter,
        reader_for: Callable[[Reply], ReplyReader],
    ) -> None:
        """Sends a request for an answer and emits the reply's events: one batch for each read."""
        if not request.whole:
            body["stream"] = True
        accept = JSON if request.whole else EVENT_STREAM
        # The SDKs, too, ask for JSON when they want a stream.
        sent = self.upstream.post(
            path, msgspec.json.encode(body), self._headers, accept=accept, model=request.target.model
        )
        async with sent as reply:
            reader = reader_for(reply)
            if request.whole:
                await emitter.emit(reader.translate_whole(await reply.whole()))
                return
            decoder = SSEDecoder()
            while chunk := await reply.read():
                emitter.touch()
                payloads = decoder.feed(chunk)
                if not payloads:
                    continue
                batch = reader.translate(payloads)
                if batch.events or reader.alive:
                    await emitter.emit(batch)
                if reader.done:
                    await reply.finish()
                    return

    def reason_of(self, body: Any) -> Reason | None:
        """Returns the reason of an error body where the vendor documents no other sign than its text; else None."""
        return None

    def failure(self, error: Exception) -> SluiceError | None:
        if isinstance(error, VendorError):
            return vendor_failure(
                self.integration,
                status=None,
                words=error_words(error.body),
                codes=self.CODES,
                reason=self.reason_of(error.body),
            )
        if isinstance(error, EventTooLong):
            return protocol_error(self.integration, "an event of the stream is too long")
        found = self.upstream.failure(error)
        if found is not None or self._module is None:
            return found
        return self._sdk_failure(self._module, error)

    def _sdk_failure(self, sdk: Any, error: Exception) -> SluiceError | None:
        """The exceptions of the SDK; both SDKs name them alike."""
        name = self.integration
        if isinstance(error, sdk.APIStatusError):
            status: Any = error
            return vendor_failure(
                name,
                status=status.status_code,
                words=error_words(status.body),
                codes=self.CODES,
                headers=status.response.headers,
                reason=self.reason_of(status.body),
            )
        if isinstance(error, sdk.APITimeoutError):
            return make_error(ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT, f"{name} did not answer in time")
        if isinstance(error, sdk.APIConnectionError):
            return make_error(ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE, f"{name} cannot be reached")
        if isinstance(error, sdk.APIError | ValueError):
            return protocol_error(name, "a reply is not what its format promises")
        return None
