"""The tables. Every row carries its tenant; names are unique within one. Times are seconds since 1970, UTC."""

from typing import Any, ClassVar, Final

from sqlalchemy import BigInteger, Double, Index, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

PENDING: Final = -1
"""Number of chunks of a file that are not in the store yet."""


# Ordered and compared byte by byte, as SQLite does and as pages and digests of the records need it.
_TEXT: Final = Text().with_variant(Text(collation="C"), "postgresql")
_INTEGER: Final = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    """What all tables share."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {str: _TEXT, int: _INTEGER, float: Double(), bytes: LargeBinary()}


class CorpusRow(Base):
    """A corpus. `id` is its own and never reused; `corpus_id` is its name to people."""

    __tablename__ = "corpora"
    __table_args__ = (
        UniqueConstraint("tenant", "corpus_id"),
        UniqueConstraint("tenant", "request_id"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    tenant: Mapped[str]
    corpus_id: Mapped[str]
    display_name: Mapped[str]
    provider: Mapped[str | None]
    """Of the embedder, as are model and dimensions: all set, or none."""
    model: Mapped[str | None]
    dimensions: Mapped[int | None]
    request_id: Mapped[str | None]
    fingerprint: Mapped[str]
    create_time: Mapped[float]
    generation_id: Mapped[str | None] = mapped_column(String(32))
    """The generation that searches see."""
    generations: Mapped[int] = mapped_column(default=0)
    """How many generations were begun."""


class GenerationRow(Base):
    """One complete index of a corpus at one revision, visible, not yet, or no more."""

    __tablename__ = "generations"
    __table_args__ = (Index("generations_by_revision", "corpus", "revision"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    tenant: Mapped[str]
    corpus: Mapped[str] = mapped_column(String(32))
    """Id of its corpus."""
    number: Mapped[int] = mapped_column(default=0)
    """Its place among the generations of its corpus."""
    dimensions: Mapped[int | None]
    """Length of its dense vectors. None: it has none."""
    store: Mapped[str] = mapped_column(default="edge")
    """The kind of store that has its vectors."""
    task: Mapped[str] = mapped_column(default="")
    """Name of the task that makes it, which goes on with it after a restart."""
    revision: Mapped[str]
    """Empty until it is known."""
    settings: Mapped[str] = mapped_column(default="")
    """What, besides the texts, decides how they are cut and weighed."""
    manifest: Mapped[str] = mapped_column(default="")
    """Digest of its files and of how they are cut and weighed: with the same one, a new index would be the same. Empty
    until the source was read to its end."""
    base: Mapped[str] = mapped_column(default="")
    """Id of the generation that it is a changed copy of. Empty: of none."""
    scans: Mapped[int] = mapped_column(default=0)
    """How many times reading the source was begun."""
    source: Mapped[bytes]
    """The Source it was made from, serialised."""
    document_count: Mapped[int] = mapped_column(default=0)
    chunk_count: Mapped[int] = mapped_column(default=0)
    index_time: Mapped[float | None]
    """When it became visible. None: never did."""
    replace_time: Mapped[float | None]
    """When another took its place. None: it is visible, or being built."""


class DocumentRow(Base):
    """A file in a generation."""

    __tablename__ = "documents"

    generation: Mapped[str] = mapped_column(String(32), primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    language: Mapped[str]
    size_bytes: Mapped[int]
    line_count: Mapped[int]
    blob_sha256: Mapped[str] = mapped_column(String(64))
    chunk_count: Mapped[int]
    """PENDING until its chunks are in the store."""
    signature: Mapped[str] = mapped_column(default="")
    """What tells without reading it that the file is the same: times and size on disk, or its id in git. Empty: nothing
    does."""
    skipped: Mapped[str] = mapped_column(default="")
    """Why its contents do not count, e.g. `binary`; kept so that it need not be read again. Empty: they count."""
    scan: Mapped[int] = mapped_column(default=0)
    """Which reading of the source saw it last."""


class TaskRow(Base):
    """A task, with what is needed to run it again after a restart."""

    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("tenant", "request_id"),
        Index("tasks_by_tenant", "tenant", "ordinal"),
        Index("tasks_by_subject", "tenant", "subject"),
    )

    ordinal: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    """Its place in the order of creation."""
    name: Mapped[str] = mapped_column(unique=True)
    tenant: Mapped[str]
    kind: Mapped[str]
    subject: Mapped[str]
    exclusive: Mapped[bool]
    """Whether no other exclusive task may work on its subject at the same time."""
    state: Mapped[int]
    sequence: Mapped[int]
    """Number of its latest event."""
    snapshot: Mapped[bytes]
    """The Task after that event, serialised."""
    request: Mapped[bytes]
    """The request that it carries out, serialised."""
    identity: Mapped[bytes]
    """Who asked for it: it acts under this identity."""
    request_id: Mapped[str | None]
    fingerprint: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)
    """How many times it was begun."""
    cancelling: Mapped[bool] = mapped_column(default=False)
    """Whether it was asked to stop."""
    end_time: Mapped[float | None]


class TaskEventRow(Base):
    """An event of a task. The sequence has no gap from the oldest kept on."""

    __tablename__ = "task_events"

    task: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    task_after: Mapped[bytes]
    """The Task as it stood after the event, serialised."""


class BlobRow(Base):
    """The text of a file, where several processes share the records; otherwise texts are files in a folder."""

    __tablename__ = "blobs"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    data: Mapped[bytes]
    keep_time: Mapped[float]
    """When it was last asked to be kept: one that no document names is swept only a while after."""
