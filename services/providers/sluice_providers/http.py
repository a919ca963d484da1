"""The way to a vendor over HTTP: one pool of kept-alive connections for each integration, and errors by status.

Redirects are refused, because they would carry the key elsewhere; nothing is retried (aiohttp sends a GET again whose
kept connection ended before a reply began, and nothing else); the environment's proxies are not used, only a configured
one. Cancelling the task that reads a reply closes its connection at once.
"""

import asyncio
import contextlib
import functools
import io
import select
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, Self
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.connector import Connection

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import Reason, SluiceError, make_error
from sluice_kit.secrets import Secret
from sluice_providers import base
from sluice_providers.failures import protocol_error, vendor_failure
from sluice_providers.tracing import vendor_headers

_MAX_ERROR_BYTES: Final = 64 * 1024
_ERROR_SECONDS: Final = 5.0
"""How long the body of a refusal may take: what it means is known by then, and an answer is nothing to wait for."""
_MAX_REPLY_BYTES: Final = 64 * 1024 * 1024
_LARGE_BODY: Final = 1024 * 1024
_KEEPALIVE_SECONDS: Final = 60.0
_END_SECONDS: Final = 0.05
"""How long a finished stream may take to end its framing, so that its connection can serve again."""
_BROKEN: Final = "the reply broke off, or is not encoded as it says"
JSON: Final = "application/json"


class HttpSettings(base.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of every adapter that speaks HTTP."""

    base_url: str = ""
    """Where the vendor's interface starts, e.g. `https://api.openai.com/v1`."""
    api_key: Secret = Secret("")
    """The key. Empty text: none is sent, for servers that want none."""
    connect_seconds: float = 10.0
    """Longest wait for a connection."""
    proxy: Secret | None = None
    """Address of an HTTP proxy, which may hold a password. Unset: none; the environment's are not used."""
    ca_file: str | None = None
    """File of certificate authorities (PEM) to trust instead of the system's."""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    """Further headers of every request, e.g. for a gateway in between. Not for keys: they are no secrets here."""

    def resolved(self, resolve: Callable[[str], Path]) -> Self:
        """Returns the same settings with absolute paths."""
        if self.ca_file is None:
            return self
        return msgspec.structs.replace(self, ca_file=str(resolve(self.ca_file)))


def check_base_url(url: str) -> str:
    """Returns the address without a slash at its end. Raises ValueError if it is none, or holds a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("base_url must be an http or https address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("base_url must hold no credentials, query or fragment")
    return url.rstrip("/")


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Returns what verifies the vendor's certificate. Raises ValueError if the file cannot be used."""
    if ca_file is None:
        return _system_tls()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"ca_file {ca_file} cannot be used: {error.strerror or 'no certificates in it'}") from None


@functools.cache
def _system_tls() -> ssl.SSLContext:
    """The system's authorities, read once: it takes tens of milliseconds and a megabyte."""
    return ssl.create_default_context()


class Explainer(Protocol):
    """Who knows what a vendor's refusals mean: its adapter."""

    CODES: ClassVar[Mapping[str, Reason]]

    def words_of(self, body: Any, headers: Mapping[str, str]) -> tuple[str | None, ...]:
        """Returns what a refusal says by code and type, the most telling first."""

    def reason_of(self, body: Any) -> Reason | None:
        """Returns the reason where only the text of a refusal tells it; else None."""

    def retry_after_of(self, body: Any) -> float | None:
        """Returns the seconds to wait that an error body asks for; None where it asks for none."""


class Reply:
    """A reply of the vendor whose status is 200."""

    __slots__ = ("_integration", "_response", "headers")

    def __init__(self, response: aiohttp.ClientResponse, integration: str) -> None:
        self._response = response
        self._integration = integration
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        """Returns all bytes that have arrived, waiting for at least one; nothing at the end. Raises SluiceError."""
        try:
            return await self._response.content.readany()
        except aiohttp.ClientError:
            raise protocol_error(self._integration, _BROKEN) from None

    async def whole(self) -> bytes:
        """Returns the whole body. Raises SluiceError if it is too long."""
        try:
            return await _read_up_to(self._response, _MAX_REPLY_BYTES, self._integration)
        except aiohttp.ClientError:
            raise protocol_error(self._integration, _BROKEN) from None

    async def finish(self) -> None:
        """Waits a moment for the end of a stream whose last event was read, so that its connection is kept."""
        if not self._response.content.at_eof():
            with contextlib.suppress(TimeoutError, aiohttp.ClientError):
                async with asyncio.timeout(_END_SECONDS):
                    await self._response.content.readany()


class _Connector(aiohttp.TCPConnector):
    """A pool that does not use a connection again on which something came that nobody asked for.

    It would be read as the reply to the next request: an answer to another prompt, perhaps of another caller. aiohttp
    looks for it when a connection comes back to the pool, but not when it leaves it.
    """

    async def _get(self, key: Any, traces: Any) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close and not _has_unread(connection):
                return connection
            connection.close()
        return None


def _has_unread(connection: Connection) -> bool:
    """Returns whether bytes, or the end, of a connection wait in the kernel, where the loop has not read them yet."""
    transport = connection.transport
    if transport is None or transport.is_closing():
        return True
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


class Upstream:
    """The connections to one vendor."""

    def __init__(self, integration: str, settings: HttpSettings, explainer: Explainer) -> None:
        self._integration = integration
        self._settings = settings
        self._explainer = explainer
        self.base_url = check_base_url(settings.base_url)
        self.tls = tls_context(settings.ca_file)
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Makes the pool. It connects when first used."""
        connector = _Connector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS, ssl=self.tls)
        self._session = aiohttp.ClientSession(
            connector=connector,
            # Silence is judged by the attempt's own limits, which know what came before.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Compressed tokens cost time on both sides and save next to nothing.
            headers={"Accept-Encoding": "identity"},
            trust_env=False,
        )

    async def close(self) -> None:
        """Closes every connection."""
        if self._session is not None:
            await self._session.close()

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, accept: str, model: str = ""
    ) -> contextlib.AbstractAsyncContextManager[Reply]:
        """Sends a request and yields its reply, whose status is 200 and whose type is `accept`.

        `path` follows the base address, or is an address of its own. Leaving the block early closes the connection.
        `model` is named in an error that says it is unknown. Raises SluiceError.
        """
        return self.request("POST", path, body, headers, accept=accept, model=model)

    async def fetch(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> Any:
        """Sends a request that is no stream and returns its reply, read as JSON. Raises SluiceError."""
        async with self.request(method, path, body, headers, accept=JSON) as reply:
            try:
                return msgspec.json.decode(await reply.whole())
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise protocol_error(self._integration, "a reply is not the JSON that its format promises") from None

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], *, accept: str, model: str = ""
    ) -> AsyncIterator[Reply]:
        """As `post`, with any method."""
        if self._session is None:
            raise RuntimeError("the adapter was not started")
        proxy = self._settings.proxy
        response = await self._session.request(
            method,
            path if path.startswith(("http://", "https://")) else self.base_url + path,
            # A large one goes out in pieces, so that other attempts have their turn in between.
            data=io.BytesIO(body) if body is not None and len(body) > _LARGE_BODY else body,
            headers={**headers, **told} if (told := vendor_headers.get()) else headers,
            allow_redirects=False,
            proxy=proxy.reveal() if proxy else None,
        )
        done = False
        try:
            if response.status != 200:
                raise await self._refused(response, response.status, model)
            kind = response.content_type
            if kind != accept:
                if kind == JSON:
                    # Some report an error with status 200, as plain JSON instead of a stream.
                    raise await self._refused(response, None, model)
                raise protocol_error(self._integration, f"the reply is not {accept}")
            yield Reply(response, self._integration)
            done = True
        finally:
            if done:
                response.release()
            else:
                response.close()

    async def _refused(self, response: aiohttp.ClientResponse, status: int | None, model: str) -> SluiceError:
        """Returns the error of a reply that is none of the kind asked for."""
        body: Any = None
        unreadable = (SluiceError, TimeoutError, aiohttp.ClientError, msgspec.DecodeError, UnicodeDecodeError)
        with contextlib.suppress(*unreadable, RecursionError):
            # Without a readable body the status alone tells.
            async with asyncio.timeout(_ERROR_SECONDS):
                data = await _read_up_to(response, _MAX_ERROR_BYTES, self._integration)
            body = msgspec.json.decode(data)
        if status is None and not (isinstance(body, dict) and body.get("error")):
            return protocol_error(self._integration, "the reply is no stream")
        return vendor_failure(
            self._integration,
            status=status,
            words=self._explainer.words_of(body, response.headers),
            codes=self._explainer.CODES,
            headers=response.headers,
            model=model,
            reason=self._explainer.reason_of(body),
            seconds=self._explainer.retry_after_of(body),
        )

    def failure(self, error: Exception) -> SluiceError | None:
        """Returns what an exception of aiohttp means; None if it is none."""
        name = self._integration
        if not isinstance(error, aiohttp.ClientError):
            return None
        if isinstance(error, aiohttp.ServerTimeoutError):
            return make_error(
                ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT,
                f"{name} could not be reached within {self._settings.connect_seconds:g} s",
                metadata={"provider": name, "limit": "connect"},
            )
        if isinstance(error, aiohttp.ClientHttpProxyError):
            what = f"the proxy in front of {name} refused the connection"
        elif isinstance(error, aiohttp.ClientSSLError):
            what = f"no secure connection to {name}: its certificate or protocol was not accepted"
        elif isinstance(error, aiohttp.ClientConnectorError):
            what = f"{name} cannot be reached"
        elif isinstance(error, aiohttp.ClientConnectionError):
            what = f"{name} closed the connection"
        else:
            return protocol_error(name, "the reply is not HTTP as it should be")
        return make_error(ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE, what, metadata={"provider": name})


async def _read_up_to(response: aiohttp.ClientResponse, limit: int, integration: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            raise protocol_error(integration, f"the reply is longer than {limit} bytes")
    return b"".join(parts)


def sdk_transport(upstream: Upstream, settings: HttpSettings) -> dict[str, Any]:
    """Returns the arguments that give a vendor SDK's own HTTP client the same rules."""
    return {
        "verify": upstream.tls,
        "proxy": settings.proxy.reveal() if settings.proxy else None,
        "trust_env": False,
        "follow_redirects": False,
    }


def printable_header(value: str | None) -> str:
    """Returns a vendor's header fit for an event: printable, and not longer than an id."""
    return value[:128] if value is not None and value.isascii() and value.isprintable() else ""
