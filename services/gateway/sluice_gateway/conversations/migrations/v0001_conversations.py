"""Conversations and their turns."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "conversations",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("conversation_id", sa.String(63), nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("max_age_ns", sa.BigInteger),
        sa.Column("max_turns", sa.Integer),
        sa.Column("last_number", sa.BigInteger, nullable=False),
        sa.Column("request_id", sa.String(36)),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("create_ns", sa.BigInteger, nullable=False),
        sa.Column("update_ns", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("tenant", "conversation_id", name="conversations_name"),
        sa.UniqueConstraint("tenant", "request_id", name="conversations_request"),
    )
    op.create_table(
        "turns",
        sa.Column(
            "conversation",
            sa.String(32),
            sa.ForeignKey("conversations.id", name="turns_conversation"),
            primary_key=True,
        ),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("lease_ns", sa.BigInteger, nullable=False),
        sa.Column("response", sa.String(80), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("requested_model", sa.Text, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("question", sa.LargeBinary, nullable=False),
        sa.Column("answer", sa.LargeBinary),
        sa.Column("evidence", sa.LargeBinary),
        sa.Column("error", sa.LargeBinary),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("messages", sa.Integer, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("usage_source", sa.Integer, nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger),
        sa.Column("finish_reason", sa.Integer, nullable=False),
        sa.Column("raw_finish_reason", sa.Text, nullable=False),
        sa.Column("create_ns", sa.BigInteger, nullable=False),
        sa.Column("end_ns", sa.BigInteger),
    )
    running = sa.text("state = 'running'")
    op.create_index(
        "turns_one_running",
        "turns",
        ["conversation"],
        unique=True,
        sqlite_where=running,
        postgresql_where=running,
    )
