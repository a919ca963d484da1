"""The one table of errors: complete, consistent, and the same on both sides of the wire."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError, Metadata

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit import errors
from sluice_kit.errors import FieldViolation, SluiceError, from_status, make_error, to_status

REASONS = [number for number in ErrorReason.values() if number != 0]


def test_every_reason_has_a_row() -> None:
    assert set(errors.TABLE) == set(REASONS)


@pytest.mark.parametrize("reason", REASONS, ids=[errors.reason_name(reason) for reason in REASONS])
def test_the_contract_says_what_the_table_says(reason: "ErrorReason.ValueType") -> None:
    """The comment above each value names its code and whether it is retryable; readers rely on it."""
    comment = _comments()[ErrorReason.Name(reason)]
    row = errors.TABLE[reason]
    assert f"Code {row.code.name}," in comment
    assert ("not retryable" not in comment) == row.retryable
    assert f'"reason": "{errors.reason_name(reason)}"' in comment


def _comments() -> dict[str, str]:
    from pathlib import Path

    text = Path(__file__).parents[3] / "protos/sluice/error/v1/error_reason.proto"
    found: dict[str, str] = {}
    comment: list[str] = []
    for line in text.read_text().splitlines():
        stripped = line.strip()
        if stripped.startswith("//"):
            comment.append(stripped.removeprefix("//").strip())
        else:
            if stripped.startswith("ERROR_REASON_"):
                found[stripped.split()[0]] = " ".join(comment)
            comment = []
    return found


@pytest.mark.parametrize("reason", REASONS, ids=[errors.reason_name(reason) for reason in REASONS])
def test_a_failure_survives_the_wire(reason: "ErrorReason.ValueType") -> None:
    sent = make_error(
        reason,
        "what to do",
        retry_after=1.5,
        metadata={"resource": "corpora/x"},
        violations=[FieldViolation("spec.model", "too long")],
    )
    sent.help_url = "https://example.org/help"
    got = from_status(to_status(sent))
    assert type(got) is type(sent) is errors.TABLE[reason].exception
    assert (got.reason, got.message, got.retry_after, got.metadata) == (reason, "what to do", 1.5, sent.metadata)
    assert got.violations == sent.violations
    assert got.help_url == sent.help_url
    assert got.code == errors.TABLE[reason].code


def test_a_status_stays_small_enough_to_be_delivered() -> None:
    violations = [FieldViolation(f"spec.messages[{number}].parts", "x" * 500) for number in range(500)]
    metadata = {f"key{number}": "v" * 1000 for number in range(4)}
    status = to_status(errors.InvalidRequestError("m" * 100_000, metadata=metadata, violations=violations))
    assert status.ByteSize() <= errors.MAX_STATUS_BYTES
    assert from_status(status).violations  # some are left, so the caller sees where to begin


def test_a_newer_reason_is_known_by_its_code() -> None:
    status = status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="later")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="FROM_THE_FUTURE", domain=errors.DOMAIN))
    assert isinstance(from_status(status), errors.UnavailableError)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineError),
        (grpc.StatusCode.CANCELLED, errors.CancelledByOwnerError),
        (grpc.StatusCode.UNKNOWN, errors.InternalError),
    ],
)
def test_a_failure_of_grpc_itself(code: grpc.StatusCode, kind: type[SluiceError]) -> None:
    error = AioRpcError(code, Metadata(), Metadata(), details="failed to connect to ipv4:10.0.0.1:7")
    assert type(errors.from_rpc_error(error)) is kind


@pytest.mark.parametrize("words", ["CLIENT: Sent", "SERVER: Received"])
def test_a_message_that_is_too_large_is_no_limit_that_passes(words: str) -> None:
    details = f"{words} message larger than max (40000000 vs. 33554432)"
    error = AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, Metadata(), Metadata(), details=details)
    failure = errors.from_rpc_error(error, "gateway")
    assert (failure.reason_name, failure.retryable) == ("INVALID_REQUEST", False)
    assert "40000000" in failure.message
    assert "33554432" in failure.message


def test_an_unreachable_service_is_named_and_its_address_is_not() -> None:
    error = AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), details="connect to ipv4:10.0.0.1:7")
    failure = errors.from_rpc_error(error, "retrieval")
    assert failure.metadata == {"service": "retrieval"}
    assert "10.0.0.1" not in failure.message
