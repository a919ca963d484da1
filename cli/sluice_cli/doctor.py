"""`sluice doctor`."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from sluice_cli import mesh, output, session
from sluice_cli.options import EXIT_FAILURE, Address, Config, Json, Key

if TYPE_CHECKING:
    from sluice_client import SluiceClient


def doctor(
    config: Config = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask the default model a tiny question, too; that may cost a little.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for a warning, too.")] = False,
    as_json: Json = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """Examine a running mesh and say what is wrong, a line each, with what to do about it.

    It looks at the way to the gateway, the key, every integration with its missing variables by name, the routes,
    retrieval and its corpora, and the clocks. With --config also at a sluice.yaml and what it names on this machine:
    files and who may read them, listeners, prices, disk, telemetry.

    Exits with 0 if nothing is wrong; warnings are for what works, or what nobody needs yet. With 1 if something is.
    """
    import asyncio
    import functools

    from sluice_cli.checkup import door, local
    from sluice_cli.checkup.findings import Findings, Level, print_line
    from sluice_cli.checkup.running import Patient

    findings = Findings((lambda _: None) if as_json else print_line)
    target = mesh.find(address, key)
    door.look_for_proxies(target, os.environ, findings)
    if config is not None:
        asyncio.run(local.examine(config, findings))

    async def work(client: "SluiceClient") -> None:
        if await door.knock(target, findings):
            await Patient(client, target, findings).examine(ask=ask)

    session.run(work, address, key, as_json=as_json)
    wrong, doubtful = findings.count(Level.FAIL), findings.count(Level.WARN)
    if as_json:
        output.emit({"ok": not wrong, "findings": [finding.as_json() for finding in findings.made]})
    else:
        count = functools.partial(_count, total=len(findings.made))
        print(count(wrong, doubtful))
    if wrong or (strict and doubtful):
        raise typer.Exit(EXIT_FAILURE)


def _count(wrong: int, doubtful: int, total: int) -> str:
    if not wrong and not doubtful:
        return f"all is well: {total} things looked at"
    return f"{wrong} wrong, {doubtful} to look at, of {total}"
