"""How a vendor's failure becomes one of ours: by HTTP status, by the vendor's own type or code, by exception type.

Never by message text, and never with it: a vendor's words may quote prompts and keys, so neither statuses nor logs
carry them.
"""

import email.utils
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import Reason, SluiceError, make_error

_R = ErrorReason
_MAX_RETRY_AFTER: Final = 24 * 3600.0

STATUS: Final[Mapping[int, Reason]] = {
    401: _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
    402: _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
    403: _R.ERROR_REASON_UPSTREAM_PERMISSION,
    404: _R.ERROR_REASON_MODEL_NOT_FOUND,
    407: _R.ERROR_REASON_INTEGRATION_MISCONFIGURED,
    408: _R.ERROR_REASON_UPSTREAM_TIMEOUT,
    413: _R.ERROR_REASON_CONTEXT_TOO_LONG,
    429: _R.ERROR_REASON_UPSTREAM_RATE_LIMITED,
    504: _R.ERROR_REASON_UPSTREAM_TIMEOUT,
    524: _R.ERROR_REASON_UPSTREAM_TIMEOUT,
    529: _R.ERROR_REASON_UPSTREAM_OVERLOADED,
}
"""What a status means without more; the rest by its hundreds."""

_MESSAGES: Final[Mapping[Reason, str]] = {
    _R.ERROR_REASON_INTEGRATION_MISCONFIGURED: "cannot be reached as configured; check base_url and proxy",
    _R.ERROR_REASON_MODEL_NOT_FOUND: "knows no such model",
    _R.ERROR_REASON_UPSTREAM_AUTHENTICATION: "refused the credential; check the integration's key",
    _R.ERROR_REASON_UPSTREAM_PERMISSION: "does not allow this use of the credential",
    _R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT: "refused the contents of the request",
    _R.ERROR_REASON_CONTEXT_TOO_LONG: "says that the prompt does not fit the model",
    _R.ERROR_REASON_CONTENT_FILTERED: "withheld the answer by its content policy",
    _R.ERROR_REASON_UPSTREAM_RATE_LIMITED: "asks to slow down",
    _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED: "says that the account has no quota or credit left",
    _R.ERROR_REASON_UPSTREAM_OVERLOADED: "says that it is overloaded",
    _R.ERROR_REASON_UPSTREAM_UNAVAILABLE: "answered with a server error",
    _R.ERROR_REASON_UPSTREAM_TIMEOUT: "says that its own time-out passed",
    _R.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR: "broke the format of its own replies",
}


class VendorError(Exception):
    """The vendor reported an error inside a reply of status 200. `body` is what it sent, or its error object."""

    def __init__(self, body: Any) -> None:
        super().__init__("the vendor reported an error")
        self.body = body


def by_status(status: int) -> Reason:
    """Returns what an HTTP status means when the vendor says no more."""
    reason = STATUS.get(status)
    if reason is not None:
        return reason
    if status >= 500:
        return _R.ERROR_REASON_UPSTREAM_UNAVAILABLE
    if status >= 400:
        return _R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT
    if status < 300:
        # A success of another kind than the one that the format has: no reply to what was asked.
        return _R.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR
    # Redirects are not followed: they would carry the key to another place.
    return _R.ERROR_REASON_INTEGRATION_MISCONFIGURED


def vendor_failure(
    integration: str,
    *,
    status: int | None,
    words: tuple[str | None, ...] = (),
    codes: Mapping[str, Reason] | None = None,
    headers: Mapping[str, str] | None = None,
    model: str = "",
    reason: Reason | None = None,
    seconds: float | None = None,
) -> SluiceError:
    """Returns the error for a failure that the vendor reported.

    `status` is None for an error inside a stream. `words` are the vendor's codes and types, the most telling first,
    looked up in `codes`. `headers` may hold Retry-After, `seconds` is the same from elsewhere. `reason` is what the
    adapter knows better.
    """
    known = codes or {}
    reason = reason or next((known[word] for word in words if word is not None and word in known), None)
    if reason is None:
        reason = by_status(status) if status is not None else _R.ERROR_REASON_UPSTREAM_UNAVAILABLE
    where = f" (HTTP {status})" if status is not None else ", in the middle of its answer"
    metadata = {"provider": integration}
    if model and reason == _R.ERROR_REASON_MODEL_NOT_FOUND:
        metadata["model"] = f"{integration}/{model}"
    return make_error(
        reason,
        f"{integration} {_MESSAGES[reason]}{where}",
        metadata=metadata,
        retry_after=_clamped(seconds) if seconds is not None else retry_after(headers or {}),
    )


def protocol_error(integration: str, what: str) -> SluiceError:
    """Returns the error for a reply that breaks the vendor's own format."""
    return make_error(
        _R.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR, f"{integration}: {what}", metadata={"provider": integration}
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Returns the seconds that `Retry-After` asks for (RFC 9110: seconds or a date), or `Retry-After-Ms`."""
    try:
        milliseconds = headers.get("retry-after-ms")
        if milliseconds is not None:
            return _clamped(float(milliseconds) / 1000)
    except ValueError:
        pass  # not a number: the other header may still tell
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return _clamped(float(value))
    except ValueError:
        pass  # then it is a date
    try:
        return _clamped(email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _clamped(seconds: float) -> float | None:
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER) if seconds == seconds else None  # NaN is unequal to itself


def error_words(body: Any) -> tuple[str | None, ...]:
    """Returns what an error body says by code and type, the most telling first: the OpenAI and the Anthropic form."""
    error = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return ()
    details = error.get("details")
    inner = details.get("error_code") if isinstance(details, dict) else None
    return tuple(str(word) for word in (inner, error.get("code"), error.get("type")) if word is not None)


def from_exception(error: Exception, integration: str) -> SluiceError | None:
    """Returns what an exception means that any adapter may meet; None if it is none of those."""
    if isinstance(error, msgspec.DecodeError):
        return protocol_error(integration, "a reply is not the JSON that its format promises")
    if isinstance(error, UnicodeDecodeError):
        return protocol_error(integration, "a reply is not UTF-8")
    if isinstance(error, TimeoutError):
        return make_error(
            _R.ERROR_REASON_UPSTREAM_TIMEOUT,
            f"{integration} did not answer in time",
            metadata={"provider": integration, "limit": "connect"},
        )
    if isinstance(error, ConnectionError):
        return make_error(
            _R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
            f"the connection to {integration} broke",
            metadata={"provider": integration},
        )
    return None
