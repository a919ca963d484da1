"""`sluice login`: from a question to an answer, through a real mesh, at a stand-in for GitHub."""

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from sluice_cli.login import remaining
from sluice_kit.testing import Mesh, mesh

from .github import TOKEN, GitHub

pytestmark = pytest.mark.slow

SLUICE: Final = str(Path(sys.executable).with_name("sluice"))
SECONDS: Final = 60.0


@pytest.fixture
async def github() -> AsyncIterator[GitHub]:
    async with GitHub().running() as running:
        yield running


@pytest.fixture(params=["process", "colocated"])
async def gateway(request: pytest.FixtureRequest, github: GitHub) -> AsyncIterator[Mesh]:
    """A mesh with an adapter in front of GitHub, beside one that knows no sign-in."""
    providers = {"copilot": github.settings, "scripted": {"adapter": "scripted"}}
    integrations = {name: {"colocate": True} for name in providers} if request.param == "colocated" else {}
    async with mesh({"providers": providers, "gateway": {"integrations": integrations}}) as running:
        yield running


async def start(gateway: Mesh, *arguments: str) -> asyncio.subprocess.Process:
    """Starts a command with pipes."""
    return await asyncio.create_subprocess_exec(
        SLUICE, *arguments, env=variables(gateway), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


def variables(gateway: Mesh, **more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "SLUICE_ADDRESS": gateway.address, **more}


async def end(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    """Returns exit code, standard output and standard error."""
    said, complained = await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode is not None
    return process.returncode, said.decode(), complained.decode()


async def run(gateway: Mesh, *arguments: str) -> tuple[int, str, str]:
    return await end(await start(gateway, *arguments))


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), SECONDS)).decode().strip()


async def test_from_nothing_to_an_answer(gateway: Mesh, github: GitHub) -> None:
    _, status, _ = await run(gateway, "status")
    assert "sluice login copilot" in status
    process = await start(gateway, "login")
    assert await line_of(process) == f"Open   {github.url}/device"
    assert await line_of(process) == "Code   WDJB-MJHT"
    await asyncio.wait_for(github.polled.wait(), SECONDS)
    github.answer = ""
    code, said, complained = await end(process)
    assert (code, said) == (0, "copilot is signed in as octocat\n")
    assert complained == "waiting for your consent\n"
    code, said, _ = await run(gateway, "ask", "hi", "--model", "copilot/gpt-5-mini")
    assert (code, said) == (0, "Hello from Copilot\n")
    kept = gateway.document.state_dir() / "providers" / "copilot" / "token.json"
    assert TOKEN in kept.read_text(encoding="utf-8")
    _, status, _ = await run(gateway, "status")
    assert re.search(r"^copilot .*\bavailable\b", status, re.MULTILINE)


async def test_steps_as_json(gateway: Mesh, github: GitHub) -> None:
    github.answer = ""
    code, said, complained = await run(gateway, "login", "copilot", "--json")
    assert (code, complained) == (0, "")
    challenge, done = map(json.loads, said.splitlines())
    assert challenge["challenge"]["userCode"] == "WDJB-MJHT"
    assert challenge["challenge"]["expireTime"]
    assert done == {"done": {"account": "octocat"}}
    assert TOKEN not in said


@pytest.mark.parametrize(
    ("word", "reason", "said"),
    [
        ("access_denied", "UPSTREAM_PERMISSION", "declined"),
        ("expired_token", "UPSTREAM_TIMEOUT", "expired"),
    ],
)
async def test_what_ends_badly_is_said(word: str, reason: str, said: str, gateway: Mesh, github: GitHub) -> None:
    github.answer = word
    code, out, complained = await run(gateway, "login", "--json")
    assert code == 1
    assert said in complained
    assert json.loads(out.splitlines()[-1])["error"]["reason"] == reason


async def test_ctrl_c_gives_up(gateway: Mesh, github: GitHub) -> None:
    process = await start(gateway, "login")
    await line_of(process)
    await asyncio.wait_for(github.polled.wait(), SECONDS)
    process.send_signal(signal.SIGINT)
    code, _, complained = await end(process)
    assert code == 130
    assert complained.splitlines()[-1] == "sluice: interrupted"
    assert "Traceback" not in complained
    # Another can begin at once: nothing of the first one is left.
    github.answer = ""
    code, said, _ = await run(gateway, "login")
    assert code == 0
    assert "signed in as octocat" in said


async def test_what_is_not_there_is_told_how_to_add(gateway: Mesh) -> None:
    code, said, complained = await run(gateway, "login", "hub", "--json")
    assert code == 1
    assert "no integration 'hub'" in complained
    assert "providers:\n  hub: {adapter: copilot}" in complained
    assert json.loads(said)["error"]["reason"] == "MODEL_NOT_FOUND"
    code, _, complained = await run(gateway, "login", "scripted")
    assert code == 1
    assert "does not offer SignIn" in complained


async def test_a_terminal_shows_how_long_the_code_is_good(gateway: Mesh, github: GitHub) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = await asyncio.create_subprocess_exec(
        SLUICE,
        "login",
        env=variables(gateway, TERM="xterm-256color"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    screen = ""
    while piece := await asyncio.to_thread(_read, ours):
        screen += piece
        if "the code is good for 14:" in screen:
            github.answer = ""
    assert await asyncio.wait_for(process.wait(), SECONDS) == 0
    os.close(ours)
    assert "waiting for your consent" in screen
    assert "copilot is signed in as octocat" in screen
    assert screen.count("\x1b[?25l") == screen.count("\x1b[?25h"), "the cursor stays hidden"


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except OSError:
        return ""  # the other end is closed: that is how a terminal ends


def test_time_that_is_left() -> None:
    assert remaining(899.9) == "the code is good for 14:59"
    assert remaining(61) == "the code is good for 1:01"
    assert remaining(-5) == "the code is good for 0:00"
