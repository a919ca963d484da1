"""The metrics of a process, and how Prometheus gets to see them."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sluice_kit.telemetry import table
from sluice_kit.telemetry.base import Reading
from sluice_kit.telemetry.meters import Bound, Buckets, Number
from sluice_kit.telemetry.table import Metric

log = logging.getLogger(__name__)

_SERVICES: Final = ("gateway", "providers", "retrieval")
_COUNTED_UP_AND_DOWN: Final = (table.RPC_IN_FLIGHT, table.BUILD_INFO)
"""Gauges that are told of each change; the others are read when they are asked for."""
_READ_SECONDS: Final = 2.0


class Metrics:
    """Every metric of the table that a service has. A name that is no service's, as in tests, has all of them."""

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry()
        self._numbers: dict[Metric, Bound[Number]] = {}
        self._buckets: dict[Metric, Bound[Buckets]] = {}
        read: list[Metric] = []
        for metric in table.METRICS:
            if service in _SERVICES and metric.served_by not in ("all", service):
                continue
            if metric.kind == "histogram":
                self._buckets[metric] = Bound(partial(Buckets, metric.buckets))
            elif metric.kind == "counter" or metric in _COUNTED_UP_AND_DOWN:
                self._numbers[metric] = Bound(Number)
            else:
                read.append(metric)
        # What has no labels is there from the start, so that its first event is seen as a change.
        for found in (self._numbers, self._buckets):
            for metric, bound in found.items():
                if not metric.labels:
                    bound[()]
        self.watched = Watched(read)
        self.registry.register(_Counted(self._numbers, self._buckets))
        self.registry.register(self.watched)
        GCCollector(self.registry)
        PlatformCollector(self.registry)
        ProcessCollector(registry=self.registry)

    def number(self, metric: Metric, *labels: str) -> Number:
        """Returns a counter, or a gauge that is counted up and down, for the values of its labels."""
        return self._numbers[metric][labels]

    def buckets(self, metric: Metric, *labels: str) -> Buckets:
        """Returns a histogram, for the values of its labels."""
        return self._buckets[metric][labels]


class _Counted(Collector):
    """Shows what is counted."""

    def __init__(self, numbers: dict[Metric, Bound[Number]], buckets: dict[Metric, Bound[Buckets]]) -> None:
        self._numbers = numbers
        self._buckets = buckets

    def collect(self) -> Iterator[Family]:
        for metric, numbers in self._numbers.items():
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family: Any = kind(metric.name, metric.help, labels=metric.labels)
            for labels, number in _copy(numbers):
                family.add_metric(labels, number.value)
            yield family
        for metric, buckets in self._buckets.items():
            family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
            for labels, one in _copy(buckets):
                counts = accumulate(map(float, tuple(one.counts)))
                family.add_metric(labels, list(zip(bounds, counts, strict=True)), one.total)
            yield family


def _copy(bound: "dict[tuple[str, ...], Any]") -> list[tuple[tuple[str, ...], Any]]:
    # In one step of the interpreter: the loop's thread may be adding labels.
    return list(bound.items())


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
        """Adds what reads a gauge. Of several with the same labels the last one counts."""
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
            values: dict[tuple[str, ...], float] = {}
            for read in readers:
                reading = read()
                rows = [((), float(reading))] if isinstance(reading, int | float) else reading
                values.update(rows)
            family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, value in values.items():
                family.add_metric(labels, value)
            families.append(family)
        return families
