"""What of the gateway is read when metrics are asked for."""

from collections.abc import Iterator
from typing import Final

from sluice_gateway.config import GatewayConfig
from sluice_gateway.integrations import Integrations
from sluice_gateway.pipeline.breaker import Circuit
from sluice_gateway.pipeline.calls import Admission
from sluice_gateway.pipeline.standing import Standings
from sluice_gateway.records.ledger import Ledger
from sluice_gateway.responses.registry import Responses
from sluice_kit.telemetry import current, table
from sluice_kit.telemetry.labels import MAX_MODELS

_STATES: Final = {Circuit.CLOSED: 0.0, Circuit.HALF_OPEN: 1.0, Circuit.OPEN: 2.0}


def watch_gauges(
    config: GatewayConfig,
    responses: Responses,
    calls: Admission,
    standings: Standings,
    integrations: Integrations,
    ledger: Ledger,
) -> None:
    """Has the gauges of a gateway read, if there are metrics."""
    telemetry = current()

    def circuits() -> Iterator[tuple[tuple[str, ...], float]]:
        found = {integration.id: 0.0 for integration in integrations}
        for name, circuit in standings.circuits().items():
            if len(found) < MAX_MODELS:  # callers may name any model
                found[name] = _STATES[circuit]
        return (((name,), state) for name, state in found.items())

    def in_flight() -> Iterator[tuple[tuple[str, ...], float]]:
        yield ("responses",), responses.running
        yield ("calls",), calls.in_flight

    def limits() -> Iterator[tuple[tuple[str, ...], float]]:
        yield ("responses",), config.admission.in_flight
        yield ("calls",), config.admission.calls_in_flight

    telemetry.watch(table.RESPONSES_RUNNING, lambda: responses.running)
    telemetry.watch(table.WATCHERS, lambda: responses.backlogs()[0])
    telemetry.watch(table.WATCHER_BACKLOG, lambda: responses.backlogs()[1])
    telemetry.watch(table.STORE_BACKLOG, lambda: responses.backlogs()[2])
    telemetry.watch(table.LOG_BYTES, lambda: responses.kept_bytes)
    telemetry.watch(table.LOG_LIMIT, lambda: config.log.total_bytes)
    telemetry.watch(table.LEDGER_BACKLOG, lambda: ledger.queued)
    telemetry.watch(table.ADMISSION_IN_FLIGHT, in_flight)
    telemetry.watch(table.ADMISSION_LIMIT, limits)
    telemetry.watch(table.BREAKER, circuits)
