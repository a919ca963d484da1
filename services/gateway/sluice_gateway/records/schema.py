"""The tables. Every row names its tenant."""

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text, UniqueConstraint

metadata = MetaData()

responses = Table(
    "responses",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("subject", String(256), nullable=False),
    Column("key_id", String(128), nullable=False),
    Column("method", String(64), nullable=False),
    # Only of the last 24 hours: an older one may be used again.
    Column("request_id", String(36)),
    Column("fingerprint", String(64), nullable=False),
    Column("model", String(320), nullable=False),
    Column("labels", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("accept_ns", BigInteger, nullable=False),
    Column("end_ns", BigInteger),
    UniqueConstraint("tenant", "method", "request_id", name="responses_request_id"),
    Index("responses_by_time", "tenant", "accept_ns"),
)
# What a crash left open is found without reading everything.
Index(
    "responses_running",
    responses.c.id,
    sqlite_where=responses.c.state == "running",
    postgresql_where=responses.c.state == "running",
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("response_id", String(64), nullable=False, index=True),
    Column("tenant", String(128), nullable=False),
    Column("number", Integer, nullable=False),
    Column("provider", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("usage_source", String(16), nullable=False),
    # Null: no price is configured for the target.
    Column("cost_nano_usd", BigInteger),
    Column("start_ns", BigInteger, nullable=False),
    # Null: no content came.
    Column("ttft_us", BigInteger),
    Column("duration_us", BigInteger),
    Index("attempts_by_time", "tenant", "start_ns"),
)
Index(
    "attempts_running",
    attempts.c.id,
    sqlite_where=attempts.c.outcome == "running",
    postgresql_where=attempts.c.outcome == "running",
)
