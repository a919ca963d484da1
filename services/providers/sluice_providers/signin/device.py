"""The OAuth 2.0 device flow (RFC 8628): a person types a code into a browser anywhere, and we get a token.

Several servers, GitHub's among them, report the states of the flow with status 200, others with 400 as the RFC has it:
the word in `error` counts, not the status. What is shown to the person is checked first, because it is the vendor's.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1.sign_in_pb2 import SignInChallenge
from sluice_kit.errors import Reason, SluiceError, make_error
from sluice_providers.failures import protocol_error, vendor_failure

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:device_code"
_DEFAULT_INTERVAL: Final = 5.0
_SLOW_DOWN: Final = 5.0
"""Seconds that each `slow_down` adds to the interval."""
_MAX_INTERVAL: Final = 60.0
"""Longest wait between two tries when the server does not answer."""
_MAX_LIFE: Final = 3600.0
"""Longest that a code is waited for, whatever the server says."""
_REQUEST_SECONDS: Final = 30.0
_MAX_REPLY_BYTES: Final = 64 * 1024
_MAX_CODE_CHARS: Final = 64
_MAX_ADDRESS_CHARS: Final = 2000
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_R = ErrorReason

_ENDS: Final[Mapping[str, tuple[Reason, str]]] = {
    "access_denied": (_R.ERROR_REASON_UPSTREAM_PERMISSION, "the sign-in was declined"),
    "expired_token": (_R.ERROR_REASON_UPSTREAM_TIMEOUT, "nobody consented before the code expired; sign in again"),
    "device_flow_disabled": (
        _R.ERROR_REASON_INTEGRATION_MISCONFIGURED,
        "the OAuth app of client_id does not allow the device flow",
    ),
    "incorrect_client_credentials": (_R.ERROR_REASON_INTEGRATION_MISCONFIGURED, "client_id is not known there"),
    "invalid_client": (_R.ERROR_REASON_INTEGRATION_MISCONFIGURED, "client_id is not known there"),
    "unauthorized_client": (_R.ERROR_REASON_INTEGRATION_MISCONFIGURED, "client_id may not use the device flow"),
    "invalid_scope": (_R.ERROR_REASON_INTEGRATION_MISCONFIGURED, "the scope is not accepted"),
}
"""How a flow ends without a token."""


def is_safe_address(url: str) -> bool:
    """Tells whether what an address leads to cannot be read or changed on the way: https, or http on this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.username or parts.password or not (url.isascii() and url.isprintable()) or " " in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)


@dataclass(frozen=True, kw_only=True)
class DeviceFlow:
    """One way to sign in: where, and as which application."""

    integration: str
    client_id: str
    scope: str
    device_url: str
    """Where a code is asked for."""
    token_url: str
    """Where it is asked whether the person has consented."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers of every request."""
    proxy: str | None = field(default=None, repr=False)
    tls: Any = True
    """The `ssl` argument of aiohttp."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic

    async def run(self, show: Callable[[SignInChallenge], Awaitable[None]]) -> str:
        """Shows the challenge, waits for consent and returns the access token.

        Cancelling it ends the waiting. Raises UPSTREAM_PERMISSION if the person declines, UPSTREAM_TIMEOUT if the code
        expires first, INTEGRATION_MISCONFIGURED if the application may not do this, other reasons by HTTP status, and
        aiohttp.ClientError if the server cannot be reached for the code.
        """
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self.tls),
            timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", **self.headers},
            trust_env=False,
        ) as session:
            status, reply = await self._post(
                session, self.device_url, {"client_id": self.client_id, "scope": self.scope}
            )
            if status != 200 or "error" in reply:
                raise self._failed(status, reply)
            challenge, code, life = self._challenge(reply)
            began = self.clock()
            await show(challenge)
            return await self._token(session, code, _seconds(reply.get("interval"), _DEFAULT_INTERVAL), began + life)

    async def _token(self, session: aiohttp.ClientSession, code: str, interval: float, until: float) -> str:
        """Asks until the person has decided."""
        form = {"client_id": self.client_id, "device_code": code, "grant_type": GRANT_TYPE}
        while True:
            left = until - self.clock()
            if left <= 0:
                raise self._error(*_ENDS["expired_token"])
            await self.sleep(min(interval, left))
            try:
                status, reply = await self._post(session, self.token_url, form)
            except (aiohttp.ClientError, TimeoutError):
                # The code stays good while the network is away.
                interval = min(max(2 * interval, 1.0), _MAX_INTERVAL)
                continue
            token = reply.get("access_token")
            if status == 200 and isinstance(token, str) and token:
                return token
            error = reply.get("error")
            if error == "authorization_pending":
                continue
            if error == "slow_down":
                interval = max(interval + _SLOW_DOWN, _seconds(reply.get("interval"), 0.0))
            elif error is None and (status == 429 or status >= 500):
                interval = min(max(2 * interval, 1.0), _MAX_INTERVAL)
            else:
                raise self._failed(status, reply)

    def _challenge(self, reply: Mapping[str, Any]) -> tuple[SignInChallenge, str, float]:
        """Returns what the person must do, the code that stands for it, and the seconds that it is good for."""
        code, user_code, uri = (reply.get(name) for name in ("device_code", "user_code", "verification_uri"))
        if not (isinstance(code, str) and isinstance(user_code, str) and isinstance(uri, str) and code):
            raise protocol_error(self.integration, "no device code in the reply")
        if not (user_code.isascii() and user_code.isprintable() and 0 < len(user_code) <= _MAX_CODE_CHARS):
            raise protocol_error(self.integration, "the code to type is none")
        if not is_safe_address(uri) or len(uri) > _MAX_ADDRESS_CHARS:
            raise protocol_error(self.integration, "the address to open is none")
        life = min(_seconds(reply.get("expires_in"), _MAX_LIFE), _MAX_LIFE)
        challenge = SignInChallenge(verification_uri=uri, user_code=user_code)
        complete = reply.get("verification_uri_complete")
        if isinstance(complete, str) and is_safe_address(complete) and len(complete) <= _MAX_ADDRESS_CHARS:
            challenge.verification_uri_complete = complete
        challenge.expire_time.FromMilliseconds(round((time.time() + life) * 1000))
        return challenge, code, life

    async def _post(
        self, session: aiohttp.ClientSession, url: str, form: Mapping[str, str]
    ) -> tuple[int, dict[str, Any]]:
        """Sends a form and returns the status and the JSON object of the reply; an empty one where it is none."""
        async with session.post(url, data=form, allow_redirects=False, proxy=self.proxy) as response:
            body = b""
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _MAX_REPLY_BYTES:
                    raise protocol_error(self.integration, "the reply to a sign-in is too long")
        try:
            reply = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            reply = None
        return response.status, reply if isinstance(reply, dict) else {}

    def _failed(self, status: int, reply: Mapping[str, Any]) -> SluiceError:
        """Returns what a reply means that is neither a token nor a reason to wait."""
        word = reply.get("error")
        if isinstance(word, str) and word in _ENDS:
            return self._error(*_ENDS[word])
        if status != 200:
            if status == 404:
                # In this place it is no model that is not found.
                return self._error(
                    _R.ERROR_REASON_INTEGRATION_MISCONFIGURED, "there is no sign-in at that address for client_id"
                )
            return vendor_failure(self.integration, status=status)
        return protocol_error(self.integration, "the reply to a sign-in is none that the device flow knows")

    def _error(self, reason: Reason, what: str) -> SluiceError:
        return make_error(reason, f"{self.integration}: {what}", metadata={"provider": self.integration})


def _seconds(value: object, default: float) -> float:
    """Returns a number of seconds as servers write it, at least 0."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return max(0.0, float(value))
    return default
