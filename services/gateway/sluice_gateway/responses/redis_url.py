"""Which Redis the configuration names."""

from redis.asyncio.connection import parse_url

from sluice_gateway.config import RedisConfig
from sluice_kit.config import ConfigDocument


def check_url(document: ConfigDocument, settings: RedisConfig) -> None:
    """Raises ConfigError for what is no URL of a Redis. It is not repeated: it may hold a password."""
    try:
        parse_url(settings.url.reveal())
    except ValueError:
        what = "expected redis://HOST:PORT/DATABASE, rediss:// for TLS, or unix:///PATH"
        raise document.error("gateway.log.redis.url", what) from None
