"""The one table of errors, used by servers and clients alike.

Every failure inside Sluice is a `SluiceError` with a reason of `sluice.error.v1.ErrorReason`. The table gives each
reason its gRPC code, whether the same request may succeed later, and its exception class, so that a caller can catch
by kind:

    SluiceError
    ├── InvalidRequestError     the request itself is at fault; sending it again is useless
    ├── AuthenticationError     no key, or an unknown one
    ├── PermissionDeniedError   known, but not allowed
    ├── NotFoundError           no such resource, model or revision
    ├── ConflictError           the resource is in another state than the request needs
    ├── ConfigurationError      the operator must set or allow something first
    ├── LimitError              a limit or quota is used up
    ├── UnavailableError        something the request needs does not answer now
    ├── DeadlineError           time ran out
    ├── CancelledByOwnerError   the owner ended it
    └── InternalError           a defect in Sluice

On the wire a failure is a google.rpc.Status with google.rpc.ErrorInfo (domain `sluice`), a message a person can act
on, and RetryInfo, BadRequest or Help where they apply: at most 4 KiB, because grpc drops larger trailers.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, TypeAlias, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from sluice.error.v1.error_reason_pb2 import ErrorReason

if TYPE_CHECKING:
    Reason: TypeAlias = ErrorReason.ValueType
    """A value of ErrorReason."""
else:
    Reason = int

DOMAIN = "sluice"
MAX_STATUS_BYTES = 4096
STATUS_DETAILS_KEY = "grpc-status-details-bin"
_PREFIX = "ERROR_REASON_"
_MAX_MESSAGE_CHARS = 1000
_MAX_METADATA_VALUE_CHARS = 256


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that breaks a rule: its path, e.g. `spec.messages[0].role`, and what is wrong."""

    field: str
    description: str


class SluiceError(Exception):
    """A failure with a reason.

    `message` is for people and safe to show: it never holds a secret, a prompt or a vendor's own text.
    `retry_after` is in seconds. `metadata` goes into ErrorInfo.
    """

    default_reason: ClassVar[Reason] = ErrorReason.ERROR_REASON_INTERNAL

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | None = None,
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        help_url: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason: Reason = self.default_reason if reason is None else reason
        self.retry_after = retry_after
        self.metadata: dict[str, str] = dict(metadata or {})
        self.violations = tuple(violations)
        self.help_url = help_url

    @property
    def reason_name(self) -> str:
        """The reason as ErrorInfo spells it, e.g. `MODEL_NOT_FOUND`."""
        return reason_name(self.reason)

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC code of the reason."""
        return TABLE[self.reason].code

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later, unchanged, if no content was delivered."""
        return TABLE[self.reason].retryable

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason_name}: {self.message})"


class InvalidRequestError(SluiceError):
    """The request itself is at fault; sending it again is useless."""

    default_reason = ErrorReason.ERROR_REASON_INVALID_REQUEST


class AuthenticationError(SluiceError):
    """No key, or an unknown one."""

    default_reason = ErrorReason.ERROR_REASON_UNAUTHENTICATED


class PermissionDeniedError(SluiceError):
    """The caller is known, but not allowed."""

    default_reason = ErrorReason.ERROR_REASON_PERMISSION_DENIED


class NotFoundError(SluiceError):
    """No such resource, model or revision."""

    default_reason = ErrorReason.ERROR_REASON_NOT_FOUND


class ConflictError(SluiceError):
    """The resource is in another state than the request needs."""

    default_reason = ErrorReason.ERROR_REASON_ALREADY_EXISTS


class ConfigurationError(SluiceError):
    """The operator must set or allow something first."""

    default_reason = ErrorReason.ERROR_REASON_INTEGRATION_MISCONFIGURED


class LimitError(SluiceError):
    """A limit or quota is used up."""

    default_reason = ErrorReason.ERROR_REASON_TOO_MANY_IN_FLIGHT


class UnavailableError(SluiceError):
    """Something the request needs does not answer now."""

    default_reason = ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE


class DeadlineError(SluiceError):
    """Time ran out."""

    default_reason = ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED


class CancelledByOwnerError(SluiceError):
    """The owner of the call or the response ended it."""

    default_reason = ErrorReason.ERROR_REASON_CANCELLED


class InternalError(SluiceError):
    """A defect in Sluice; the log has the details under the id in the message."""


class Row(NamedTuple):
    """What the table knows of a reason."""

    code: grpc.StatusCode
    retryable: bool
    exception: type[SluiceError]


_C = grpc.StatusCode
_R = ErrorReason
TABLE: Mapping[Reason, Row] = {
    _R.ERROR_REASON_INVALID_REQUEST: Row(_C.INVALID_ARGUMENT, False, InvalidRequestError),
    _R.ERROR_REASON_UNSUPPORTED_OPTION: Row(_C.INVALID_ARGUMENT, False, InvalidRequestError),
    _R.ERROR_REASON_UNAUTHENTICATED: Row(_C.UNAUTHENTICATED, False, AuthenticationError),
    _R.ERROR_REASON_PERMISSION_DENIED: Row(_C.PERMISSION_DENIED, False, PermissionDeniedError),
    _R.ERROR_REASON_NOT_FOUND: Row(_C.NOT_FOUND, False, NotFoundError),
    _R.ERROR_REASON_ALREADY_EXISTS: Row(_C.ALREADY_EXISTS, False, ConflictError),
    _R.ERROR_REASON_REQUEST_ID_REUSED: Row(_C.ALREADY_EXISTS, False, ConflictError),
    _R.ERROR_REASON_UNSUPPORTED_OPERATION: Row(_C.UNIMPLEMENTED, False, InvalidRequestError),
    _R.ERROR_REASON_DEADLINE_EXCEEDED: Row(_C.DEADLINE_EXCEEDED, False, DeadlineError),
    _R.ERROR_REASON_CANCELLED: Row(_C.CANCELLED, False, CancelledByOwnerError),
    _R.ERROR_REASON_TOO_MANY_IN_FLIGHT: Row(_C.RESOURCE_EXHAUSTED, True, LimitError),
    _R.ERROR_REASON_DRAINING: Row(_C.UNAVAILABLE, True, UnavailableError),
    _R.ERROR_REASON_SERVICE_UNREACHABLE: Row(_C.UNAVAILABLE, True, UnavailableError),
    _R.ERROR_REASON_INTERNAL: Row(_C.INTERNAL, False, InternalError),
    _R.ERROR_REASON_MODEL_NOT_FOUND: Row(_C.NOT_FOUND, False, NotFoundError),
    _R.ERROR_REASON_INTEGRATION_MISCONFIGURED: Row(_C.FAILED_PRECONDITION, False, ConfigurationError),
    _R.ERROR_REASON_UPSTREAM_AUTHENTICATION: Row(_C.FAILED_PRECONDITION, False, ConfigurationError),
    _R.ERROR_REASON_UPSTREAM_PERMISSION: Row(_C.FAILED_PRECONDITION, False, ConfigurationError),
    _R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT: Row(_C.INVALID_ARGUMENT, False, InvalidRequestError),
    _R.ERROR_REASON_CONTEXT_TOO_LONG: Row(_C.INVALID_ARGUMENT, False, InvalidRequestError),
    _R.ERROR_REASON_CONTENT_FILTERED: Row(_C.FAILED_PRECONDITION, False, InvalidRequestError),
    _R.ERROR_REASON_UPSTREAM_RATE_LIMITED: Row(_C.RESOURCE_EXHAUSTED, True, LimitError),
    _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED: Row(_C.RESOURCE_EXHAUSTED, False, LimitError),
    _R.ERROR_REASON_UPSTREAM_OVERLOADED: Row(_C.UNAVAILABLE, True, UnavailableError),
    _R.ERROR_REASON_UPSTREAM_UNAVAILABLE: Row(_C.UNAVAILABLE, True, UnavailableError),
    _R.ERROR_REASON_UPSTREAM_TIMEOUT: Row(_C.UNAVAILABLE, True, UnavailableError),
    _R.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR: Row(_C.UNAVAILABLE, True, UnavailableError),
    _R.ERROR_REASON_EMPTY_RESPONSE: Row(_C.UNAVAILABLE, True, UnavailableError),
    _R.ERROR_REASON_CIRCUIT_OPEN: Row(_C.UNAVAILABLE, True, UnavailableError),
    _R.ERROR_REASON_OUTPUT_INVALID: Row(_C.UNAVAILABLE, True, UnavailableError),
    _R.ERROR_REASON_RESPONSE_LOST: Row(_C.ABORTED, False, ConflictError),
    _R.ERROR_REASON_RESUME_WINDOW_EXPIRED: Row(_C.OUT_OF_RANGE, False, NotFoundError),
    _R.ERROR_REASON_WATCHER_STALLED: Row(_C.ABORTED, True, LimitError),
    _R.ERROR_REASON_GROUNDING_UNAVAILABLE: Row(_C.UNAVAILABLE, True, UnavailableError),
    _R.ERROR_REASON_CORPUS_NOT_READY: Row(_C.FAILED_PRECONDITION, False, ConflictError),
    _R.ERROR_REASON_CORPUS_BUSY: Row(_C.ABORTED, True, ConflictError),
    _R.ERROR_REASON_SOURCE_NOT_ALLOWED: Row(_C.PERMISSION_DENIED, False, PermissionDeniedError),
    _R.ERROR_REASON_SOURCE_UNREADABLE: Row(_C.FAILED_PRECONDITION, False, ConfigurationError),
    _R.ERROR_REASON_SOURCE_LIMIT_EXCEEDED: Row(_C.FAILED_PRECONDITION, False, LimitError),
    _R.ERROR_REASON_STORE_UNAVAILABLE: Row(_C.UNAVAILABLE, True, UnavailableError),
    _R.ERROR_REASON_REVISION_EXPIRED: Row(_C.NOT_FOUND, False, NotFoundError),
    _R.ERROR_REASON_CONVERSATION_BUSY: Row(_C.ABORTED, True, ConflictError),
}

# What a status without ErrorInfo means: it was made by grpc itself, not by a Sluice service.
_BARE: Mapping[grpc.StatusCode, Reason] = {
    _C.UNAVAILABLE: _R.ERROR_REASON_SERVICE_UNREACHABLE,
    _C.DEADLINE_EXCEEDED: _R.ERROR_REASON_DEADLINE_EXCEEDED,
    _C.CANCELLED: _R.ERROR_REASON_CANCELLED,
    _C.UNIMPLEMENTED: _R.ERROR_REASON_UNSUPPORTED_OPERATION,
    _C.RESOURCE_EXHAUSTED: _R.ERROR_REASON_TOO_MANY_IN_FLIGHT,
    _C.INVALID_ARGUMENT: _R.ERROR_REASON_INVALID_REQUEST,
    _C.UNAUTHENTICATED: _R.ERROR_REASON_UNAUTHENTICATED,
    _C.PERMISSION_DENIED: _R.ERROR_REASON_PERMISSION_DENIED,
    _C.NOT_FOUND: _R.ERROR_REASON_NOT_FOUND,
}
_TOO_LARGE: Final = re.compile(r"message larger than max \((\d+) vs\. (\d+)\)")
# How grpc's text begins where no connection came about, and what it has where TLS was the reason. A server that refuses
# our certificate does so after our side of the handshake is done, by closing the connection.
_NO_CONNECTION: Final = ("failed to connect to all addresses", "connections to all backends failing")
_TLS_SIGNS: Final = ("Tls handshake failed", "Ssl handshake failed", "Custom verification check")
_CLOSED_SIGNS: Final = ("Secure read failed", "Socket closed", "Connection reset by peer")
_CODE_BY_NUMBER: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def forget_frames(error: BaseException) -> None:
    """Has an exception forget the frames it came through, and what it was raised from.

    For one that is kept. A frame that knows what keeps it is a cycle otherwise, and all that its calls were about, a whole
    answer perhaps, waits for a garbage collection that in a service comes once in hours.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None


def reason_name(reason: Reason) -> str:
    """Returns the reason as ErrorInfo spells it, e.g. `MODEL_NOT_FOUND`."""
    return ErrorReason.Name(reason).removeprefix(_PREFIX)


def make_error(
    reason: Reason,
    message: str,
    *,
    retry_after: float | None = None,
    metadata: Mapping[str, str] | None = None,
    violations: Sequence[FieldViolation] = (),
) -> SluiceError:
    """Returns the exception of the class that the table gives the reason."""
    return TABLE[reason].exception(
        message, reason=reason, retry_after=retry_after, metadata=metadata, violations=violations
    )


def to_status(error: SluiceError) -> status_pb2.Status:
    """Returns the error as the status that goes on the wire, cut to what grpc is sure to deliver."""
    info = error_details_pb2.ErrorInfo(reason=error.reason_name, domain=DOMAIN)
    for key, value in error.metadata.items():
        info.metadata[key] = value[:_MAX_METADATA_VALUE_CHARS]
    number: int = error.code.value[0]
    status = status_pb2.Status(code=number, message=error.message[:_MAX_MESSAGE_CHARS])
    status.details.add().Pack(info)
    if error.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.help_url is not None:
        link = error_details_pb2.Help.Link(description="What to do", url=error.help_url)
        status.details.add().Pack(error_details_pb2.Help(links=[link]))
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            row = bad.field_violations.add(field=violation.field, description=violation.description[:200])
            if bad.ByteSize() + status.ByteSize() > MAX_STATUS_BYTES - 64:
                bad.field_violations.remove(row)
                break
        status.details.add().Pack(bad)
    return status


def from_status(status: status_pb2.Status) -> SluiceError:
    """Returns the exception that a status stands for; the inverse of `to_status`."""
    reason = _BARE.get(_CODE_BY_NUMBER.get(status.code, _C.UNKNOWN), _R.ERROR_REASON_INTERNAL)
    metadata: dict[str, str] = {}
    retry_after: float | None = None
    violations: list[FieldViolation] = []
    help_url: str | None = None
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    bad, more = error_details_pb2.BadRequest(), error_details_pb2.Help()
    for detail in status.details:
        if detail.Unpack(info) and info.domain == DOMAIN:
            # A newer server may know reasons that this client does not; the code still tells the kind.
            named = ErrorReason.DESCRIPTOR.values_by_name.get(_PREFIX + info.reason)
            if named is not None and named.number in TABLE:
                reason = ErrorReason.Value(named.name)
            metadata = dict(info.metadata)
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
        elif detail.Unpack(bad):
            violations = [FieldViolation(row.field, row.description) for row in bad.field_violations]
        elif detail.Unpack(more) and more.links:
            help_url = more.links[0].url
    error = make_error(reason, status.message, retry_after=retry_after, metadata=metadata, violations=violations)
    error.help_url = help_url
    return error


def from_rpc_error(error: grpc.aio.AioRpcError, service: str | None = None) -> SluiceError:
    """Returns the exception that a failed call stands for.

    `service` names the peer for failures that grpc made itself, such as a refused connection.
    """
    for key, value in cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ()):
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    code = error.code()
    reason = _BARE.get(code, _R.ERROR_REASON_INTERNAL)
    if size := _TOO_LARGE.search(error.details() or ""):
        # grpc has the same code for this, but no later try would fare better.
        return InvalidRequestError(f"a message of {size[1]} bytes is larger than the {size[2]} that are allowed")
    why = _tls_failure(error.details() or "")
    if service is not None and reason == _R.ERROR_REASON_SERVICE_UNREACHABLE:
        # grpc's own text names addresses of the inside, so it is not passed on.
        return make_error(reason, f"the {service} service does not answer{why}", metadata={"service": service})
    if why:
        return make_error(reason, f"no connection{why}")
    return make_error(reason, error.details() or code.name)


def _tls_failure(details: str) -> str:
    """Returns what a failed TLS handshake means; empty for other failures. grpc says it by its text alone."""
    if not details.startswith(_NO_CONNECTION):
        return ""
    if "Hostname Verification" in details:
        return ": TLS failed, its certificate is another service's"
    if any(sign in details for sign in _TLS_SIGNS):
        return ": TLS failed, its certificate is not accepted, or it does no TLS"
    if any(sign in details for sign in _CLOSED_SIGNS):
        return ": it closes the connection, as where TLS fails because it refuses our certificate or we have none"
    return ""


def internal_error(error_id: str) -> InternalError:
    """Returns what a caller may know of a defect: the id under which the log has the rest."""
    return InternalError(
        f"internal error {error_id}; the service's log has the details", metadata={"error_id": error_id}
    )


def ok_status() -> status_pb2.Status:
    """Returns the status of success."""
    return status_pb2.Status(code=code_pb2.OK)
