"""The metrics of a process, as prometheus_client keeps them."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any, Final

import prometheus_client
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sluice_kit.telemetry import table
from sluice_kit.telemetry.base import Reading
from sluice_kit.telemetry.meters import Flow
from sluice_kit.telemetry.table import Metric

log = logging.getLogger(__name__)

_SERVICES: Final = ("gateway", "providers", "retrieval")
_COUNTED_UP_AND_DOWN: Final = (table.RPC_IN_FLIGHT, table.BUILD_INFO)
"""Gauges that are told of each change; the others are read when they are asked for."""
_PLAIN: Final = (table.STREAM_GAP, table.STREAM_EVENTS)
"""Counted as plain numbers."""
_READ_SECONDS: Final = 2.0


class Metrics:
    """Every metric of the table that a service has. A name that is no service's, as in tests, has all of them."""

    def __init__(self, service: str) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's gap
        self.registry = CollectorRegistry()
        self.flow = Flow(table.STREAM_GAP.buckets)
        self._by_metric: dict[Metric, Any] = {}
        read: list[Metric] = []
        for metric in table.METRICS:
            if service in _SERVICES and metric.served_by not in ("all", service):
                continue
            arguments = (metric.name, metric.help, metric.labels)
            if metric in _PLAIN:
                continue
            if metric.kind == "counter":
                self._by_metric[metric] = Counter(*arguments, registry=self.registry)
            elif metric.kind == "histogram":
                self._by_metric[metric] = Histogram(*arguments, registry=self.registry, buckets=metric.buckets)
            elif metric in _COUNTED_UP_AND_DOWN:
                self._by_metric[metric] = Gauge(*arguments, registry=self.registry)
            else:
                read.append(metric)
        if service not in _SERVICES or table.STREAM_GAP.served_by == service:
            self.registry.register(_FlowCollector(self.flow))
        self.watched = Watched(read)
        self.registry.register(self.watched)
        GCCollector(self.registry)
        PlatformCollector(self.registry)
        ProcessCollector(registry=self.registry)

    def counter(self, metric: Metric, *labels: str) -> Counter:
        """Returns a counter, bound to the values of its labels."""
        found: Counter = self._by_metric[metric]
        return found.labels(*labels) if labels else found

    def gauge(self, metric: Metric, *labels: str) -> Gauge:
        """Returns a gauge that is counted up and down, bound to the values of its labels."""
        found: Gauge = self._by_metric[metric]
        return found.labels(*labels) if labels else found

    def histogram(self, metric: Metric, *labels: str) -> Histogram:
        """Returns a histogram, bound to the values of its labels."""
        found: Histogram = self._by_metric[metric]
        return found.labels(*labels) if labels else found


class _FlowCollector(Collector):
    """Shows the plain numbers of streams."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    def collect(self) -> Iterator[Family]:
        flow = self._flow
        bounds = [*map(floatToGoString, flow.bounds), "+Inf"]
        counts = list(accumulate(map(float, list(flow.counts))))
        gap, events = table.STREAM_GAP, table.STREAM_EVENTS
        yield HistogramMetricFamily(gap.name, gap.help, list(zip(bounds, counts, strict=True)), flow.seconds)
        yield CounterMetricFamily(events.name, events.help, float(flow.events))


class Watched(Collector):
    """Gauges that are read when metrics are asked for: on the event loop, where nothing changes meanwhile.

    Metrics are asked for in a thread, which waits for the loop. If the loop does not come to it in time, what it said
    last is shown once more.
    """

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._readers: dict[Metric, list[Callable[[], Reading]]] = {metric: [] for metric in metrics}
        self._last: list[Family] = []
        self.loop: asyncio.AbstractEventLoop | None = None

    def add(self, metric: Metric, read: Callable[[], Reading]) -> None:
        """Adds what reads a gauge. Several are shown as their sum."""
        self._readers[metric].append(read)

    def remove(self, read: Callable[[], Reading]) -> None:
        """Removes it."""
        for readers in self._readers.values():
            if read in readers:
                readers.remove(read)

    def collect(self) -> Iterator[Family]:
        loop = self.loop
        if loop is not None:
            future = asyncio.run_coroutine_threadsafe(self._read(), loop)
            try:
                self._last = future.result(_READ_SECONDS)
            except TimeoutError:
                future.cancel()
                log.warning("the event loop did not come to read its gauges", extra={"seconds": _READ_SECONDS})
        yield from self._last

    def describe(self) -> Iterator[Family]:
        for metric in self._readers:
            yield GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)

    async def _read(self) -> list[Family]:
        families: list[Family] = []
        for metric, readers in self._readers.items():
            sums: dict[tuple[str, ...], float] = {}
            for read in readers:
                reading = read()
                rows = [((), float(reading))] if isinstance(reading, int | float) else reading
                for labels, value in rows:
                    sums[labels] = sums.get(labels, 0.0) + value
            family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, value in sums.items():
                family.add_metric(labels, value)
            families.append(family)
        return families
