"""Corpora, generations, documents and tasks."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "corpora",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("corpus_id", _TEXT, nullable=False),
        sa.Column("display_name", _TEXT, nullable=False),
        sa.Column("provider", _TEXT),
        sa.Column("model", _TEXT),
        sa.Column("dimensions", _INTEGER),
        sa.Column("request_id", _TEXT),
        sa.Column("fingerprint", _TEXT, nullable=False),
        sa.Column("create_time", sa.Double, nullable=False),
        sa.Column("generation_id", sa.String(32)),
        sa.Column("generations", _INTEGER, nullable=False),
        sa.UniqueConstraint("tenant", "corpus_id"),
        sa.UniqueConstraint("tenant", "request_id"),
    )
    op.create_table(
        "generations",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("corpus", sa.String(32), nullable=False),
        sa.Column("number", _INTEGER, nullable=False),
        sa.Column("dimensions", _INTEGER),
        sa.Column("store", _TEXT, nullable=False),
        sa.Column("task", _TEXT, nullable=False),
        sa.Column("revision", _TEXT, nullable=False),
        sa.Column("settings", _TEXT, nullable=False),
        sa.Column("manifest", _TEXT, nullable=False),
        sa.Column("base", _TEXT, nullable=False),
        sa.Column("scans", _INTEGER, nullable=False),
        sa.Column("source", sa.LargeBinary, nullable=False),
        sa.Column("document_count", _INTEGER, nullable=False),
        sa.Column("chunk_count", _INTEGER, nullable=False),
        sa.Column("index_time", sa.Double),
        sa.Column("replace_time", sa.Double),
    )
    op.create_index("generations_by_revision", "generations", ["corpus", "revision"])
    op.create_table(
        "documents",
        sa.Column("generation", sa.String(32), primary_key=True),
        sa.Column("path", _TEXT, primary_key=True),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("language", _TEXT, nullable=False),
        sa.Column("size_bytes", _INTEGER, nullable=False),
        sa.Column("line_count", _INTEGER, nullable=False),
        sa.Column("blob_sha256", sa.String(64), nullable=False),
        sa.Column("chunk_count", _INTEGER, nullable=False),
        sa.Column("signature", _TEXT, nullable=False),
        sa.Column("skipped", _TEXT, nullable=False),
        sa.Column("scan", _INTEGER, nullable=False),
    )
    op.create_table(
        "tasks",
        sa.Column("ordinal", _INTEGER, primary_key=True, autoincrement=True),
        sa.Column("name", _TEXT, nullable=False, unique=True),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("subject", _TEXT, nullable=False),
        sa.Column("exclusive", sa.Boolean, nullable=False),
        sa.Column("state", _INTEGER, nullable=False),
        sa.Column("sequence", _INTEGER, nullable=False),
        sa.Column("snapshot", sa.LargeBinary, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("identity", sa.LargeBinary, nullable=False),
        sa.Column("request_id", _TEXT),
        sa.Column("fingerprint", _TEXT, nullable=False),
        sa.Column("attempts", _INTEGER, nullable=False),
        sa.Column("cancelling", sa.Boolean, nullable=False),
        sa.Column("end_time", sa.Double),
        sa.UniqueConstraint("tenant", "request_id"),
    )
    op.create_index("tasks_by_tenant", "tasks", ["tenant", "ordinal"])
    op.create_index("tasks_by_subject", "tasks", ["tenant", "subject"])
    op.create_table(
        "task_events",
        sa.Column("task", _TEXT, primary_key=True),
        sa.Column("sequence", _INTEGER, primary_key=True),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("task_after", sa.LargeBinary, nullable=False),
    )
