"""`sluice config`."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluice_cli import output
from sluice_cli.options import EXIT_FAILURE, Json

if TYPE_CHECKING:
    from sluice_kit.config import ConfigDocument

app = typer.Typer(no_args_is_help=True, help="Check configurations.")


@app.callback()
def config() -> None:
    """Check configurations."""


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="The sluice.yaml to check.")],
    as_json: Json = False,
) -> None:
    """Check a sluice.yaml: mistakes are named with their line, missing variables by name.

    A variable that is not set is no mistake; the integration that needs it will say so in [bold]sluice status[/]. Nor is
    a route to an integration that the file does not have, which may be registered while the mesh runs. Both are noted.
    """
    from sluice_kit.config import ConfigError, load

    problems: list[str] = []
    missing: dict[str, str] = {}
    elsewhere: list[str] = []
    try:
        document = load(file)
    except ConfigError as error:
        problems.append(str(error))
    else:
        problems.extend(problems_of(document))
        missing = dict(unset_variables(document.data))
        elsewhere = [] if problems else list(targets_elsewhere(document))
    if as_json:
        said = {"ok": not problems, "problems": problems, "unsetVariables": missing, "targetsElsewhere": elsewhere}
        output.emit(said)
    else:
        for problem in problems:
            output.say(f"sluice: {problem}")
        for setting, variable in missing.items():
            output.say(f"note: {setting}: environment variable {variable} is not set")
        for target in elsewhere:
            output.say(f"note: {target}")
        if not problems:
            print(f"{file}: good")
    if problems:
        raise typer.Exit(EXIT_FAILURE)


def problems_of(document: "ConfigDocument") -> Iterator[str]:
    """Yields what each section's own reader objects to, once each."""
    from importlib.metadata import entry_points

    from sluice_kit.config import AuthConfig, ConfigError, LogConfig, ServerConfig
    from sluice_kit.main import SERVICES_GROUP
    from sluice_kit.telemetry import TelemetryConfig

    seen: set[str] = set()
    attempts: list[tuple[str, Any, argparse.Namespace | None]] = [
        ("auth", AuthConfig, None),
        ("log", LogConfig, None),
        ("server", ServerConfig, None),
        ("telemetry", TelemetryConfig, None),
    ]
    for entry in sorted(entry_points(group=SERVICES_GROUP), key=lambda entry: entry.name):
        if entry.name == "providers":
            for name in document.entries("providers"):
                attempts.append(("", entry.load(), argparse.Namespace(integration=name)))
        else:
            attempts.append(("", entry.load(), argparse.Namespace()))
    for section, reader, options in attempts:
        try:
            if options is None:
                document.section(section, reader)
            else:
                reader(document, options)
        except ConfigError as error:
            if str(error) not in seen:
                seen.add(str(error))
                yield str(error)


def targets_elsewhere(document: "ConfigDocument") -> Iterator[str]:
    """Yields, for a configuration without mistakes, each target whose integration does not stand in it, with its line."""
    gateway = document.data.get("gateway") or {}
    known = {*document.entries("providers"), *(gateway.get("integrations") or {})}
    if not known:
        return  # `sluice up` starts some of its own then
    for alias, route in (gateway.get("routes") or {}).items():
        for target in route["targets"]:
            provider = str(target).partition("/")[0]
            if provider not in known:
                yield str(
                    document.error(f"gateway.routes.{alias}.targets", f"no integration '{provider}' in this file")
                )


def unset_variables(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    from sluice_kit.config import Unset

    if isinstance(value, Unset):
        yield path, value.variable
    elif isinstance(value, dict):
        for name, child in value.items():
            yield from unset_variables(child, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from unset_variables(child, f"{path}.{number}")
