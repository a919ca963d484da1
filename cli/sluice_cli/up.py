"""`sluice up`."""

import shutil
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sluice_cli import mesh, output
from sluice_cli.options import EXIT_FAILURE, EXIT_USAGE, Config, Json

if TYPE_CHECKING:
    from pathlib import Path

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

    words = overrides or []
    try:
        document = load(mesh.config_path(config), words)
        code = _up(document, words, port, logs=logs, as_json=as_json)
    except ConfigError as error:
        output.say(f"sluice: {error}")
        raise typer.Exit(EXIT_FAILURE) from None
    raise typer.Exit(code)


def _up(document: "ConfigDocument", overrides: list[str], port: int | None, *, logs: bool, as_json: bool) -> int:
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
            return _supervise(document, overrides, port, runtime_dir, logs=logs, as_json=as_json)
        finally:
            shutil.rmtree(runtime_dir, ignore_errors=True)
    finally:
        lock.release()


def _supervise(
    document: "ConfigDocument",
    overrides: list[str],
    port: int | None,
    runtime_dir: "Path",
    *,
    logs: bool,
    as_json: bool,
) -> int:
    import asyncio

    from sluice_cli.supervisor.board import make_board
    from sluice_cli.supervisor.plan import make_plan, why_taken
    from sluice_cli.supervisor.supervisor import Places, Supervisor
    from sluice_kit.config import ServerConfig

    plan = make_plan(document, overrides, runtime_dir, port)
    taken = why_taken(plan.address)
    if taken is not None:
        output.say(f"sluice: cannot listen on {plan.address}: {taken}\n  → choose another port: sluice up --port 7401")
        return EXIT_FAILURE
    places = Places(mesh.mesh_file(document), runtime_dir, document.state_dir() / "logs")
    drain = document.section("server", ServerConfig).drain_seconds

    async def main() -> int:
        board = make_board(plan.elsewhere, as_json=as_json)
        try:
            return await Supervisor(plan, places, board, drain_seconds=drain, logs=logs).run()
        finally:
            board.close()

    return asyncio.run(main())
