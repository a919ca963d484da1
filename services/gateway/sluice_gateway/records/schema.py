"""The tables. Every row names its tenant.

The keys grow with time, so that new rows go to the end of their table and a range of time is a range of keys: a commit
touches one page of each table, where a random key and an index by time would touch five.
"""

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text, and_

metadata = MetaData()

# SQLite makes only an INTEGER PRIMARY KEY the key of the table itself.
_KEY: Final = BigInteger().with_variant(Integer, "sqlite")

responses = Table(
    "responses",
    metadata,
    Column("key", _KEY, primary_key=True, autoincrement=False),
    Column("id", String(64), nullable=False),
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
    # The gateway that makes it. Empty where only one can: a file is one gateway's.
    Column("instance", String(32), nullable=False, server_default=""),
)
# One response for each request id: invariant I1. Requests without one cost nothing here.
Index(
    "responses_request_id",
    responses.c.tenant,
    responses.c.method,
    responses.c.request_id,
    unique=True,
    sqlite_where=responses.c.request_id.is_not(None),
    postgresql_where=responses.c.request_id.is_not(None),
)

attempts = Table(
    "attempts",
    metadata,
    Column("key", _KEY, primary_key=True, autoincrement=False),
    Column("id", String(36), nullable=False),
    Column("response_key", BigInteger, nullable=False),
    Column("tenant", String(128), nullable=False),
    # What was asked for: "chat", "embed" or "rerank".
    Column("operation", String(16), nullable=False, server_default="chat"),
    # Empty: the response belongs to no conversation.
    Column("conversation", String(128), nullable=False, server_default=""),
    # Those of the request, as a JSON object of texts.
    Column("labels", Text, nullable=False, server_default="{}"),
    Column("number", Integer, nullable=False),
    Column("provider", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    # "running", "completed", "failed", "cancelled"; "cached" is no attempt but an answer that made one unnecessary.
    Column("outcome", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    # While it runs, estimates: what it was asked, and what it has made so far.
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("usage_source", String(16), nullable=False),
    # Null: no price is configured for the target, or its vendor counts no tokens.
    Column("cost_nano_usd", BigInteger),
    Column("start_ns", BigInteger, nullable=False),
    # Null: no content came.
    Column("ttft_us", BigInteger),
    Column("duration_us", BigInteger),
    # As of a response.
    Column("instance", String(32), nullable=False, server_default=""),
    # What a thousand tokens read, and generated, cost in nano-US-dollars when it began: for whoever ends it in place of
    # its gateway. Null: there was no price.
    Column("input_rate", BigInteger),
    Column("output_rate", BigInteger),
)

# A tenant's rows of a range of time. New ones go to the end of their tenant's, so a commit touches one page more.
ATTEMPTS_OF_TENANT: Final = Index("attempts_tenant", attempts.c.tenant, attempts.c.key)

# What runs, where several gateways share the tables: few rows among many, which a survivor looks for.
Index("responses_running", responses.c.instance, postgresql_where=responses.c.state == "running").ddl_if("postgresql")
Index("attempts_running", attempts.c.instance, postgresql_where=attempts.c.outcome == "running").ddl_if("postgresql")

# And what a survivor ended.
Index(
    "attempts_left",
    attempts.c.response_key,
    postgresql_where=and_(
        attempts.c.outcome == "failed", attempts.c.reason == "", attempts.c.usage_source == "estimated"
    ),
).ddl_if("postgresql")

# The gateways that share the tables. What runs and names none of them was left by one that died.
instances = Table(
    "instances",
    metadata,
    Column("id", String(32), primary_key=True),
    # The state folder that it runs in: who comes after it there knows that it is gone.
    Column("home", String(32), nullable=False),
    # Its share of the keys.
    Column("slot", Integer, nullable=False, unique=True),
    # By the database's clock: whose lease is over is dead to the others.
    Column("until_ns", BigInteger, nullable=False),
)

# What was registered at run time; it belongs to the whole mesh, and the row says who did it.
integrations = Table(
    "integrations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("address", Text, nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("subject", String(256), nullable=False),
    Column("create_ns", BigInteger, nullable=False),
)

_MILLISECOND_BITS: Final = 20
SLOTS: Final = 1024
"""So many gateways may share the tables; each can make as many rows a millisecond."""


class Keys:
    """Makes keys that grow with time: milliseconds since 1970, and 20 bits that tell rows of one millisecond apart.

    Gateways that share the tables have slots, which the lowest bits tell, so that no two of them make the same key.
    """

    def __init__(self, *, shared: bool) -> None:
        self._step = SLOTS if shared else 1
        self._last = 0
        self.slot = 0
        """Below SLOTS; 0 where the tables are not shared."""

    def next(self, now_ns: int) -> int:
        """Returns a key for a row made now, above every one before."""
        least = max(self._last + 1, first_key(now_ns))
        self._last = least + (self.slot - least) % self._step
        return self._last


def first_key(time_ns: int) -> int:
    """Returns the least key of rows made at a time."""
    return time_ns // 1_000_000 << _MILLISECOND_BITS
