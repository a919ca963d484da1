"""What was used and what it cost."""

from collections.abc import Sequence
from datetime import datetime

from sluice.gateway.v1 import usage_service_pb2 as pb
from sluice.gateway.v1.usage_service_pb2_grpc import UsageServiceStub
from sluice_client.connection import Connection
from sluice_client.pages import Pager


class UsageCalls(Connection):
    """The calls of `sluice.gateway.v1.UsageService`."""

    def query_usage(
        self,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        granularity: "pb.UsageGranularity.ValueType | None" = None,
        group_by: "Sequence[pb.UsageDimension.ValueType]" = (),
        label_keys: Sequence[str] = (),
        page_size: int = 0,
    ) -> "Pager[pb.QueryUsageResponse, pb.UsageRow]":
        """Adds up the ledger from `start` on until before `end`; unset: the last 30 days, until now.

        Both are aware datetimes. `granularity` divides time, None does not; `group_by` and `label_keys` say what rows are
        told apart by. `async for row in …` gives the rows; the first of `pages()` has the `totals`. Raises
        PermissionDeniedError where it is grouped by tenant by somebody who is no administrator.
        """
        request = pb.QueryUsageRequest(group_by=group_by, label_keys=label_keys, page_size=page_size)
        for moment, field in ((start, request.start_time), (end, request.end_time)):
            if moment is not None:
                if moment.tzinfo is None:
                    raise ValueError("times of usage need a time zone")
                field.FromDatetime(moment)
        if granularity is not None:
            request.granularity = granularity

        async def fetch(token: str) -> pb.QueryUsageResponse:
            request.page_token = token
            return await self.unary(self.stub(UsageServiceStub).QueryUsage, request)

        return Pager(fetch, lambda page: page.rows)
