"""`sluice up`."""

import shutil
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from sluice_cli import mesh, output
from sluice_cli.options import EXIT_FAILURE, EXIT_USAGE, Config, Json

if TYPE_CHECKING:
    from pathlib import Path

    from sluice_cli.supervisor.certificates import Certificates
    from sluice_kit.config import ConfigDocument


def up(
    config: Config = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="The gateway's port; 0: any free one. Default: as configured, 7400."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override one setting. May be repeated.")
    ] = None,
    logs: Annotated[bool, typer.Option("--logs", help="Show the services' logs, too.")] = False,
    until_stdin_closes: Annotated[
        bool,
        typer.Option(
            "--until-stdin-closes", help="Stop when standard input ends, so that it never outlives its starter."
        ),
    ] = False,
    mtls: Annotated[
        bool,
        typer.Option("--mtls", help="Let services talk over mutual TLS, with certificates made in the state folder."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Start a mesh on this machine, watch it, and stop it on Ctrl-C.

    Every service is a process of its own; only the gateway listens on a port, the others on private Unix sockets. The
    table shows what is up, where, and what is missing by name. What crashes is restarted. Nothing is left running,
    however this ends. Without a configuration it needs no key and no server.

    [bold]Examples[/]

      sluice up

      OPENAI_API_KEY=… sluice up --port 7500 --logs
    """
    if sys.platform == "win32":
        output.say("sluice: `sluice up` needs Unix sockets; on Windows run it inside WSL")
        raise typer.Exit(EXIT_USAGE)
    from sluice_kit.config import ConfigError, load

    options = Options(tuple(overrides or ()), port, logs, until_stdin_closes, mtls, as_json)
    try:
        code = _up(load(mesh.config_path(config), options.overrides), options)
    except ConfigError as error:
        output.say(f"sluice: {error}")
        raise typer.Exit(EXIT_FAILURE) from None
    raise typer.Exit(code)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    overrides: tuple[str, ...]
    port: int | None
    logs: bool
    until_stdin_closes: bool
    mtls: bool
    as_json: bool


def _up(document: "ConfigDocument", options: Options) -> int:
    from sluice_cli.supervisor import folders

    state_dir = document.state_dir()
    path = mesh.mesh_file(document)
    try:
        lock = folders.StateLock(path.parent)
    except folders.AlreadyRunning as error:
        output.say(f"sluice: {error}\n  → use it, stop it with Ctrl-C where it runs, or set another state_dir")
        return EXIT_FAILURE
    except OSError as error:
        output.say(f"sluice: the state folder {state_dir} cannot be used: {error.strerror}")
        return EXIT_FAILURE
    try:
        folders.remove_leftovers(mesh.read_mesh_file(path))
        runtime_dir = folders.make_runtime_dir()
        try:
            return _supervise(document, options, runtime_dir)
        finally:
            shutil.rmtree(runtime_dir, ignore_errors=True)
    finally:
        lock.release()


def _supervise(document: "ConfigDocument", options: Options, runtime_dir: "Path") -> int:
    import asyncio

    from sluice_cli.supervisor.board import make_board
    from sluice_cli.supervisor.metrics import spread
    from sluice_cli.supervisor.plan import make_plan, why_taken
    from sluice_cli.supervisor.supervisor import Places, Supervisor
    from sluice_kit.config import ServerConfig

    certificates = _certificates(document) if options.mtls else None
    plan = make_plan(document, options.overrides, runtime_dir, options.port, certificates)
    plan = replace(plan, children=spread(document, plan.children))
    taken = why_taken(plan.address)
    if taken is not None:
        output.say(f"sluice: cannot listen on {plan.address}: {taken}\n  → choose another port: sluice up --port 7401")
        return EXIT_FAILURE
    places = Places(mesh.mesh_file(document), runtime_dir, document.state_dir() / "logs")
    drain = document.section("server", ServerConfig).drain_seconds

    async def main() -> int:
        board = make_board(plan.elsewhere, as_json=options.as_json)
        try:
            supervisor = Supervisor(
                plan,
                places,
                board,
                drain_seconds=drain,
                logs=options.logs,
                until_stdin_closes=options.until_stdin_closes,
                certificates=certificates,
            )
            return await supervisor.run()
        finally:
            board.close()

    return asyncio.run(main())


def _certificates(document: "ConfigDocument") -> "Certificates":
    from sluice_cli.supervisor.certificates import Certificates
    from sluice_kit.config import TlsConfig

    config = document.section("tls", TlsConfig)
    for name in ("certificate", "key", "ca"):
        if getattr(config, name) is not None:
            raise document.error(
                f"tls.{name}", "`sluice up --mtls` makes certificates of its own: leave one of the two out"
            )
    return Certificates(document.state_dir() / "tls")
