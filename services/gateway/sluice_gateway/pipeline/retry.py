"""Retry: which failures another attempt may mend, and when it may begin."""

import random
from collections.abc import Callable
from typing import Final

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_gateway.config import RetryConfig
from sluice_kit.errors import SluiceError

_R = ErrorReason
FALL_BACK_ON: Final = frozenset(
    {
        _R.ERROR_REASON_SERVICE_UNREACHABLE,
        _R.ERROR_REASON_DRAINING,
        _R.ERROR_REASON_TOO_MANY_IN_FLIGHT,
        _R.ERROR_REASON_INTEGRATION_MISCONFIGURED,
        _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
        _R.ERROR_REASON_UPSTREAM_RATE_LIMITED,
        _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        _R.ERROR_REASON_UPSTREAM_OVERLOADED,
        _R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
        _R.ERROR_REASON_UPSTREAM_TIMEOUT,
        _R.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
        _R.ERROR_REASON_EMPTY_RESPONSE,
        _R.ERROR_REASON_OUTPUT_INVALID,
        _R.ERROR_REASON_MODEL_NOT_FOUND,
        _R.ERROR_REASON_INTERNAL,
    }
)
"""These lead to the next target. What the request itself is at fault for, or what a vendor refuses on purpose, would be
refused elsewhere too, or must not be evaded."""
_RETRY_ON: Final = frozenset(
    {
        _R.ERROR_REASON_SERVICE_UNREACHABLE,
        _R.ERROR_REASON_DRAINING,
        _R.ERROR_REASON_UPSTREAM_OVERLOADED,
        _R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
        _R.ERROR_REASON_OUTPUT_INVALID,
    }
)
"""These pass. The same target is tried again first: it is the one that was asked for."""
_RETRY_WHEN_TOLD: Final = frozenset({_R.ERROR_REASON_TOO_MANY_IN_FLIGHT, _R.ERROR_REASON_UPSTREAM_RATE_LIMITED})
"""A limit that is used up is tried again only where its owner says when."""
_RESUME_ON: Final = _RETRY_ON | {
    _R.ERROR_REASON_UPSTREAM_TIMEOUT,
    _R.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
}
"""In the midst of an answer these pass, too: the target did answer, and its stream broke or stuck."""
UNAVAILABLE: Final = frozenset(
    {
        _R.ERROR_REASON_SERVICE_UNREACHABLE,
        _R.ERROR_REASON_DRAINING,
        _R.ERROR_REASON_INTEGRATION_MISCONFIGURED,
        _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
        _R.ERROR_REASON_CIRCUIT_OPEN,
    }
)
"""With these nobody can use a target, whatever is asked of it: what the default model is for."""
LEAST_SECONDS: Final = 0.05
"""No attempt starts with less time left than this: it could not use it."""


def wait_before_retry(
    config: RetryConfig,
    retries: int,
    failure: SluiceError,
    tried: int,
    *,
    midstream: bool = False,
    draw: Callable[[], float] = random.random,
) -> float | None:
    """Returns the seconds to wait before the same target is tried again; None if it is not.

    `retries` is how often it may be, `tried` how often it was. The wait is drawn between nothing and a limit that
    doubles each time ("full jitter": callers that failed together do not come back together), and begins where the
    target's own RetryInfo ends. A wait longer than the configured one is no wait but a failure.
    """
    if tried >= retries or "finish" in failure.metadata:  # what was cut off at its limit would be again
        return None
    told = failure.retry_after
    if failure.reason not in (_RESUME_ON if midstream else _RETRY_ON) and not (
        failure.reason in _RETRY_WHEN_TOLD and told is not None
    ):
        return None
    limit = min(config.initial_seconds * 2.0**tried, config.max_seconds)
    wait = draw() * limit
    if told is not None:
        if told > config.max_seconds:
            return None
        wait += told
    return wait
