"""Sizes as people write them."""

from __future__ import annotations

import pytest

from sluice_providers.sizes import human_count, human_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (4_402_341_478, "4.1 GiB"),
        (2**30 - 1, "1.0 GiB"),
        (5 * 2**50, "5.0 PiB"),
        (5000 * 2**50, "5000.0 PiB"),
    ],
)
def test_bytes(size: int, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999"), (22_713_216, "22.7M"), (8_030_261_248, "8.0B"), (999_999_999, "1.0B"), (1_040_000_000_000, "1.0T")],
)
def test_parameters(count: int, text: str) -> None:
    assert human_count(count) == text
