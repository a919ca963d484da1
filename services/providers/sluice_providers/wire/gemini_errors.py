"""What Google's refusals say: a word for the status, and typed details beside it."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import Reason

_R = ErrorReason
_PER_DAY: Final = "PerDay"
"""Stands in the id of a quota that is full until tomorrow; the others fill up again within a minute."""
_TOO_LONG: Final = ("exceeds the maximum number of tokens", "model only supports up to")

CODES: Final[Mapping[str, Reason]] = {
    # Reasons in the details, which are more telling than the status.
    "ACCESS_TOKEN_EXPIRED": _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": _R.ERROR_REASON_UPSTREAM_PERMISSION,
    "API_KEY_INVALID": _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
    "BILLING_DISABLED": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
    "RATE_LIMIT_EXCEEDED": _R.ERROR_REASON_UPSTREAM_RATE_LIMITED,
    _PER_DAY: _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
    # Statuses.
    "ABORTED": _R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
    "CANCELLED": _R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
    "DEADLINE_EXCEEDED": _R.ERROR_REASON_UPSTREAM_TIMEOUT,
    # Documented for places where the service is not offered, or not without a bill.
    "FAILED_PRECONDITION": _R.ERROR_REASON_UPSTREAM_PERMISSION,
    "INTERNAL": _R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
    "INVALID_ARGUMENT": _R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT,
    "NOT_FOUND": _R.ERROR_REASON_MODEL_NOT_FOUND,
    "OUT_OF_RANGE": _R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT,
    "PERMISSION_DENIED": _R.ERROR_REASON_UPSTREAM_PERMISSION,
    "RESOURCE_EXHAUSTED": _R.ERROR_REASON_UPSTREAM_RATE_LIMITED,
    "UNAUTHENTICATED": _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
    "UNAVAILABLE": _R.ERROR_REASON_UPSTREAM_OVERLOADED,
    "UNIMPLEMENTED": _R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT,
}


def words(body: Any) -> tuple[str, ...]:
    """Returns what an error says, the most telling first: a daily quota, the reasons of its details, its status."""
    error = _error(body)
    details = list(_details(error))
    quotas = [
        str(violation.get("quotaId"))
        for detail in details
        for violation in _list(detail.get("violations"))
        if isinstance(violation, dict)
    ]
    daily = (_PER_DAY,) if any(_PER_DAY in quota for quota in quotas) else ()
    reasons = tuple(str(detail["reason"]) for detail in details if "reason" in detail)
    return (*daily, *reasons, str(error.get("status", "")))


def retry_delay(body: Any) -> float | None:
    """Returns the seconds that an error asks to wait, written like `7.5s`."""
    for detail in _details(_error(body)):
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and delay.endswith("s"):
            try:
                return float(delay[:-1])
            except ValueError:
                return None
    return None


def says_too_long(body: Any) -> bool:
    """Tells whether the prompt did not fit the model. The vendor has no code for it: an argument is invalid, in words."""
    error = _error(body)
    text = str(error.get("message", ""))
    return error.get("status") == "INVALID_ARGUMENT" and any(sign in text for sign in _TOO_LONG)


def _error(body: Any) -> dict[str, Any]:
    """Returns the error of a body; streams that never began hold it in a list."""
    first = body[0] if isinstance(body, list) and body else body
    error = first.get("error") if isinstance(first, dict) else None
    return error if isinstance(error, dict) else {}


def _details(error: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (detail for detail in _list(error.get("details")) if isinstance(detail, dict))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
