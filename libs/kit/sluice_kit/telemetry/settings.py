"""The section `telemetry`."""

from typing import Annotated

import msgspec

from sluice_kit.secrets import Secret


class TelemetryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a process tells of itself: section `telemetry`. All of it is off unless set."""

    metrics: str | None = None
    """`host:port` to serve Prometheus's metrics on, over HTTP, e.g. `127.0.0.1:9464`; port 0 is any free one, which the
    log names. Unset: no metrics. It is no public address: there are no keys there. `sluice up` gives its processes
    this port and those that follow it, the gateway first."""
    otlp: str | None = None
    """Address of an OpenTelemetry collector that takes OTLP over gRPC: `http://host:port`, or `https://` for TLS. Unset:
    no traces."""
    otlp_headers: dict[str, Secret] = {}
    """Metadata for the collector, e.g. its key. Names are lower-case."""
    sample_ratio: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 1.0
    """Share of the traces that are recorded, 0 to 1. A caller that sends a `traceparent` has decided for its own."""
    vendor_trace: bool = False
    """Whether vendors are sent the `traceparent` of the call that asks them, as an HTTP header."""
    attributes: dict[str, str] = {}
    """Attributes of every span, e.g. `deployment.environment.name: production`."""
