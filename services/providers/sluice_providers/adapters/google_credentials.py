"""Application-default credentials of Google Cloud, for Vertex AI: found by the vendor's library, refreshed in a thread."""

import asyncio
import importlib
from typing import Any, Final

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import SluiceError, make_error
from sluice_providers.http import HttpSettings

_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"


class Credentials:
    """The credentials of one integration."""

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._session: Any = None
        self._request: Any = None
        self._errors: Any = None
        self._refreshing: asyncio.Future[None] | None = None
        self.found: Any = None
        """What the library found; None until `load`."""
        self.missing = False
        """Whether `load` found none."""

    def load(self) -> None:
        """Looks for credentials: a file, those of the gcloud command, the metadata server. To be run in a thread."""
        auth = importlib.import_module("google.auth")
        self._errors = importlib.import_module("google.auth.exceptions")
        session = self._session = importlib.import_module("requests").Session()
        # The same rules as elsewhere: no proxy but the configured one, no other authorities.
        session.trust_env = False
        if self._settings.proxy:
            session.proxies = dict.fromkeys(("http", "https"), self._settings.proxy.reveal())
        if self._settings.ca_file:
            session.verify = self._settings.ca_file
        self._request = importlib.import_module("google.auth.transport.requests").Request(session=session)
        try:
            self.found, _ = auth.default(scopes=[_SCOPE], request=self._request)
        except self._errors.DefaultCredentialsError:
            self.missing = True

    def close(self) -> None:
        """Ends the connections to the server that gives out tokens."""
        if self._session is not None:
            self._session.close()

    async def headers(self) -> dict[str, str]:
        """Returns the headers that authorize a request. Raises exceptions of the library; see `failure`."""
        if not self.found.valid:
            await self._refresh()
        headers = {"Authorization": f"Bearer {self.found.token}"}
        if self.found.quota_project_id:
            headers["x-goog-user-project"] = self.found.quota_project_id
        return headers

    async def _refresh(self) -> None:
        """Fetches a token. Whoever else needs one meanwhile waits for the same; who gives up leaves it to them."""
        if self._refreshing is None:
            self._refreshing = asyncio.ensure_future(asyncio.to_thread(self.found.refresh, self._request))
            self._refreshing.add_done_callback(self._refreshed)
        await asyncio.shield(self._refreshing)

    def _refreshed(self, done: "asyncio.Future[None]") -> None:
        self._refreshing = None
        if not done.cancelled():
            done.exception()  # seen here, also where nobody waits any more

    def failure(self, error: Exception, integration: str) -> SluiceError | None:
        """Returns what an exception of the library means; None if it is none of its own."""
        if self._errors is None or not isinstance(error, self._errors.GoogleAuthError):
            return None
        metadata = {"provider": integration}
        if isinstance(error, self._errors.TransportError):
            what = f"the server that gives out tokens for {integration} cannot be reached"
            return make_error(ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE, what, metadata=metadata)
        what = f"no token was given out for {integration}; check its credentials"
        return make_error(ErrorReason.ERROR_REASON_UPSTREAM_AUTHENTICATION, what, metadata=metadata)
