"""What an attempt's tokens cost when it began, so that whoever ends it in place of its gateway knows its cost."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the columns. Attempts of a program that does not know them yet have none."""
    op.add_column("attempts", sa.Column("input_rate", sa.BigInteger))
    op.add_column("attempts", sa.Column("output_rate", sa.BigInteger))
