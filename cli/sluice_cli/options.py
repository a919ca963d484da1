"""Options that several commands take, and the exit codes of all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click import Context

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143

_MESH: Final = "Mesh"

Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="SLUICE_ADDRESS",
        metavar="HOST:PORT",
        help="The gateway; https://host:port for TLS. Default: the mesh that [bold]sluice up[/] runs here.",
        rich_help_panel=_MESH,
        show_default=False,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="SLUICE_API_KEY",
        metavar="KEY",
        help="The API key. Prefer the variable: others can see arguments.",
        rich_help_panel=_MESH,
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.", show_default=False)]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The sluice.yaml to read. Default: $SLUICE_CONFIG, else ./sluice.yaml if there is one.",
        show_default=False,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="PATTERN", help="Only files like this (gitignore style). May be repeated."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="PATTERN", help="No files like this. May be repeated."),
]


class ListByDefault(TyperGroup):
    """A group of commands that lists when none is named: `sluice tasks --json` is `sluice tasks list --json`."""

    def parse_args(self, ctx: "Context", args: list[str]) -> list[str]:
        """Puts `list` where the name of a command is missing."""
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def help_of(function: Callable[..., object]) -> str:
    """Returns a docstring as help: each paragraph on one line, to be wrapped to the terminal's width."""
    paragraphs = (function.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
