"""What a backup takes of the gateway's folder: its ledger and its conversations, where they are in SQLite."""

from pathlib import Path
from typing import Final

from sluice_gateway.config import GatewayConfig
from sluice_kit.backup import State, copy_database
from sluice_kit.config import ConfigDocument

_DATABASES: Final = ("records.db", "conversations.db")


def state(document: ConfigDocument) -> State:
    """Returns the state of the gateway of a configuration. Raises ConfigError."""
    config = document.section("gateway", GatewayConfig)
    folder = document.state_dir() / "gateway"
    elsewhere = ["responses that run, and the last ones' events: for minutes, in the gateway or in Redis"]
    if config.records.url is not None:
        elsewhere.append("records of the gateway: in Postgres")
    if config.conversations.url is not None or config.records.url is not None:
        elsewhere.append("conversations: in Postgres")
    return State(
        "gateway",
        folder,
        lambda target: _copy(folder, target),
        lambda: any((folder / name).exists() for name in _DATABASES),
        elsewhere,
    )


def _copy(folder: Path, target: Path) -> None:
    for name in _DATABASES:
        if (folder / name).exists():
            copy_database(folder / name, target / name)
