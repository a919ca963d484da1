"""Fixtures of the contract suite: every test runs over grpc and colocated, and for each wire format where it fits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from .format_vendors import ROWS
from .formats import FORMATS
from .subject import TRANSPORTS, Subject, subject
from .upstream import Upstream, running_upstream
from .wire_format import Format

OF_ROWS: Final = frozenset({"test_answers", "test_capabilities", "test_failures", "test_other_calls", "test_requests"})
"""Modules whose tests run for rows of vendors too: those of what a row decides. How HTTP breaks is the format's."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out rows of vendors where they would show nothing new: over grpc, and in modules that are not theirs."""

    def shows_something(item: pytest.Item) -> bool:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        wire = params.get("wire")
        if not isinstance(wire, str) or wire not in ROWS:
            return True
        return params.get("transport") == "colocated" and item.path.stem in OF_ROWS

    items[:] = [item for item in items if shows_something(item)]


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[*sorted(FORMATS), *sorted(ROWS)])
def wire(request: pytest.FixtureRequest) -> Format:
    return FORMATS.get(request.param) or ROWS[request.param]


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
            "ttft_seconds": 40,
            "idle_seconds": 40,
        }
        return subject(transport, "vendor", defaults | settings, tmp_path)

    return make
