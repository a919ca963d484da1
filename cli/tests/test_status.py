"""`sluice status`: what it shows, what it follows, and how it ends."""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import pytest

from sluice.gateway.v1.integration_service_pb2 import HealthState, Integration, IntegrationHealth
from sluice_cli import status
from sluice_kit.server import shut_down
from sluice_kit.testing import mesh

from .command import SLUICE, said, variables

PROVIDERS: Final[Mapping[str, Any]] = {
    "providers": {
        "scripted": {"adapter": "scripted"},
        "keyless": {"adapter": "scripted", "missing": ["A_KEY", "B_KEY"]},
    }
}


def at(address: str) -> dict[str, Any]:
    """Settings of the same mesh at an address."""
    return {**PROVIDERS, "gateway": {"listen": address}}


class Watching:
    """A running `sluice status --watch` with pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        self.process = process
        self._lines = process.stdout

    async def line(self) -> str:
        line = (await self._lines.readline()).decode()
        assert line, "it ended"
        return line.rstrip("\n")

    async def until(self, pattern: str) -> str:
        """Returns the first line in which a pattern is found."""
        while True:
            line = await self.line()
            if re.search(pattern, line):
                return line

    async def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


@contextlib.asynccontextmanager
async def watching(address: str, *arguments: str) -> AsyncIterator[Watching]:
    process = await asyncio.create_subprocess_exec(
        SLUICE,
        "status",
        "--watch",
        *arguments,
        env=variables(address),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Watching(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def test_a_row_says_what_to_set() -> None:
    health = IntegrationHealth(
        state=HealthState.HEALTH_STATE_MISCONFIGURED, detail="no region", missing_settings=["A", "B"]
    )
    row = status.part(Integration(id="x", adapter="y", health=health))
    assert row == ("x", "y", "misconfigured", "", "", "no region; set A, B")
    assert status.part(Integration(id="x")).state == "unknown"
    future = IntegrationHealth.FromString(b"\x08\x63")
    assert status.part(Integration(id="x", health=future)).state == "unknown"


@pytest.mark.parametrize(("micros", "text"), [(20, "< 1 ms"), (12_400, "12 ms"), (2_340_000, "2.3 s")])
def test_latencies_are_for_people(micros: int, text: str) -> None:
    health = IntegrationHealth(state=HealthState.HEALTH_STATE_AVAILABLE, version="1.2")
    health.latency.FromMicroseconds(micros)
    assert status.part(Integration(id="x", health=health))[3:5] == ("1.2", text)


async def test_the_table_in_a_pipe_and_for_programs() -> None:
    async with mesh(PROVIDERS) as running:
        plain = (await said(running.address, "status")).splitlines()
        assert plain[0].split() == ["PART", "ADAPTER", "STATE", "VERSION", "LATENCY", "DETAIL"]
        assert [line.split()[0] for line in plain[1:]] == ["gateway", "retrieval", "keyless", "scripted"]
        assert "set A_KEY, B_KEY" in plain[3]
        assert " ms" not in plain[4]
        assert " ms" in (await said(running.address, "status", "--probe")).splitlines()[4]
        answer = json.loads(await said(running.address, "status", "--probe", "--json"))
        assert answer["gateway"] == {"address": running.address, "state": "available"}
        assert answer["retrieval"]["state"] == "unreachable"
        assert [one["health"]["state"] for one in answer["integrations"]] == [
            "HEALTH_STATE_MISCONFIGURED",
            "HEALTH_STATE_AVAILABLE",
        ]
        assert "latency" in answer["integrations"][1]["health"]


async def test_a_gateway_that_takes_no_requests_is_not_available() -> None:
    async def away() -> None:
        raise ConnectionError

    async with mesh(PROVIDERS) as running:
        await running.servers["gateway"]._health.open({"response log": away})
        line = (await said(running.address, "status")).splitlines()[1]
        assert re.match(r"gateway +not ready +it takes no new requests: `sluice doctor` says", line)
        gateway = json.loads(await said(running.address, "status", "--json"))["gateway"]
        assert gateway["state"] == "not ready"


@pytest.mark.slow
async def test_a_pipe_gets_a_line_for_each_change() -> None:
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(mesh(PROVIDERS))
        address = running.address
        async with watching(address) as watch:
            first = [await watch.line() for _ in range(4)]
            assert [line.split()[2] for line in first] == ["gateway", "retrieval", "keyless", "scripted"]
            assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in first)
            assert first[2].endswith("keyless is not configured: set A_KEY, B_KEY")
            await shut_down(running.services["scripted"], running.servers["scripted"], 0)
            assert re.search(r"  scripted +unreachable  ", await watch.line())
            await stack.aclose()
            await watch.until(r"  gateway +unreachable  .*waiting for it")
            async with mesh(at(address)):
                await watch.until(r"  gateway +available  ")
                # What is as it was is not said again.
                assert re.search(r"  scripted +available", await watch.line())
                assert await watch.interrupt() == 130


@pytest.mark.slow
async def test_programs_get_an_object_for_each_change() -> None:
    async with mesh(PROVIDERS) as running, watching(running.address, "--json") as watch:
        lines = [json.loads(await watch.line()) for _ in range(4)]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line.pop("time")) for line in lines)
        assert [next(iter(line)) for line in lines] == ["gateway", "retrieval", "integration", "integration"]
        assert lines[0]["gateway"] == {"address": running.address, "state": "available"}
        assert lines[2]["integration"]["health"]["missingSettings"] == ["A_KEY", "B_KEY"]
        await shut_down(running.services["scripted"], running.servers["scripted"], 0)
        changed = json.loads(await watch.line())["integration"]
        assert (changed["id"], changed["health"]["state"]) == ("scripted", "HEALTH_STATE_UNREACHABLE")
        assert await watch.interrupt() == 130


@pytest.mark.slow
async def test_a_terminal_gets_a_table_that_changes() -> None:
    async with mesh(PROVIDERS) as running:
        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            SLUICE,
            "status",
            "--watch",
            env=variables(running.address),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        screen = ""

        async def until(pattern: str) -> None:
            nonlocal screen
            while not re.search(pattern, screen):
                screen += (await asyncio.to_thread(os.read, ours, 65536)).decode(errors="replace")

        await until(r"scripted +scripted +available")
        assert re.search(r"keyless +scripted +misconfigured .*set A_KEY, B_KEY", screen)
        await shut_down(running.services["scripted"], running.servers["scripted"], 0)
        await until(r"scripted +scripted +unreachable")
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the other end is closed: that is how a terminal ends
            await until("interrupted")
        assert await process.wait() == 130
        os.close(ours)
        assert "Traceback" not in screen


async def test_no_gateway_is_a_failure_at_once() -> None:
    for more in ([], ["--watch"], ["--watch", "--json"]):
        printed = await said("unix:/nonexistent/sluice.sock", "status", *more, code=1)
        assert ("SERVICE_UNREACHABLE" in printed) == ("--json" in more)
