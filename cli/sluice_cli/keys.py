"""`sluice keys`."""

import hashlib
import json
import secrets
from enum import StrEnum
from typing import Annotated, Final

import typer

from sluice_cli import output
from sluice_cli.options import Json

app = typer.Typer(no_args_is_help=True, help="Make API keys.")

_BYTES: Final = 32


class Role(StrEnum):
    """What a key may do; each includes the ones before."""

    USER = "user"
    EDITOR = "editor"
    ADMIN = "admin"


@app.callback()
def keys() -> None:
    """Make API keys for meshes with [bold]auth.mode: keys[/]."""


@app.command("new")
def new_key(
    identity: Annotated[str | None, typer.Option("--id", help="Id of the key, for logs. Default: made up.")] = None,
    tenant: Annotated[str, typer.Option(help="Who it belongs to; tenants never see each other's data.")] = "default",
    role: Annotated[
        list[Role] | None,
        typer.Option(help="What it may do: user asks, editor indexes too, admin everything. Default: user."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a random key: it is shown once, the row for the keys file holds only its hash.

    Add the row to the file that [bold]auth.keys_file[/] names, and give the key to who will use it.
    """
    key = f"sk-sluice-{secrets.token_urlsafe(_BYTES)}"
    row = {
        "id": identity or f"key-{secrets.token_hex(4)}",
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "tenant": tenant,
        "roles": [str(one) for one in role or [Role.USER]],
    }
    if as_json:
        output.emit({"key": key, "row": row})
        return
    print(key)
    output.say("\nThe key above is shown this once. Add this row under `keys:` in the keys file:\n")
    # JSON's texts are YAML's, too, with everything quoted that needs it.
    head, *rest = (f"{name}: {json.dumps(value)}" for name, value in row.items())
    output.say("\n".join([f"  - {head}", *(f"    {line}" for line in rest)]))
