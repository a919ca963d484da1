"""Runs the work of one command against the mesh, and turns every end into an exit code."""

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import typer

from sluice_cli import mesh
from sluice_cli.options import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_TERMINATED

if TYPE_CHECKING:
    from sluice_client import SluiceClient

PATIENCE_SECONDS: Final = 2.0
"""A person waits at the terminal: a mesh that is not there is said soon."""


def run(
    work: "Callable[[SluiceClient], Awaitable[None]]", address: str | None, key: str | None, *, as_json: bool
) -> None:
    """Runs `work` with a connected client.

    Raises typer.Exit with 1 after saying what failed and what to do next, 130 after Ctrl-C, 143 after SIGTERM or
    SIGHUP. All of these cancel the work first, so that it can cancel upstream.
    """
    import asyncio
    import signal

    target = mesh.find(address, key)
    terminated = False

    async def main() -> bool:
        """Returns whether the work went well."""
        from sluice_cli import problems
        from sluice_client import RetryPolicy, SluiceClient
        from sluice_kit.errors import SluiceError

        task = asyncio.current_task()
        assert task is not None  # asyncio.run made it

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        if sys.platform != "win32":  # where loops have no signal handlers
            for number in (signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, terminate)
        retry = RetryPolicy(patience=PATIENCE_SECONDS)
        async with SluiceClient(target.address, target.key, target.tls or None, retry=retry) as client:
            try:
                await work(client)
            except SluiceError as error:
                await problems.report(error, client, target, as_json=as_json)
                return False
        return True

    try:
        fine = asyncio.run(main())
    except KeyboardInterrupt:
        print("sluice: interrupted", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except asyncio.CancelledError:
        if not terminated:
            raise
        raise typer.Exit(EXIT_TERMINATED) from None
    if not fine:
        raise typer.Exit(EXIT_FAILURE)
