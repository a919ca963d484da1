"""Several gateways without a log and records that they share are refused, before anything starts."""

from typing import Any

import pytest

from sluice_kit.config import ConfigError

REDIS = {"redis": {"url": "redis://127.0.0.1:1/0"}}


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ({"replicas": 2}, "gateway.log.redis"),
        ({"replicas": 2, "log": REDIS}, "gateway.records.url"),
        ({"replicas": 2, "log": REDIS, "records": {"url": "sqlite:///records.db"}}, "gateway.records.url"),
        ({"records": {"url": "${NO_SUCH_DATABASE}"}}, "gateway.records.url"),
        ({"records": {"url": "mysql://user@host/database"}}, "gateway.records.url"),
        ({"records": {"url": "no database"}}, "gateway.records.url"),
        ({"records": {"url": "postgresql://user@host:port/database"}}, r":\d+: gateway.records.url: not a URL"),
        ({"conversations": {"url": "mysql://user@host/database"}}, r":\d+: gateway.conversations.url: expected"),
        ({"log": {"redis": {"url": "${NO_SUCH_REDIS}"}}}, "gateway.log.redis.url"),
        ({"log": {"redis": {"url": "no redis"}}}, r":\d+: gateway.log.redis.url: expected redis://"),
        ({"log": {"redis": {"url": "redis://host:port/0"}}}, r":\d+: gateway.log.redis.url: expected redis://"),
    ],
)
async def test_a_configuration_that_would_lose_responses(start: Any, section: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        async with start(section):
            pass
