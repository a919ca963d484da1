"""Which database the configuration names."""

from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from sluice_gateway.config import GatewayConfig, RecordsConfig
from sluice_kit.config import ConfigDocument, ConfigError

SETTING: Final = "gateway.records.url"
SQLITE: Final = "sqlite"
POSTGRES: Final = "postgresql"
_DRIVER: Final = "postgresql+psycopg"


def records_url(document: ConfigDocument, config: RecordsConfig) -> URL | None:
    """Returns the URL of the records; None if there is none. Raises ConfigError for what is no URL of a database."""
    if config.url is None:
        return None
    if config.url.missing is not None:
        raise document.error(SETTING, f"the variable {config.url.missing} is not set")
    return url_of(config.url.reveal(), SETTING)


def is_shared(document: ConfigDocument, config: RecordsConfig) -> bool:
    """Tells whether several gateways may have the records. Raises as `records_url` does."""
    url = records_url(document, config)
    return url is not None and url.get_backend_name() == POSTGRES


def check_urls(document: ConfigDocument, config: GatewayConfig) -> None:
    """Raises ConfigError, with the line, for what is no URL of a database; one whose variable is not set is left out."""
    for setting, url in ((SETTING, config.records.url), ("gateway.conversations.url", config.conversations.url)):
        if url is not None and url.missing is None:
            try:
                _parsed(url.reveal())
            except ValueError as error:
                raise document.error(setting, str(error)) from None


def url_of(url: str, setting: str) -> URL:
    """Returns the URL of a database that may hold what the gateway keeps. Raises ConfigError naming the setting."""
    try:
        return _parsed(url)
    except ValueError as error:
        raise ConfigError(f"{setting}: {error}") from None


def _parsed(url: str) -> URL:
    """Raises ValueError with words that do not repeat the URL: it has a password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError("not a URL of a database") from None
    if parsed.get_backend_name() == POSTGRES or parsed.drivername == "postgres":
        return parsed.set(drivername=_DRIVER)
    if parsed.drivername == SQLITE and parsed.database:
        return parsed
    raise ValueError("expected postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:///PATH")
