"""`sluice models` and `sluice routes`."""

from typing import TYPE_CHECKING, Annotated

import typer

from sluice_cli import output, session
from sluice_cli.options import Address, Json, Key
from sluice_cli.status import with_missing

if TYPE_CHECKING:
    from sluice.gateway.v1.model_service_pb2 import IntegrationModel, UnreachableIntegration
    from sluice_client import SluiceClient


def models(
    integration: Annotated[str, typer.Argument(help="Only the models of this one.", show_default=False)] = "",
    as_json: Json = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """List the models that can be asked, with what they can do.

    Integrations that do not answer are named, with what to set or start.
    """

    async def work(client: "SluiceClient") -> None:
        found: list[IntegrationModel] = []
        missing: list[UnreachableIntegration] = []
        async for page in client.list_models(integration).pages():
            found.extend(page.models)
            missing.extend(page.unreachable)
        if as_json:
            output.emit(
                {
                    "models": [output.as_json(model) for model in found],
                    "unreachable": [output.as_json(one) for one in missing],
                }
            )
            return
        output.table(("model", "context", "can"), [_row(one) for one in found], empty="no models")
        for one in {one.integration: one for one in missing}.values():
            output.say(f"note: {one.integration} lists none: {with_missing(one.message, one.missing_settings)}")

    session.run(work, address, key, as_json=as_json)


def routes(as_json: Json = False, address: Address = None, key: Key = None) -> None:
    """List the aliases, and the models they lead to."""

    async def work(client: "SluiceClient") -> None:
        response = await client.list_routes()
        if as_json:
            output.emit(output.as_json(response))
            return
        rows = [
            (
                route.alias + (" (default)" if route.alias == response.default_alias else ""),
                ", then ".join(f"{target.provider}/{target.model}" for target in route.targets),
                f"{route.time_to_first_token.ToTimedelta().total_seconds():g} s",
                f"{route.total.ToTimedelta().total_seconds():g} s",
            )
            for route in response.routes
        ]
        output.table(("alias", "leads to", "first token", "total"), rows, empty="no routes")

    session.run(work, address, key, as_json=as_json)


def _row(one: "IntegrationModel") -> tuple[str, str, str]:
    from sluice.provider.v1.model_pb2 import Capability

    window = f"{one.model.context_window:,}" if one.model.HasField("context_window") else ""
    known = (value for value in one.model.capabilities if value in Capability.values())
    return one.name, window, ", ".join(output.enum_word(Capability.Name(value), "CAPABILITY_") for value in known)
