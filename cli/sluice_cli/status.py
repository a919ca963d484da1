"""`sluice status`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from sluice_cli import grid, mesh, output, session
from sluice_cli.options import Address, Json, Key

if TYPE_CHECKING:
    from sluice.gateway.v1.integration_service_pb2 import Integration
    from sluice_client import SluiceClient

COLUMNS: Final = (
    grid.Column("part"),
    grid.Column("adapter", gives_way=2),
    grid.Column(
        "state",
        styles={
            "available": "green",
            "misconfigured": "yellow",
            "not ready": "red",
            "unavailable": "red",
            "unreachable": "red",
        },
    ),
    grid.Column("version", gives_way=1),
    grid.Column("latency", gives_way=3, right=True),
    grid.Column("detail", wraps=True),
)


_READY_SECONDS: Final = 5.0


class Part(NamedTuple):
    """One part of the mesh as the table shows it."""

    name: str
    adapter: str
    state: str
    version: str
    latency: str
    """How long its last probe took."""
    detail: str
    """What is wrong and what to set; else where it is or what it holds."""


def status(
    probe: Annotated[
        bool, typer.Option("--probe", help="Ask the vendors now, instead of the adapters alone.", show_default=False)
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Go on and show each change. Vendors are asked now and then.", show_default=False),
    ] = False,
    as_json: Json = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """Show what of the mesh is up, and what is missing by name.

    Exits with 1 if the gateway does not answer. An integration without its key is no failure. Versions and latencies
    are those of the last probe.

    With --watch: a table that changes on a terminal, a line for each change in a pipe, with --json an object for each.
    It waits for a gateway that restarts, and goes on until Ctrl-C, which exits with 130.
    """

    async def work(client: "SluiceClient") -> None:
        target = mesh.find(address, key)
        if watch:
            from sluice_cli import following

            await following.follow(client, target.address, as_json=as_json)
            return
        integrations, retrieval = await _ask(client, probe=probe)
        state, detail = await _readiness(client)
        if as_json:
            output.emit(
                {
                    "gateway": gateway_as_json(target.address, state) | ({"detail": detail} if detail else {}),
                    "retrieval": retrieval,
                    "integrations": [output.as_json(one) for one in integrations],
                }
            )
            return
        rows = [gateway(target.address, state, detail), retrieval_part(retrieval), *map(part, integrations)]
        grid.show(COLUMNS, rows, empty="nothing")

    session.run(work, address, key, as_json=as_json)


async def _ask(client: "SluiceClient", *, probe: bool) -> "tuple[list[Integration], dict[str, Any]]":
    import asyncio

    integrations = await client.list_integrations().all()
    if not probe:
        return integrations, await retrieval_as_json(client)
    retrieval, *healths = await asyncio.gather(
        retrieval_as_json(client), *(client.integration_health(one.id) for one in integrations)
    )
    for one, health in zip(integrations, healths, strict=True):
        one.health.CopyFrom(health)
    return integrations, retrieval


async def _readiness(client: "SluiceClient") -> tuple[str, str]:
    """Returns whether the gateway, which answers, takes new requests, too, and what to do if not."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from sluice_kit.health import READINESS

    stub: Any = client.stub(health_pb2_grpc.HealthStub)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=READINESS), timeout=_READY_SECONDS)
    except grpc.aio.AioRpcError:
        return "available", ""  # it has answered already; what stands between may pass on no health
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return "available", ""
    return "not ready", "it takes no new requests: `sluice doctor` says what it misses"


async def retrieval_as_json(client: "SluiceClient") -> dict[str, Any]:
    """Returns how the retrieval service is. Raises UnavailableError if the gateway does not answer."""
    from sluice_client.failures import SERVICE
    from sluice_kit.errors import SluiceError, UnavailableError

    try:
        corpora = await client.list_corpora().all()
    except UnavailableError as error:
        if error.metadata.get("service") == SERVICE:
            raise
        return {"state": "unreachable", "reason": error.reason_name, "detail": error.message}
    except SluiceError as error:
        return {"state": "unknown", "reason": error.reason_name, "detail": error.message}
    return {"state": "available", "corpora": len(corpora)}


def gateway_as_json(address: str, state: str = "available") -> dict[str, Any]:
    """Returns how the gateway is."""
    return {"address": address, "state": state}


def gateway(address: str, state: str = "available", detail: str = "") -> Part:
    """Returns the row of the gateway."""
    return Part("gateway", "", state, "", "", detail or address)


def retrieval_part(said: dict[str, Any]) -> Part:
    """Returns the row of the retrieval service."""
    detail = said.get("detail") or (f"{said['corpora']} corpora" if "corpora" in said else "")
    return Part("retrieval", "", str(said["state"]), "", "", str(detail))


def part(one: "Integration") -> Part:
    """Returns the row of an integration."""
    from sluice.gateway.v1.integration_service_pb2 import HealthState

    health = one.health
    known = health.state and health.state in HealthState.values()
    state = output.enum_word(HealthState.Name(health.state), "HEALTH_STATE_") if known else "unknown"
    latency = _duration(health.latency.ToTimedelta().total_seconds()) if health.HasField("latency") else ""
    detail = with_missing(health.detail, health.missing_settings)
    return Part(one.id, one.adapter, state, health.version, latency, detail)


def with_missing(detail: str, missing: Sequence[str]) -> str:
    """Returns what is wrong with an integration, with everything that must be set, each of it once."""
    unnamed = [name for name in missing if name not in detail]
    return "; ".join(filter(None, (detail, f"set {', '.join(unnamed)}" if unnamed else "")))


def _duration(seconds: float) -> str:
    if seconds < 0.001:
        return "< 1 ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
