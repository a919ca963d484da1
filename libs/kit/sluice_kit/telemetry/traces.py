"""Traces by OpenTelemetry: spans are made where things happen, and sent by a thread.

The context is ours: it travels in `Call.span` and in metadata, not in OpenTelemetry's own variables, because a response
outlives the call that asked for it. The SDK's environment variables are not read.
"""

import logging
import os
import random
import re
import socket
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Span as Recorded
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sluice_kit.errors import SluiceError
from sluice_kit.telemetry.base import version
from sluice_kit.telemetry.settings import TelemetryConfig
from sluice_kit.telemetry.spans import NOTHING, TRACE_KEYS, Attributes, Headers, PassedOn, Span
from sluice_kit.telemetry.table import SPANS

if TYPE_CHECKING:
    from sluice_kit.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_TRACEPARENT: Final = re.compile(
    "[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})(?:-.*)?"
)
_EXPORT_SECONDS: Final = 4.0
"""How long one batch may be tried for. Stopping waits for it."""
_DELAY_MS: Final = 1000
_BATCH: Final = 256
"""Spans sent at once: few enough that turning them into a message does not keep the interpreter from the loop."""
_QUEUE: Final = 4096
"""Spans that wait at most; what comes then is dropped."""
_LIMITS: Final = SpanLimits(
    max_span_attributes=32,
    max_events=128,
    max_links=16,
    max_event_attributes=8,
    max_link_attributes=8,
    max_attribute_length=256,
    max_span_attribute_length=256,
)


class Tracer:
    """Makes spans, and has them sent."""

    def __init__(self, config: TelemetryConfig, service: str, integration: str, metrics: "Metrics | None") -> None:
        attributes: dict[str, str] = {
            "service.namespace": "sluice",
            "service.name": f"sluice-{service}",
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            "service.version": version(),
        }
        if integration:
            attributes["sluice.integration"] = integration
        self._exporter = _Exporter(config, metrics)
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=_QUEUE,
            schedule_delay_millis=_DELAY_MS,
            max_export_batch_size=_BATCH,
            export_timeout_millis=_EXPORT_SECONDS * 1000,
        )
        self._ratio = config.sample_ratio
        # A full queue is logged for every span.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource({**attributes, **config.attributes}),
            shutdown_on_exit=False,
            span_limits=_LIMITS,
        )
        provider.add_span_processor(self._processor)
        self._provider = provider
        self._tracer = provider.get_tracer("sluice", version())

    def served(self, path: str, metadata: Iterable[tuple[str, str | bytes]]) -> Span:
        """Begins the span of a call that is served: in its caller's trace if it brings one, else in a new one."""
        carrier = {key: value for key, value in metadata if key in TRACE_KEYS and isinstance(value, str)}
        given = _TRACEPARENT.fullmatch(carrier.get("traceparent", ""))
        if given is None:
            return self._first(path, SpanKind.SERVER, _rpc(path))
        if not int(given["flags"], 16) & TraceFlags.SAMPLED:
            return PassedOn(given["trace"], tuple(carrier.items()))
        return self._begin(path, _PROPAGATOR.extract(carrier), SpanKind.SERVER, _rpc(path))

    def root(self, name: str, attributes: Attributes) -> Span:
        """Begins a trace."""
        return self._first(name, SpanKind.INTERNAL, attributes)

    def _first(self, name: str, kind: SpanKind, attributes: Attributes) -> Span:
        # Decided here and not by the SDK, which takes as long for a span that is not recorded as for one that is.
        if random.random() >= self._ratio:  # no secret
            trace_id = f"{random.getrandbits(128):032x}"
            return PassedOn(trace_id, (("traceparent", f"00-{trace_id}-{random.getrandbits(64) | 1:016x}-00"),))
        return self._begin(name, Context(), kind, attributes)

    def _begin(self, name: str, parent: Context, kind: SpanKind, attributes: Attributes) -> Span:
        return _RecordedSpan(self._tracer, self._tracer.start_span(name, parent, kind, dict(attributes)))

    def close(self) -> None:
        """Sends what is left, for seconds at most. Waits, so not on the event loop."""
        self._exporter.closing = True
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK's gap


class _RecordedSpan(Span):
    """A span that the collector gets."""

    __slots__ = ("_headers", "_span", "_tracer")

    def __init__(self, tracer: trace.Tracer, span: Recorded) -> None:
        self._tracer = tracer
        self._span = span
        self._headers: Headers | None = None

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def headers(self) -> Headers:
        if self._headers is None:
            self._headers = _headers(self._span)
        return self._headers

    def child(self, name: str, attributes: Attributes = NOTHING) -> Span:
        return self._part(name, SpanKind.INTERNAL, attributes)

    def client(self, name: str, attributes: Attributes = NOTHING) -> Span:
        return self._part(name, SpanKind.CLIENT, attributes or _rpc(name))

    def _part(self, name: str, kind: SpanKind, attributes: Attributes) -> Span:
        parent = trace.set_span_in_context(self._span, Context())
        return _RecordedSpan(self._tracer, self._tracer.start_span(name, parent, kind, dict(attributes)))

    def event(self, name: str, attributes: Attributes = NOTHING) -> None:
        self._span.add_event(name, dict(attributes))

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(dict(attributes))

    def link(self, other: Span) -> None:
        if isinstance(other, _RecordedSpan):
            self._span.add_link(other._span.get_span_context())  # noqa: SLF001 - of the same class

    def failed(self, reason: str) -> None:
        self._span.set_attribute("error.type", reason)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        self._span.end()

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is not None:
            self.failed(reason_of(error))
        self._span.end()


def reason_of(error: BaseException) -> str:
    """Returns what a span says of an exception: its reason or its type, never its text."""
    if isinstance(error, SluiceError):
        return error.reason_name
    code = getattr(error, "code", None)
    if callable(code):  # grpc's
        return str(getattr(code(), "name", "UNKNOWN"))
    return "CANCELLED" if type(error).__name__ == "CancelledError" else type(error).__qualname__


def _rpc(path: str) -> Attributes:
    if not path.startswith("/"):
        return {}
    service, _, method = path[1:].partition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}


def _headers(span: Recorded) -> Headers:
    context: SpanContext = span.get_span_context()
    head = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags & TraceFlags.SAMPLED):02x}"
    state: TraceState = context.trace_state
    return (("traceparent", head), ("tracestate", state.to_header())) if state else (("traceparent", head),)


class _Exporter(SpanExporter):
    """Sends batches, counts them, and says when the collector goes away and comes back. In the thread that sends.

    OpenTelemetry's own waits between tries while a process wants to end, and logs every one of them.
    """

    def __init__(self, config: TelemetryConfig, metrics: "Metrics | None") -> None:
        address = urlsplit(config.otlp if config.otlp and "://" in config.otlp else f"http://{config.otlp}")
        options = (("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 2_000))
        if address.scheme == "https":
            self._channel = grpc.secure_channel(address.netloc, grpc.ssl_channel_credentials(), options)
        else:
            self._channel = grpc.insecure_channel(address.netloc, options)
        self._stub = TraceServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        self._metadata = tuple((name, secret.reveal()) for name, secret in config.otlp_headers.items())
        self._sent = metrics.number(SPANS, "sent") if metrics is not None else None
        self._dropped = metrics.number(SPANS, "dropped") if metrics is not None else None
        self._away = False
        self.closing = False
        """Whether the process ends: then a collector that is away is not waited for."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        sent = self._send(spans)
        counter = self._sent if sent else self._dropped
        if counter is not None:
            counter.add(len(spans))
        if sent == self._away:
            self._away = not sent
            if sent:
                log.info("the collector of traces takes spans again")
            else:
                log.warning("the collector of traces does not answer; spans are dropped until it does")
        return SpanExportResult.SUCCESS if sent else SpanExportResult.FAILURE

    def _send(self, spans: Sequence[ReadableSpan]) -> bool:
        if self.closing and self._away:
            return False
        try:
            # One that restarts is waited for: what it misses meanwhile is in the queue.
            self._stub.Export(
                encode_spans(spans),
                timeout=_EXPORT_SECONDS,
                metadata=self._metadata,
                wait_for_ready=not self.closing,
            )
        except grpc.RpcError as error:
            log.debug("spans were not taken", extra={"code": reason_of(error)})
            return False
        return True

    def shutdown(self) -> None:
        self._channel.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True
