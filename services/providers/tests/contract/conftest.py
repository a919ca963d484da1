"""Fixtures of the contract suite: every test runs over grpc and colocated, and for each wire format where it fits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import pytest

from .formats import FORMATS
from .subject import TRANSPORTS, Subject, subject
from .upstream import Upstream, running_upstream
from .wire_format import Format


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=sorted(FORMATS))
def wire(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


def wires_with(having: Callable[[Format], object]) -> pytest.MarkDecorator:
    """Runs a test for the formats that have something, instead of for all."""
    return pytest.mark.parametrize(
        "wire", [FORMATS[name] for name in sorted(FORMATS) if having(FORMATS[name])], ids=name_of
    )


def name_of(wire: Format) -> str:
    """Returns what test ids call a format."""
    return wire.name


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with running_upstream() as running:
        yield running


class Start(Protocol):
    """Starts the adapter of the wire format against the upstream; keywords override settings."""

    def __call__(self, **settings: Any) -> AbstractAsyncContextManager[Subject]: ...


@pytest.fixture
def start(transport: str, wire: Format, upstream: Upstream, tmp_path: Path) -> Start:
    def make(**settings: Any) -> AbstractAsyncContextManager[Subject]:
        defaults: dict[str, Any] = {
            "adapter": wire.adapter,
            **wire.settings(upstream.url),
            "ttft_seconds": 10,
            "idle_seconds": 10,
        }
        return subject(transport, "vendor", defaults | settings, tmp_path)

    return make
