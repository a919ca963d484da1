"""`sluice models` and `sluice routes`."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sluice_cli import grid, output, session
from sluice_cli.options import Address, Json, Key
from sluice_cli.status import with_missing

if TYPE_CHECKING:
    from sluice.gateway.v1.model_service_pb2 import IntegrationModel, UnreachableIntegration
    from sluice.provider.v1.model_pb2 import Model
    from sluice_client import SluiceClient

_COLUMNS: Final = (
    grid.Column("model"),
    grid.Column("context", gives_way=1, right=True),
    grid.Column("max output", gives_way=3, right=True),
    grid.Column("size", gives_way=2),
    grid.Column("family/owner", gives_way=4),
    grid.Column("can", wraps=True),
    grid.Column("source", gives_way=5),
)


def _capability_words() -> list[str]:
    from sluice.provider.v1.model_pb2 import Capability

    return [name.removeprefix("CAPABILITY_").replace("_", "-").lower() for name in Capability.keys()[1:]]


def models(
    integration: Annotated[str, typer.Argument(help="Only the models of this one.", show_default=False)] = "",
    can: Annotated[
        list[str] | None,
        typer.Option(
            "--can",
            metavar="CAPABILITY",
            help="Only models that can do this, e.g. tools, images, embeddings. May be repeated.",
            autocompletion=_capability_words,
            show_default=False,
        ),
    ] = None,
    find: Annotated[
        str,
        typer.Option(
            "--find",
            metavar="TEXT",
            help="Only models with all these words in their name, family or owner.",
            show_default=False,
        ),
    ] = "",
    refresh: Annotated[
        bool,
        typer.Option("--refresh", help="Ask anew, instead of what the gateway remembers.", show_default=False),
    ] = False,
    as_json: Json = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """List the models that can be asked, with what they can do.

    What a vendor does not tell is left empty. Integrations that list none are named, with what to set or start.
    """
    wanted = _capabilities(can or ())

    async def work(client: "SluiceClient") -> None:
        found: list[IntegrationModel] = []
        missing: dict[str, UnreachableIntegration] = {}
        async for page in client.list_models(integration, refresh=refresh).pages():
            found.extend(page.models)
            missing.update((one.integration, one) for one in page.unreachable)
        chosen = [one for one in found if _is_wanted(one, wanted, find)]
        if as_json:
            output.emit(
                {
                    "models": [output.as_json(model) for model in chosen],
                    "unreachable": [output.as_json(one) for one in missing.values()],
                }
            )
            return
        empty = "no models" if not found else "no models like that"
        grid.show(_COLUMNS, [_row(one) for one in chosen], empty=empty)
        for one in missing.values():
            output.say(f"note: {one.integration} lists none: {with_missing(one.message, one.missing_settings)}")
        asked = [integration] if integration else [one.id async for one in client.list_integrations()]
        for name in sorted({*asked} - {one.integration for one in found} - missing.keys()):
            output.say(f"note: {name} lists none: its vendor names none, nor does providers.{name}.models")

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


def _capabilities(words: Sequence[str]) -> set[int]:
    """Returns the capabilities that are asked for. Raises BadParameter for a word that is none, with those there are."""
    from sluice.provider.v1.model_pb2 import Capability

    known = _capability_words()
    found: set[int] = set()
    for word in words:
        plain = "-".join(word.lower().replace("_", " ").replace("-", " ").split())
        if plain not in known:
            raise typer.BadParameter(f"'{word}' is none of {', '.join(known)}", param_hint="--can")
        found.add(Capability.Value(f"CAPABILITY_{plain.replace('-', '_').upper()}"))
    return found


def _is_wanted(one: "IntegrationModel", capabilities: Collection[int], find: str) -> bool:
    model = one.model
    text = f"{one.name} {model.display_name} {model.family} {model.owned_by}".lower()
    return all(word in text for word in find.lower().split()) and {*capabilities} <= {*model.capabilities}


def _row(one: "IntegrationModel") -> tuple[str, ...]:
    from sluice.provider.v1.model_pb2 import Capability, ModelSource

    model = one.model
    known = (value for value in model.capabilities if value in Capability.values())
    source = ModelSource.Name(model.source) if model.source in ModelSource.values() and model.source else ""
    return (
        one.name,
        f"{model.context_window:,}" if model.HasField("context_window") else "",
        f"{model.max_output_tokens:,}" if model.HasField("max_output_tokens") else "",
        _size(model),
        ", ".join(dict.fromkeys(filter(None, (model.family, model.owned_by)))),
        ", ".join(output.enum_word(Capability.Name(value), "CAPABILITY_") for value in known),
        output.enum_word(source, "MODEL_SOURCE_"),
    )


def _size(model: "Model") -> str:
    """Returns the number of parameters and the size on disk, as far as they are known."""
    disk = model.display_size
    if not disk and model.HasField("size_bytes"):
        disk = f"{model.size_bytes / 2**30:.1f} GiB"
    return ", ".join(filter(None, (model.parameter_size, disk)))
