"""The command line itself. Commands import what they need when they run, so that help and completion are quick."""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from sluice_cli import (
    ask,
    backup,
    certs,
    config,
    conversations,
    corpora,
    doctor,
    index,
    integrations,
    keys,
    login,
    models,
    output,
    status,
    tasks,
    up,
    usage,
)
from sluice_cli.options import Json, help_of

_EPILOG = """[bold]First steps[/]

  sluice up                                     start a mesh on this machine (no key, no server needed)

  sluice index . --name here                    index this folder

  sluice ask "What is this?" --corpus here      ask about it, with citations

[dim]Exit codes: 0 done · 1 failure · 2 wrong usage · 130 interrupted[/]
"""

app = typer.Typer(
    name="sluice",
    help="Ask many models and your own repositories, through one mesh of services.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_ASK, _MESH, _MORE = "Ask and search", "The mesh", "More"


def _command(name: str, function: Callable[..., None], panel: str) -> None:
    app.command(name, rich_help_panel=panel, help=help_of(function))(function)


_command("ask", ask.ask, _ASK)
_command("search", index.search, _ASK)
_command("index", index.index, _ASK)
app.add_typer(corpora.app, name="corpora", rich_help_panel=_ASK)
app.add_typer(conversations.app, name="conversations", rich_help_panel=_ASK)
_command("up", up.up, _MESH)
_command("status", status.status, _MESH)
_command("doctor", doctor.doctor, _MESH)
_command("models", models.models, _MESH)
_command("routes", models.routes, _MESH)
_command("usage", usage.usage, _MESH)
_command("login", login.login, _MESH)
app.add_typer(integrations.app, name="integrations", rich_help_panel=_MESH)
app.add_typer(tasks.app, name="tasks", rich_help_panel=_MESH)
app.add_typer(config.app, name="config", rich_help_panel=_MORE)
_command("backup", backup.backup, _MORE)
_command("restore", backup.restore, _MORE)
app.add_typer(keys.app, name="keys", rich_help_panel=_MORE)
app.add_typer(certs.app, name="certs", rich_help_panel=_MORE)


@app.command("version", rich_help_panel=_MORE)
def version(as_json: Json = False) -> None:
    """Print the version of this command."""
    from importlib import metadata

    number = metadata.version("sluice-cli")
    if as_json:
        output.emit({"version": number, "python": sys.version.split()[0]})
    else:
        print(f"sluice {number}")


def _version_option(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version_option, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Ask many models and your own repositories, through one mesh of services."""


def main() -> None:
    """The console script `sluice`. Ends by SystemExit with the exit code."""
    from sluice_kit.launch import prepare

    prepare()
    app(prog_name="sluice")
