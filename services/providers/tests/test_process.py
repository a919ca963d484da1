"""The process: its command line, what it needs to start, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from sluice.provider.v1 import provider_service_pb2 as pb
from sluice.provider.v1 import provider_service_pb2_grpc
from sluice_kit.channels import open_channel

from .contract.subject import asking

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("SLUICE_", "OPENAI_", "ANTHROPIC_"))}


async def spawn(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sluice_providers", *words, env=CLEAN,
        stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip  # the command line on one line


@pytest.mark.slow
async def test_an_integration_without_a_key_serves_and_ends_with_its_supervisor(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/p.sock"
    process = await spawn(
        "--integration", "openai", "--set", f"providers.openai.listen={address}", "--until-stdin-closes"
    )
    assert process.stderr is not None
    assert process.stdin is not None
    line = json.loads(await asyncio.wait_for(process.stderr.readline(), 60))
    assert line["message"] == "serving"
    async with open_channel(address) as channel:
        stub = provider_service_pb2_grpc.ProviderServiceStub(channel)
        status = await stub.GetStatus(pb.GetStatusRequest(), timeout=60)
        assert list(status.missing_settings) == ["OPENAI_API_KEY"]
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 60) == 0


@pytest.mark.slow
async def test_sigterm_lets_an_attempt_finish(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/p.sock"
    process = await spawn("--integration", "scripted", "--set", f"providers.scripted.listen={address}")
    assert process.stderr is not None
    await asyncio.wait_for(process.stderr.readline(), 60)
    async with open_channel(address) as channel:
        call = provider_service_pb2_grpc.ProviderServiceStub(channel).Generate(
            asking("scripted", "text?tokens=10&delay_ms=30"), timeout=60
        )
        batches = []
        async for batch in call:
            batches.append(batch)
            if len(batches) == 2:
                process.terminate()
    assert batches[-1].events[-1].HasField("completed")
    assert await asyncio.wait_for(process.wait(), 60) == 0


@pytest.mark.slow
async def test_an_unknown_adapter_fails_the_start_by_name() -> None:
    process = await spawn("--integration", "nope")
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 78
    assert b"providers.nope.adapter: no adapter 'nope'" in errors
