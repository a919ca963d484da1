"""What adapters share whose vendor has an SDK: it does everything but tokens, and says how requests are authenticated.

docs/adr/0010-token-path.md has the reasons.
"""

import asyncio
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import SluiceError, make_error
from sluice_providers.exchange import HttpAdapter
from sluice_providers.failures import protocol_error, vendor_failure
from sluice_providers.http import HttpSettings, sdk_transport


class VendorAdapter(HttpAdapter, ABC):
    """Base of adapters that stream by HTTP and have an SDK for the rest."""

    SDK: ClassVar[str]
    """Import name of the vendor's SDK, which is an extra of this distribution."""

    def __init__(self, integration: str, settings: HttpSettings) -> None:
        super().__init__(integration, settings)
        self._client: Any = None
        self._module: ModuleType | None = None
        self._headers: dict[str, str] = {}
        self._lacks_sdk = False

    async def start(self) -> None:
        await super().start()
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

    def make_http_client(self, sdk: Any, rules: dict[str, Any]) -> Any:
        """Makes the HTTP client that the SDK is given, which keeps to the rules of every other connection."""
        return sdk.DefaultAsyncHttpxClient(**rules)

    def _client_arguments(self, sdk: Any) -> dict[str, Any]:
        settings: HttpSettings = self.settings
        return {
            # The SDK insists on some key, also where the server wants none.
            "api_key": settings.api_key.reveal() or "none",
            "base_url": self.upstream.base_url,
            "default_headers": settings.headers,
            "max_retries": 0,
            "timeout": sdk.Timeout(settings.call_seconds, connect=settings.connect_seconds),
            "http_client": self.make_http_client(sdk, sdk_transport(self.upstream, settings)),
        }

    @property
    def client(self) -> Any:
        """The SDK's client, for everything but tokens."""
        if self._client is None:
            raise RuntimeError("the adapter was not started")
        return self._client

    async def close(self) -> None:
        await super().close()
        if self._client is not None:
            await self._client.close()

    def missing(self) -> tuple[str, ...]:
        key = self.settings.api_key.missing
        return (key,) if key else (f"the package extra sluice-providers[{self.SDK}]",) if self._lacks_sdk else ()

    async def authorize(self, path: str, body: bytes) -> Mapping[str, str]:
        return self._headers

    async def ping(self) -> str:
        await self.client.models.list()
        return ""

    def failure(self, error: Exception) -> SluiceError | None:
        found = super().failure(error)
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
                words=self.words_of(status.body, status.response.headers),
                codes=self.CODES,
                headers=status.response.headers,
                reason=self.reason_of(status.body),
                seconds=self.retry_after_of(status.body),
            )
        if isinstance(error, sdk.APITimeoutError):
            return make_error(ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT, f"{name} did not answer in time")
        if isinstance(error, sdk.APIConnectionError):
            return make_error(ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE, f"{name} cannot be reached")
        if isinstance(error, sdk.APIError | ValueError):
            return protocol_error(name, "a reply is not what its format promises")
        return None
