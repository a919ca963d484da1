"""Several gateways without a shared log are refused, before anything starts."""

from typing import Any

import pytest

from sluice_kit.config import ConfigError


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({"replicas": 2}, "gateway.replicas"),
        ({"log": {"redis": {"url": "${NO_SUCH_REDIS}"}}}, "gateway.log.redis.url"),
    ],
)
async def test_a_configuration_that_would_lose_responses(start: Any, section: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        async with start(section):
            pass
