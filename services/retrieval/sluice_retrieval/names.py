"""Resource names, page tokens and other small texts on the wire."""

import base64
import hashlib
import time
from typing import Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import NotFoundError, SluiceError, make_error
from sluice_kit.rpc import invalid_field

CORPORA: Final = "corpora/"
TASK_OWNER: Final = "ret"
"""The part of a task's name by which the gateway knows that this service runs it."""
DEFAULT_PAGE: Final = 100


def corpus_name(corpus_id: str) -> str:
    """Returns the resource name of a corpus."""
    return CORPORA + corpus_id


def corpus_id_of(name: str) -> str:
    """Returns the id in the resource name of a corpus, which the contract's rules have checked."""
    return name.removeprefix(CORPORA)


def not_found(resource: str) -> NotFoundError:
    """Returns the error for a resource that this tenant does not have."""
    return NotFoundError(f"there is no {resource}", metadata={"resource": resource})


def request_id_reused() -> SluiceError:
    """Returns the error for a request_id that came with other contents before."""
    return make_error(
        ErrorReason.ERROR_REASON_REQUEST_ID_REUSED, "this request_id was used before, for a request with other contents"
    )


def fingerprint(request: Message) -> str:
    """Returns a digest of a request without its id, by which a repeat is told from another request."""
    copy = type(request)()
    copy.CopyFrom(request)
    copy.ClearField("request_id")
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).hexdigest()


def encode_page(key: str) -> str:
    """Returns the token of the page that begins after a key."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decode_page(token: str) -> str:
    """Returns the key in a page token. Raises InvalidRequestError for one that is not ours."""
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        raise invalid_field("page_token", "not a token of an earlier response") from None


def timestamp(seconds: float) -> Timestamp:
    """Returns a time in seconds since 1970 as its message."""
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def now() -> float:
    """Returns the time in seconds since 1970."""
    return time.time()
