"""Tokens of Microsoft Entra for Azure OpenAI: by environment variables, managed identity, or a developer's sign-in.

The library caches a token and renews it before it ends. It is the extra `azure`, imported here alone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, Final

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import SluiceError, make_error
from sluice_providers.http import HttpSettings

_R = ErrorReason
SCOPE: Final = "https://cognitiveservices.azure.com/.default"
_ADVICE: Final = (
    "Entra gave no token: set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, run where Azure gives a "
    "managed or workload identity, or sign in with `az login`"
)


def _load() -> tuple[ModuleType, ModuleType]:
    from azure.core import exceptions
    from azure.identity import aio

    return aio, exceptions


class EntraTokens:
    """The tokens of one integration."""

    def __init__(self, integration: str, settings: HttpSettings) -> None:
        self._integration = integration
        self._settings = settings
        self._credential: Any = None
        self._provider: Callable[[], Awaitable[str]] | None = None
        self._errors: Any = None
        self.lacks_package = False
        """Whether the library is not installed; known after `start`."""

    async def start(self) -> None:
        """Loads the library. It asks for nothing until the first token is needed."""
        try:
            library, self._errors = await asyncio.to_thread(_load)
        except ModuleNotFoundError:
            self.lacks_package = True
            return
        # It logs what token endpoints answer, which is not ours to keep.
        logging.getLogger("azure").setLevel(logging.CRITICAL)
        settings = self._settings
        transport: dict[str, Any] = {
            "use_env_settings": False,
            "retry_total": 0,
            "connection_timeout": settings.connect_seconds,
        }
        if settings.ca_file is not None:
            transport["connection_verify"] = settings.ca_file
        if settings.proxy is not None:
            # Managed identities are asked on this machine, by plain HTTP, where no proxy leads.
            transport["proxies"] = {"https": settings.proxy.reveal()}
        self._credential = library.DefaultAzureCredential(**transport)
        self._provider = library.get_bearer_token_provider(self._credential, SCOPE)

    async def token(self) -> str:
        """Returns a token that is good for now. Raises SluiceError."""
        if self._provider is None:
            raise RuntimeError("the tokens were not started")
        try:
            return await self._provider()
        except self._errors.ClientAuthenticationError as error:
            # The chain of ways to sign in has no reply of its own to show: none of them was there, or let us in.
            raise self._failure(None if error.response is None else error.response.status_code) from None
        except self._errors.AzureError:
            raise self._failure(503) from None

    def _failure(self, status: int | None) -> SluiceError:
        """Returns the error for a token that was not to be had; `status` is what the one way that had worked says."""
        name = self._integration
        metadata = {"provider": name}
        if status is None:
            metadata["setting"] = "AZURE_CLIENT_ID"
            return make_error(_R.ERROR_REASON_INTEGRATION_MISCONFIGURED, f"{name}: {_ADVICE}", metadata=metadata)
        if status == 429 or status >= 500:
            what = f"{name} could not reach Entra for a token"
            return make_error(_R.ERROR_REASON_UPSTREAM_UNAVAILABLE, what, metadata=metadata)
        return make_error(_R.ERROR_REASON_UPSTREAM_AUTHENTICATION, f"{name}: {_ADVICE}", metadata=metadata)

    async def close(self) -> None:
        """Closes every connection."""
        if self._credential is not None:
            await self._credential.close()
