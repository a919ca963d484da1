"""Telemetry that is switched on: metrics, traces, or both."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any, Final

from sluice_kit.telemetry import table
from sluice_kit.telemetry.base import AttemptEnd, Reading, Rpc, Served, Telemetry, version
from sluice_kit.telemetry.labels import Targets
from sluice_kit.telemetry.meters import Buckets, Number, StreamMeter
from sluice_kit.telemetry.metrics import Metrics
from sluice_kit.telemetry.scrape import Scrape
from sluice_kit.telemetry.settings import TelemetryConfig
from sluice_kit.telemetry.spans import NO_SPAN, NOTHING, Attributes, Span
from sluice_kit.telemetry.table import Metric

log = logging.getLogger(__name__)

_LAG_SECONDS: Final = 0.25
_NANO: Final = 1e-9


class Recording(Telemetry):
    """Tells a collector and whoever asks for metrics."""

    def __init__(self, config: TelemetryConfig, service: str, integration: str) -> None:
        self._config = config
        self._service = service
        self._integration = integration
        self._metrics = Metrics(service) if config.metrics is not None else None
        self.metrics = self._metrics is not None
        self.vendor_trace = config.vendor_trace
        self._tracer = None
        if config.otlp is not None:
            from sluice_kit.telemetry.traces import Tracer

            self._tracer = Tracer(config, service, integration, self._metrics)
        self.traces = self._tracer is not None
        self._targets = Targets()
        self.address: str | None = None
        """Where metrics are served, once they are."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        metrics, scrape, lag = self._metrics, None, None
        if metrics is not None and self._config.metrics is not None:
            metrics.number(table.BUILD_INFO, self._service, self._integration, version()).value = 1
            metrics.watched.loop = loop
            scrape = Scrape(self._config.metrics, metrics.registry)
            self.address = scrape.address
            log.info("serving metrics", extra={"address": scrape.address})
            lag = _Lag(loop, metrics.buckets(table.LOOP_LAG))
        try:
            yield
        finally:
            if lag is not None:
                lag.stop()
            # The collector first: what is sent last may be asked for as a metric. Both wait, so in threads.
            if self._tracer is not None:
                await asyncio.to_thread(self._tracer.close)
            if scrape is not None and metrics is not None:
                await asyncio.to_thread(scrape.close)
                metrics.watched.loop = None

    def rpc(self, path: str) -> Rpc:
        return _Rpc(self, path)

    def served(self, path: str, metadata: Iterable[tuple[str, str | bytes]]) -> Span:
        """Begins the span of a call that is served."""
        return NO_SPAN if self._tracer is None else self._tracer.served(path, metadata)

    def rpc_metrics(self, path: str) -> "tuple[Number, Callable[[str], Buckets]] | None":
        """Returns the gauge of a method's calls in flight, and what finds the histogram of a code."""
        metrics = self._metrics
        if metrics is None:
            return None
        method = path[1:]
        return metrics.number(table.RPC_IN_FLIGHT, method), partial(metrics.buckets, table.RPC_DURATION, method)

    def root(self, name: str, attributes: Attributes = NOTHING) -> Span:
        return NO_SPAN if self._tracer is None else self._tracer.root(name, attributes)

    def stream(self) -> StreamMeter | None:
        metrics = self._metrics
        if metrics is None:
            return None
        return StreamMeter(metrics.buckets(table.STREAM_GAP), metrics.number(table.STREAM_EVENTS))

    def watch(self, metric: Metric, read: Callable[[], Reading]) -> None:
        if self._metrics is not None:
            self._metrics.watched.add(metric, read)

    def unwatch(self, read: Callable[[], Reading]) -> None:
        if self._metrics is not None:
            self._metrics.watched.remove(read)

    def response_ended(self, outcome: str, reason: str, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.number(table.RESPONSES, outcome, reason).add()
            self._metrics.buckets(table.RESPONSE_DURATION, outcome).observe(seconds)

    def first_content(self, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.buckets(table.RESPONSE_TTFT).observe(seconds)

    def attempt_ended(self, end: AttemptEnd) -> None:
        metrics = self._metrics
        if metrics is None:
            return
        target = self._targets.labels(end.provider, end.model)
        metrics.number(table.ATTEMPTS, end.operation, *target, end.outcome, end.reason).add()
        if end.ttft is not None:
            metrics.buckets(table.ATTEMPT_TTFT, *target).observe(end.ttft)
        for kind, tokens in end.tokens.items():
            if tokens:
                metrics.number(table.TOKENS, *target, kind).add(tokens)
        if end.cost_nano_usd:
            metrics.number(table.COST, *target).add(end.cost_nano_usd * _NANO)

    def answered_from_cache(self) -> None:
        if self._metrics is not None:
            self._metrics.number(table.CACHE_ANSWERS).add()

    def watcher_stalled(self) -> None:
        if self._metrics is not None:
            self._metrics.number(table.WATCHERS_STALLED).add()

    def searched(self, mode: str, seconds: float, passages: int) -> None:
        if self._metrics is not None:
            self._metrics.buckets(table.SEARCH_DURATION, mode).observe(seconds)
            self._metrics.number(table.SEARCH_PASSAGES).add(passages)

    def task_ended(self, kind: str, state: str, reason: str, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.number(table.TASKS, kind, state, reason).add()
            self._metrics.buckets(table.TASK_DURATION, kind).observe(seconds)

    def indexed(self, chunks: int) -> None:
        if self._metrics is not None:
            self._metrics.number(table.CHUNKS).add(chunks)


class _Rpc(Rpc):
    """One method that is served; its metrics are looked up once for each code."""

    __slots__ = ("by_code", "in_flight", "path", "telemetry")

    def __init__(self, telemetry: Recording, path: str) -> None:
        self.path = path
        self.telemetry = telemetry
        self.in_flight: Number | None = None
        self.by_code: dict[str, Buckets] | None = None
        found = telemetry.rpc_metrics(path)
        if found is not None:
            self.in_flight, self.by_code = found[0], _Found(found[1])

    def begins(self, context: Any) -> Served:
        if not self.telemetry.traces:
            return _Served(self, NO_SPAN)
        return _Served(self, self.telemetry.served(self.path, context.invocation_metadata()))


class _Found(dict[str, Buckets]):
    """Finds what is not there."""

    def __init__(self, find: Callable[[str], Buckets]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, code: str) -> Buckets:
        found = self[code] = self._find(code)
        return found


class _Served(Served):
    """One call that is being served."""

    __slots__ = ("_began", "_code", "_rpc", "span")

    def __init__(self, rpc: _Rpc, span: Span) -> None:
        self._rpc = rpc
        self.span = span
        self._code = "CANCELLED"
        self._began = time.perf_counter()
        if rpc.in_flight is not None:
            rpc.in_flight.value += 1

    def succeeded(self) -> None:
        self._code = "OK"

    def failed(self, code: str, reason: str) -> None:
        self._code = code
        self.span.failed(reason)

    def ended(self) -> None:
        rpc = self._rpc
        if rpc.in_flight is not None and rpc.by_code is not None:
            rpc.in_flight.value -= 1
            rpc.by_code[self._code].observe(time.perf_counter() - self._began)
        self.span.set({"rpc.grpc.status_code": self._code})
        self.span.end()


class _Lag:
    """Measures how late the event loop comes back."""

    def __init__(self, loop: asyncio.AbstractEventLoop, buckets: Buckets) -> None:
        self._loop = loop
        self._buckets = buckets
        self._due = loop.time() + _LAG_SECONDS
        self._timer = loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        self._buckets.observe(max(0.0, now - self._due))
        self._due = now + _LAG_SECONDS
        self._timer = self._loop.call_at(self._due, self._look)

    def stop(self) -> None:
        """Ends it."""
        self._timer.cancel()
