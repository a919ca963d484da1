"""`UsageService`: what was used and what it cost."""

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from google.protobuf.timestamp_pb2 import Timestamp

from sluice.auth.v1.identity_pb2 import Role
from sluice.chat.v1.usage_pb2 import Usage, UsageSource
from sluice.gateway.v1 import usage_service_pb2 as pb
from sluice_gateway.records.usage import DIMENSIONS, PERIODS, SOURCES, Place, Query, Sums, UsageReader
from sluice_gateway.services.paging import decode_token, encode_token
from sluice_gateway.services.storable import check_texts
from sluice_kit.call import Call
from sluice_kit.errors import PermissionDeniedError
from sluice_kit.identity import has_role
from sluice_kit.rpc import invalid_field

if TYPE_CHECKING:
    from sluice.gateway.v1.usage_service_pb2 import UsageOperation

_DEFAULT_PAGE: Final = 100
_DAY_SECONDS: Final = 86_400
_DEFAULT_DAYS: Final = 30
_MAX_DAYS: Final = 3660
_SOURCE_OF: Final = {
    "provider": UsageSource.USAGE_SOURCE_PROVIDER,
    "estimated": UsageSource.USAGE_SOURCE_ESTIMATED,
    "partial": UsageSource.USAGE_SOURCE_PARTIAL,
}
_WEAKEST_FIRST: Final = ("partial", "estimated", "provider")
_OPERATIONS: "Final[Mapping[str, UsageOperation.ValueType]]" = {
    "chat": pb.UsageOperation.USAGE_OPERATION_CHAT,
    "embed": pb.UsageOperation.USAGE_OPERATION_EMBED,
    "rerank": pb.UsageOperation.USAGE_OPERATION_RERANK,
}


class UsageService:
    """Implements sluice.gateway.v1.UsageService."""

    def __init__(self, reader: UsageReader) -> None:
        self._reader = reader

    async def QueryUsage(self, request: pb.QueryUsageRequest, call: Call) -> pb.QueryUsageResponse:
        question = _question(request)
        check_texts("label_keys", request.label_keys)
        start_ns, end_ns, after = _read_token(request, question) if request.page_token else (*_range(request), None)
        every_tenant = pb.UsageDimension.USAGE_DIMENSION_TENANT in request.group_by
        if every_tenant and not has_role(call.identity, Role.ROLE_ADMIN):
            raise PermissionDeniedError("the usage of other tenants needs the role ADMIN", metadata={"role": "ADMIN"})
        query = Query(
            start_ns,
            end_ns,
            tenant=None if every_tenant else call.tenant,
            period=PERIODS[request.granularity],
            dimensions=tuple(DIMENSIONS[number - 1] for number in sorted(request.group_by)),
            label_keys=tuple(request.label_keys),
        )
        size = request.page_size or _DEFAULT_PAGE
        rows = await self._reader.rows(query, after, size + 1)
        response = pb.QueryUsageResponse(rows=[_row(sums, query) for sums in rows[:size]])
        if len(rows) > size:
            response.next_page_token = _token(question, query, rows[size - 1].place)
        if not request.page_token:
            response.totals.CopyFrom(_figures((await self._reader.totals(query)).numbers))
        response.start_time.FromNanoseconds(start_ns)
        response.end_time.FromNanoseconds(end_ns)
        return response


def _range(request: pb.QueryUsageRequest) -> tuple[int, int]:
    end = _nanoseconds(request.end_time, "end_time") if request.HasField("end_time") else time.time_ns()
    default = max(0, end - _DEFAULT_DAYS * _DAY_SECONDS * 10**9)
    start = _nanoseconds(request.start_time, "start_time") if request.HasField("start_time") else default
    if start >= end:
        raise invalid_field("end_time", "must be after start_time")
    if end - start > _MAX_DAYS * _DAY_SECONDS * 10**9:
        raise invalid_field("end_time", f"must be at most {_MAX_DAYS} days after start_time")
    return start, end


def _nanoseconds(moment: Timestamp, field: str) -> int:
    nanoseconds = moment.ToNanoseconds()
    # What keys can hold: up to the year 2248.
    if not 0 <= nanoseconds < 2**63 - 2 * _MAX_DAYS * _DAY_SECONDS * 10**9:
        raise invalid_field(field, "must be a time from 1970 to 2248")
    return nanoseconds


def _question(request: pb.QueryUsageRequest) -> str:
    """Returns what must be the same on every page."""
    asked = pb.QueryUsageRequest()
    asked.CopyFrom(request)
    for field in ("page_size", "page_token", "start_time", "end_time"):
        asked.ClearField(field)
    return asked.SerializeToString(deterministic=True).hex()


def _token(question: str, query: Query, place: Place) -> str:
    # The range stands in it, because "now" is another time on the next page.
    return encode_token(json.dumps([question, query.start_ns, query.end_ns, list(place)]))


def _read_token(request: pb.QueryUsageRequest, question: str) -> tuple[int, int, Place]:
    columns = len(request.group_by) + len(request.label_keys)
    try:
        asked, start_ns, end_ns, (period, *rest) = json.loads(decode_token(request.page_token))
        fits = asked == question and all(type(value) is int for value in (start_ns, end_ns, period))
        fits = fits and len(rest) == columns and all(map(_is_kept, (start_ns, end_ns, period, *rest)))
    except (ValueError, TypeError, RecursionError):
        fits = False
    if not fits:
        raise invalid_field("page_token", "not a token of an earlier response to this question")
    return start_ns, end_ns, (period, *rest)


def _is_kept(value: object) -> bool:
    """Whether a value can stand in a row at all."""
    if isinstance(value, str):
        return "\0" not in value
    return isinstance(value, int) and abs(value) < 2**63


def _row(sums: Sums, query: Query) -> pb.UsageRow:
    period, *rest = sums.place
    values = [str(value) for value in rest]
    labels = dict(zip(query.label_keys, values[len(query.dimensions) :], strict=True))
    row = pb.UsageRow(labels=labels, figures=_figures(sums.numbers))
    for name, value in zip(query.dimensions, values, strict=False):
        setattr(row, name, _OPERATIONS[value] if name == "operation" else value)
    if query.period:
        row.period_start.FromSeconds(int(period) * _DAY_SECONDS)
    return row


def _figures(numbers: Mapping[str, int]) -> pb.UsageFigures:
    figures = pb.UsageFigures(
        requests=numbers["requests"],
        attempts=numbers["attempts"],
        completed=numbers["completed"],
        failed=numbers["failed"],
        cancelled=numbers["cancelled"],
        running=numbers["running"],
        cached=numbers["cached"],
        usage=Usage(),
        cost_nano_usd=numbers["cost"],
        unpriced_attempts=numbers["unpriced"],
    )
    total = figures.usage
    for source in SOURCES:
        if not numbers[f"{source}_attempts"]:
            continue
        usage = Usage(
            input_tokens=numbers[f"{source}_input"],
            cached_input_tokens=numbers[f"{source}_cached_input"],
            output_tokens=numbers[f"{source}_output"],
            reasoning_tokens=numbers[f"{source}_reasoning"],
            source=_SOURCE_OF[source],
        )
        figures.by_source.add(usage=usage, attempts=numbers[f"{source}_attempts"])
        total.input_tokens += usage.input_tokens
        total.cached_input_tokens += usage.cached_input_tokens
        total.output_tokens += usage.output_tokens
        total.reasoning_tokens += usage.reasoning_tokens
    total.source = next(
        (_SOURCE_OF[source] for source in _WEAKEST_FIRST if numbers[f"{source}_attempts"]),
        UsageSource.USAGE_SOURCE_UNSPECIFIED,
    )
    return figures
