"""Responses, attempts, the integrations registered at run time, and the gateways that share all of it."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# SQLite makes only an INTEGER PRIMARY KEY the key of the table itself.
_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "responses",
        sa.Column("key", _KEY, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("subject", sa.String(256), nullable=False),
        sa.Column("key_id", sa.String(128), nullable=False),
        sa.Column("method", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(36)),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("model", sa.String(320), nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("accept_ns", sa.BigInteger, nullable=False),
        sa.Column("end_ns", sa.BigInteger),
        sa.Column("instance", sa.String(32), nullable=False, server_default=""),
    )
    op.create_table(
        "attempts",
        sa.Column("key", _KEY, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("response_key", sa.BigInteger, nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("operation", sa.String(16), nullable=False, server_default="chat"),
        sa.Column("conversation", sa.String(128), nullable=False, server_default=""),
        sa.Column("labels", sa.Text, nullable=False, server_default="{}"),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("usage_source", sa.String(16), nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger),
        sa.Column("start_ns", sa.BigInteger, nullable=False),
        sa.Column("ttft_us", sa.BigInteger),
        sa.Column("duration_us", sa.BigInteger),
        sa.Column("instance", sa.String(32), nullable=False, server_default=""),
    )
    _make_shared_tables()
    named = sa.text("request_id IS NOT NULL")
    request = ["tenant", "method", "request_id"]
    op.create_index(
        "responses_request_id", "responses", request, unique=True, sqlite_where=named, postgresql_where=named
    )
    op.create_index("attempts_tenant", "attempts", ["tenant", "key"])
    if op.get_context().dialect.name == "postgresql":
        _index_what_runs()


def _make_shared_tables() -> None:
    op.create_table(
        "instances",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("home", sa.String(32), nullable=False),
        sa.Column("slot", sa.Integer, nullable=False, unique=True),
        sa.Column("until_ns", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "integrations",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("subject", sa.String(256), nullable=False),
        sa.Column("create_ns", sa.BigInteger, nullable=False),
    )


def _index_what_runs() -> None:
    left = sa.text("outcome = 'failed' AND reason = '' AND usage_source = 'estimated'")
    op.create_index("responses_running", "responses", ["instance"], postgresql_where=sa.text("state = 'running'"))
    op.create_index("attempts_running", "attempts", ["instance"], postgresql_where=sa.text("outcome = 'running'"))
    op.create_index("attempts_left", "attempts", ["response_key"], postgresql_where=left)
