"""What traces are sent to: OpenTelemetry's collector, as much of it as a test needs, and what it was sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Traces:
    """The spans that came."""

    address: str = ""
    spans: list[Span] = field(default_factory=list)
    services: dict[bytes, str] = field(default_factory=dict)
    """The service that made a span, by the span's id."""
    raw: list[bytes] = field(default_factory=list)
    """Every message as it came."""
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, *names: str) -> None:
        """Waits until there are spans of these names."""
        while not set(names) <= {span.name for span in self.spans}:
            self.came.clear()
            await self.came.wait()

    def named(self, name: str) -> Span:
        """The only span of a name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def children(self, span: Span) -> list[Span]:
        return [one for one in self.spans if one.parent_span_id == span.span_id]

    def path(self, span: Span) -> list[str]:
        """The names from the outermost span that came down to this one."""
        by_id = {one.span_id: one for one in self.spans}
        names = [span.name]
        while span.parent_span_id in by_id:
            span = by_id[span.parent_span_id]
            names.insert(0, span.name)
        return names


def values(attributes: Iterable[Any]) -> dict[str, Any]:
    """Attributes as a map."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


class _Service(rpc.TraceServiceServicer):
    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    async def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> pb.ExportTraceServiceResponse:
        self._traces.raw.append(request.SerializeToString())
        for group in request.resource_spans:
            service = values(group.resource.attributes)["service.name"]
            for scope in group.scope_spans:
                for span in scope.spans:
                    self._traces.spans.append(span)
                    self._traces.services[span.span_id] = service
        self._traces.came.set()
        return pb.ExportTraceServiceResponse()


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[Traces]:
    """Runs a collector for the length of the block."""
    traces = Traces()
    server = grpc.aio.server()
    rpc.add_TraceServiceServicer_to_server(_Service(traces), server)
    traces.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield traces
    finally:
        await server.stop(None)
