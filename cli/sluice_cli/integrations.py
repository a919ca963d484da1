"""`sluice integrations`."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from sluice_cli import grid, output, session, status
from sluice_cli.options import Address, Json, Key, ListByDefault

if TYPE_CHECKING:
    from sluice_client import SluiceClient

app = typer.Typer(cls=ListByDefault, help="List, add and remove integrations.")
Name = Annotated[str, typer.Argument(metavar="ID", help="Its id, as models are named by it: ID/MODEL.")]

_COLUMNS: Final = (
    grid.Column("id"),
    grid.Column("adapter", gives_way=1),
    grid.Column("where"),
    grid.Column("state", styles={"available": "green", "misconfigured": "yellow", "unreachable": "red"}),
    grid.Column("detail", wraps=True),
)


@app.callback()
def integrations() -> None:
    """List, add and remove integrations. Without a command: list."""


@app.command("list")
def list_integrations(as_json: Json = False, address: Address = None, key: Key = None) -> None:
    """List the integrations, those of the configuration and those added since."""

    async def work(client: "SluiceClient") -> None:
        found = await client.list_integrations().all()
        if as_json:
            output.emit({"integrations": [output.as_json(one) for one in found]})
            return
        rows = []
        for one in found:
            part = status.part(one)
            where = one.placement + (", added" if one.registered else "")
            rows.append((one.id, one.adapter, where, part.state, part.detail))
        grid.show(_COLUMNS, rows, empty="no integrations")

    session.run(work, address, key, as_json=as_json)


@app.command("add")
def add(
    name: Name,
    at: Annotated[str, typer.Argument(metavar="WHERE", help="Where its adapter listens: HOST:PORT or unix:/PATH.")],
    as_json: Json = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """Add an adapter that runs already. It is kept over a restart of the gateway.

    The configuration says which addresses may be added (gateway.registration.allow). On a mesh with keys this takes one
    with the role admin.
    """

    async def work(client: "SluiceClient") -> None:
        added = await client.register_integration(name, at)
        if as_json:
            output.emit(output.as_json(added))
            return
        part = status.part(added)
        print(f"{name} is added; it is {part.state}" + (f": {part.detail}" if part.detail else ""))

    session.run(work, address, key, as_json=as_json)


@app.command("remove")
def remove(name: Name, as_json: Json = False, address: Address = None, key: Key = None) -> None:
    """Remove an adapter that was added. What it is being asked goes on to its end."""

    async def work(client: "SluiceClient") -> None:
        await client.remove_integration(name)
        if as_json:
            output.emit({"integration": name, "removed": True})
        else:
            print(f"{name} is removed")

    session.run(work, address, key, as_json=as_json)
