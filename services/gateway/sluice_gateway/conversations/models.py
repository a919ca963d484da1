"""The tables. Every row carries its tenant. Times and durations are integers of nanoseconds, times since 1970, UTC.

What is searched or counted by is a column; the rest is serialised, as the contract has it.
"""

from typing import Final

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

RUNNING: Final = "running"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"


class Base(DeclarativeBase):
    """What all tables share."""


class ConversationRow(Base):
    """A conversation. `id` is its own and never used again; `conversation_id` is its name to people."""

    __tablename__ = "conversations"
    __table_args__ = (
        UniqueConstraint("tenant", "conversation_id", name="conversations_name"),
        UniqueConstraint("tenant", "request_id", name="conversations_request"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(128))
    conversation_id: Mapped[str] = mapped_column(String(63))
    display_name: Mapped[str] = mapped_column(Text)
    labels: Mapped[str] = mapped_column(Text)
    """A JSON object of texts."""
    max_age_ns: Mapped[int | None] = mapped_column(BigInteger)
    """As it was asked for, as is `max_turns`."""
    max_turns: Mapped[int | None] = mapped_column(Integer)
    last_number: Mapped[int] = mapped_column(BigInteger)
    """Of its newest turn, also where that was deleted. 0: there was none."""
    request_id: Mapped[str | None] = mapped_column(String(36))
    fingerprint: Mapped[str] = mapped_column(String(64))
    """Of the request that made it, as lower-case hex SHA-256."""
    create_ns: Mapped[int] = mapped_column(BigInteger)
    update_ns: Mapped[int] = mapped_column(BigInteger)


class TurnRow(Base):
    """One question and its answer."""

    __tablename__ = "turns"

    conversation: Mapped[str] = mapped_column(
        String(32), ForeignKey("conversations.id", name="turns_conversation"), primary_key=True
    )
    """Id of its conversation."""
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    tenant: Mapped[str] = mapped_column(String(128))
    state: Mapped[str] = mapped_column(String(16))
    owner: Mapped[str] = mapped_column(String(32))
    """The gateway that makes it."""
    lease_ns: Mapped[int] = mapped_column(BigInteger)
    """Until when that gateway says that it is alive; a turn that runs longer is lost."""
    response: Mapped[str] = mapped_column(String(80))
    """Resource name."""
    subject: Mapped[str] = mapped_column(Text)
    requested_model: Mapped[str] = mapped_column(Text)
    labels: Mapped[str] = mapped_column(Text)
    """A JSON object of texts."""
    question: Mapped[bytes] = mapped_column(LargeBinary)
    """A Turn with `question` alone."""
    answer: Mapped[bytes | None] = mapped_column(LargeBinary)
    """A Message."""
    evidence: Mapped[bytes | None] = mapped_column(LargeBinary)
    """A Turn with `passages` and `citations` alone."""
    error: Mapped[bytes | None] = mapped_column(LargeBinary)
    """A google.rpc.Status."""
    size: Mapped[int] = mapped_column(BigInteger)
    """Bytes of question and answer."""
    messages: Mapped[int] = mapped_column(Integer)
    """How many messages question and answer are."""
    provider: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    reasoning_tokens: Mapped[int] = mapped_column(BigInteger)
    usage_source: Mapped[int] = mapped_column(Integer)
    """A value of UsageSource."""
    cost_nano_usd: Mapped[int | None] = mapped_column(BigInteger)
    finish_reason: Mapped[int] = mapped_column(Integer)
    """A value of FinishReason."""
    raw_finish_reason: Mapped[str] = mapped_column(Text)
    create_ns: Mapped[int] = mapped_column(BigInteger)
    end_ns: Mapped[int | None] = mapped_column(BigInteger)


# One answer at a time, whoever writes: what order the gateways keep among themselves, the database insists on.
ONE_RUNNING: Final = Index(
    "turns_one_running",
    TurnRow.conversation,
    unique=True,
    sqlite_where=TurnRow.state == RUNNING,
    postgresql_where=TurnRow.state == RUNNING,
)
