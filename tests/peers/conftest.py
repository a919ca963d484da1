"""`make test-peers` starts the mock and runs these; the default run does not look here (see `norecursedirs`)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .peer import INTEGRATIONS, Peer, peer


def pytest_configure(config: pytest.Config) -> None:
    if "SLUICE_PEER_URL" not in os.environ:
        raise pytest.UsageError("these tests need the mock that `make test-peers` starts")


@pytest.fixture(params=sorted(INTEGRATIONS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def ours(name: str, tmp_path: Path) -> AsyncIterator[Peer]:
    async with peer(name, tmp_path) as running:
        yield running
