"""One mesh of real processes for the tests that only talk to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .processes import Mesh, Up

SETTINGS = {
    "providers": {
        "extractive": {"adapter": "extractive"},
        "scripted": {"adapter": "scripted"},
        "openai": {"adapter": "openai"},
    },
    "gateway": {"routes": {"default": {"targets": ["extractive/quote"]}}},
}


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    up = Up(tmp_path_factory.mktemp("mesh"), SETTINGS)
    try:
        yield Mesh(up)
    finally:
        assert up.end() == 0
