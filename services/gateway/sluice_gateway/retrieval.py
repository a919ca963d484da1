"""The retrieval service as the gateway sees it."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import grpc

from sluice.chat.v1.passage_pb2 import Passage
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import search_service_pb2 as search_pb
from sluice_kit.call import Call
from sluice_kit.channels import outgoing
from sluice_kit.errors import from_rpc_error, make_error

_SERVICE: Final = "/sluice.retrieval.v1.SearchService/"
_SEARCH_SECONDS: Final = 15.0
_VERIFY_SECONDS: Final = 5.0
_MAX_SPANS: Final = 256


class Retrieval:
    """Search and the check of spans, over a channel; `channel` None: there is no retrieval service."""

    def __init__(self, channel: grpc.aio.Channel | None) -> None:
        self._search: Any = None
        self._verify: Any = None
        if channel is not None:
            self._search = channel.unary_unary(
                f"{_SERVICE}Search", search_pb.SearchRequest.SerializeToString, search_pb.SearchResponse.FromString
            )
            self._verify = channel.unary_unary(
                f"{_SERVICE}VerifySpans",
                search_pb.VerifySpansRequest.SerializeToString,
                search_pb.VerifySpansResponse.FromString,
            )

    async def search(self, request: search_pb.SearchRequest, call: Call) -> Sequence[Passage]:
        """Returns the passages found. Raises GROUNDING_UNAVAILABLE if nobody answers, else what the service says."""
        if self._search is None:
            raise make_error(
                ErrorReason.ERROR_REASON_GROUNDING_UNAVAILABLE,
                "this mesh has no retrieval service: set gateway.retrieval.address",
            )
        try:
            response = await self._search(request, **outgoing(call, _SEARCH_SECONDS))
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error, "retrieval")
            if failure.reason == ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE:
                raise make_error(
                    ErrorReason.ERROR_REASON_GROUNDING_UNAVAILABLE, "the retrieval service does not answer"
                ) from None
            raise failure from None
        passages: Sequence[Passage] = response.passages
        return passages

    async def verify(
        self, spans: Iterable[search_pb.SpanToVerify], call: Call
    ) -> Sequence["search_pb.SpanState.ValueType"]:
        """Returns the state of each span. Raises SluiceError."""
        rows = list(spans)
        states: list[search_pb.SpanState.ValueType] = []
        for start in range(0, len(rows), _MAX_SPANS):
            request = search_pb.VerifySpansRequest(spans=rows[start : start + _MAX_SPANS])
            try:
                response = await self._verify(request, **outgoing(call, _VERIFY_SECONDS))
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error, "retrieval") from None
            states.extend(response.states)
        return states
