"""`sluice login`."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from sluice_cli import output, session
from sluice_cli.options import EXIT_FAILURE, Address, Json, Key

if TYPE_CHECKING:
    from rich.progress import Task
    from rich.text import Text

    from sluice.provider.v1.sign_in_pb2 import SignInChallenge, SignInStep
    from sluice_client import SignInStream, SluiceClient
    from sluice_kit.errors import SluiceError


def login(
    integration: Annotated[str, typer.Argument(help="The integration to sign in.")] = "copilot",
    browser: Annotated[bool, typer.Option("--browser", help="Open the address in this machine's browser.")] = False,
    as_json: Json = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """Sign in at a vendor that wants a person's consent, such as GitHub Copilot.

    Prints an address and a code: open the address in any browser, on any device, and type the code there. The mesh
    waits, keeps what the vendor gives it, and uses it at once. Ctrl-C gives up. On a mesh with keys this takes one with
    the role admin.

    [bold]Example[/]

      sluice login copilot
    """

    async def work(client: "SluiceClient") -> None:
        from sluice_kit.errors import NotFoundError

        try:
            async with client.begin_sign_in(integration) as steps:
                if as_json:
                    await _print_steps(steps, browser=browser)
                else:
                    await _follow(steps, integration, browser=browser)
        except NotFoundError as error:
            if "integration" not in error.metadata:
                raise
            _say_what_to_add(error, integration, as_json=as_json)
            raise typer.Exit(EXIT_FAILURE) from None

    session.run(work, address, key, as_json=as_json)


async def _print_steps(steps: "SignInStream", *, browser: bool) -> None:
    async for step in steps:
        output.emit(output.as_json(step))
        if browser and step.HasField("challenge"):
            await _open(step.challenge)


async def _follow(steps: "SignInStream", integration: str, *, browser: bool) -> None:
    async for step in steps:
        if not step.HasField("challenge"):
            _say_done(step, integration)
            continue
        _show(step.challenge)
        if browser:
            await _open(step.challenge)
        if sys.stderr.isatty():
            _say_done(await _spin(steps, step.challenge), integration)
        else:
            output.say("waiting for your consent")


def _show(challenge: "SignInChallenge") -> None:
    print(f"Open   {challenge.verification_uri}")
    print(f"Code   {challenge.user_code}", flush=True)
    if challenge.verification_uri_complete:
        print(f"or     {challenge.verification_uri_complete}", flush=True)


async def _spin(steps: "SignInStream", challenge: "SignInChallenge") -> "SignInStep":
    """Returns the next step; until then a terminal shows how long the code is good."""
    from rich.progress import Progress, ProgressColumn, SpinnerColumn, TextColumn
    from rich.text import Text

    until = challenge.expire_time.ToMilliseconds() / 1000

    class Left(ProgressColumn):
        """How long the code is good."""

        def render(self, task: "Task") -> "Text":
            return Text(remaining(until - time.time()), style="dim")

    columns = (SpinnerColumn(), TextColumn("{task.description}"), Left())
    with Progress(*columns, console=output.console(stderr=True), transient=True) as progress:
        progress.add_task("waiting for your consent", total=None)
        return await anext(steps)


def remaining(seconds: float) -> str:
    """Returns how long a code is good, for people."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"the code is good for {minutes}:{rest:02d}"


def _say_done(step: "SignInStep", integration: str) -> None:
    if step.HasField("done"):
        account = f" as {step.done.account}" if step.done.account else ""
        print(f"{integration} is signed in{account}", flush=True)


async def _open(challenge: "SignInChallenge") -> None:
    import asyncio
    import webbrowser

    address = challenge.verification_uri_complete or challenge.verification_uri
    if not address.startswith(("https://", "http://")) or not await asyncio.to_thread(webbrowser.open, address):
        output.say("note: no browser could be opened here")


def _say_what_to_add(error: "SluiceError", integration: str, *, as_json: bool) -> None:
    from sluice_cli import problems

    output.say(f"sluice: {error.message}")
    output.say("  → add it to sluice.yaml and start the mesh again:")
    adapter = "{}" if integration == "copilot" else "{adapter: copilot}"
    output.say(f"\nproviders:\n  {integration}: {adapter}")
    if as_json:
        output.emit({"error": problems.described(error)})
