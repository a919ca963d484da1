"""`sluice status`."""

from typing import TYPE_CHECKING, Any

import typer

from sluice_cli import mesh, output, session
from sluice_cli.options import EXIT_FAILURE, Address, Json, Key

if TYPE_CHECKING:
    from sluice.gateway.v1.integration_service_pb2 import Integration
    from sluice_client import SluiceClient


def status(as_json: Json = False, address: Address = None, key: Key = None) -> None:
    """Show what of the mesh is up, and what is missing by name.

    Exits with 1 if the gateway does not answer. An integration without its key is no failure.
    """

    async def work(client: "SluiceClient") -> None:
        integrations = await client.list_integrations().all()
        retrieval = await _retrieval(client)
        target = mesh.find(address, key)
        if as_json:
            output.emit(
                {
                    "gateway": {"address": target.address, "state": "available"},
                    "retrieval": retrieval,
                    "integrations": [output.as_json(one) for one in integrations],
                }
            )
            return
        rows = [("gateway", "available", target.address)]
        detail = retrieval.get("detail") or f"{retrieval.get('corpora', 0)} corpora"
        rows.append(("retrieval", str(retrieval["state"]), str(detail)))
        rows.extend(_row(one) for one in integrations)
        output.table(("part", "state", "detail"), rows, empty="nothing")

    session.run(work, address, key, as_json=as_json)


async def _retrieval(client: "SluiceClient") -> dict[str, Any]:
    from sluice_kit.errors import SluiceError, UnavailableError

    try:
        corpora = await client.list_corpora().all()
    except UnavailableError as error:
        return {"state": "unreachable", "detail": error.message}
    except SluiceError as error:
        return {"state": "unknown", "detail": error.message}
    return {"state": "available", "corpora": len(corpora)}


def _row(one: "Integration") -> tuple[str, str, str]:
    from sluice.gateway.v1.integration_service_pb2 import HealthState

    health = one.health
    state = output.enum_word(HealthState.Name(health.state), "HEALTH_STATE_") if health.state else "unknown"
    parts = [f"set {', '.join(health.missing_settings)}"] if health.missing_settings else []
    parts += [text for text in (health.detail, health.version) if text]
    return one.id, state, "; ".join(parts)


def fail(text: str) -> typer.Exit:
    """Says what failed and returns the exit to raise."""
    output.say(f"sluice: {text}")
    return typer.Exit(EXIT_FAILURE)
