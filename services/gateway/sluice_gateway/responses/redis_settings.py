"""What the configuration says of a log that several gateways share."""

from redis.asyncio.connection import parse_url

from sluice_gateway.config import GatewayConfig
from sluice_gateway.records.url import is_shared
from sluice_kit.config import ConfigDocument


def check_log(document: ConfigDocument, config: GatewayConfig) -> None:
    """Raises ConfigError if several gateways share no log and records, and for what is no address of a Redis.

    The address is not repeated: it may hold a password.
    """
    settings = config.log.redis
    if config.replicas > 1:
        if settings is None:
            raise document.error("gateway.replicas", "more than one gateway needs gateway.log.redis")
        if not is_shared(document, config.records):
            raise document.error(
                "gateway.replicas", "more than one gateway needs gateway.records.url: a Postgres that they share"
            )
    if settings is None:
        return
    if settings.url.missing is not None:
        raise document.error("gateway.log.redis.url", f"the variable {settings.url.missing} is not set")
    try:
        parse_url(settings.url.reveal())
    except ValueError:
        what = "expected redis://HOST:PORT/DATABASE, rediss:// for TLS, or unix:///PATH"
        raise document.error("gateway.log.redis.url", what) from None
