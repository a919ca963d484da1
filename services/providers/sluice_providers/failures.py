"""How a vendor's failure becomes one of ours: by HTTP status, by the vendor's own type or code, by exception type.

Never by message text, and never with it: a vendor's words may quote prompts and keys, so neither statuses nor logs
carry them.
"""

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import SluiceError, make_error


def from_exception(error: Exception, integration: str) -> SluiceError | None:
    """Returns what an exception of the HTTP or JSON libraries means; None if it is none of those."""
    if isinstance(error, TimeoutError):
        return make_error(ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT, f"{integration} did not answer in time")
    return None
