"""Which steps the tables of conversations are made by."""

from typing import Final

from sluice_kit.tables import Steps

STEPS: Final = Steps(
    package="sluice_gateway.conversations", head="0001", versions="alembic_version", lock=0x736C756963650001
)
