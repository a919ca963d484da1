"""`sluice status`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sluice_cli import mesh, output, session
from sluice_cli.options import Address, Json, Key

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
    return (
        one.id,
        state,
        "; ".join(filter(None, (with_missing(health.detail, health.missing_settings), health.version))),
    )


def with_missing(detail: str, missing: Sequence[str]) -> str:
    """Returns what is wrong with an integration, with everything that must be set, each of it once."""
    unnamed = [name for name in missing if name not in detail]
    return "; ".join(filter(None, (detail, f"set {', '.join(unnamed)}" if unnamed else "")))
