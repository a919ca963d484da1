"""The files of a generation, as functions of a session."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

from sluice_retrieval.records.models import PENDING, Base, DocumentRow, GenerationRow

_COUNTS: Final = DocumentRow.skipped == ""


@dataclass(frozen=True, slots=True)
class DocumentEntry:
    """A file as it is written into a generation."""

    path: str
    language: str
    size_bytes: int
    line_count: int
    blob_sha256: str
    signature: str = ""
    skipped: str = ""


def insert(session: Session, model: type[Base]) -> "sqlite.Insert | postgresql.Insert":
    """Returns an insertion that can say what happens to a row that is there already."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(model)
    return sqlite.insert(model)


def keep(session: Session, generation: GenerationRow, entries: Iterable[DocumentEntry]) -> None:
    """Writes files of a generation, as the scan that runs saw them."""
    rows: list[dict[str, Any]] = [
        {
            "generation": generation.id,
            "tenant": generation.tenant,
            "path": entry.path,
            "language": entry.language,
            "size_bytes": entry.size_bytes,
            "line_count": entry.line_count,
            "blob_sha256": entry.blob_sha256,
            "signature": entry.signature,
            "skipped": entry.skipped,
            "scan": generation.scans,
            "chunk_count": PENDING if not entry.skipped else 0,
        }
        for entry in entries
    ]
    if rows:
        statement = insert(session, DocumentRow)
        changed = {name: statement.excluded[name] for name in rows[0] if name not in ("generation", "path", "tenant")}
        session.execute(statement.on_conflict_do_update(index_elements=["generation", "path"], set_=changed), rows)


def known(session: Session, generations: Sequence[str], paths: Sequence[str]) -> dict[str, DocumentRow]:
    """Returns those of the files that a generation has, by path; the first of the generations wins."""
    rows: dict[str, DocumentRow] = {}
    for generation in generations:
        query = select(DocumentRow).where(DocumentRow.generation == generation, DocumentRow.path.in_(paths))
        for row in session.scalars(query):
            rows.setdefault(row.path, row)
    return rows


def finish_scan(session: Session, generation: GenerationRow, base: GenerationRow | None) -> None:
    """Forgets files that the last scan did not see, and takes over from `base` what did not change."""
    session.execute(
        delete(DocumentRow).where(DocumentRow.generation == generation.id, DocumentRow.scan != generation.scans)
    )
    generation.base = base.id if base is not None else ""
    if base is not None:
        old = aliased(DocumentRow)
        same = and_(old.generation == base.id, *_same(old, DocumentRow))
        session.execute(
            update(DocumentRow)
            .where(DocumentRow.generation == generation.id, _COUNTS, select(old.path).where(same).exists())
            .values(chunk_count=select(old.chunk_count).where(same).scalar_subquery())
        )


def gone(session: Session, generation: GenerationRow, after: str, count: int) -> list[str]:
    """Returns paths of files whose chunks the base has and the generation is not to have, in order, those after a path.

    A file that changed and whose new chunks are in the store is none of them.
    """
    new = aliased(DocumentRow)
    stays = or_(new.chunk_count != PENDING, and_(*_same(new, DocumentRow)))
    query = (
        select(DocumentRow.path)
        .outerjoin(new, and_(new.generation == generation.id, new.path == DocumentRow.path, new.skipped == "", stays))
        .where(DocumentRow.generation == generation.base, _COUNTS, DocumentRow.path > after, new.path.is_(None))
    )
    return list(session.scalars(query.order_by(DocumentRow.path).limit(count)))


def _same(one: Any, other: Any) -> tuple[ColumnElement[bool], ...]:
    """Says that two files have the same chunks."""
    return (
        one.path == other.path,
        one.blob_sha256 == other.blob_sha256,
        one.language == other.language,
        one.skipped == other.skipped,
    )


def pending(session: Session, generation_id: str, after: str, count: int) -> list[DocumentRow]:
    """Returns files whose chunks are not in the store yet, by path, those after a path."""
    query = select(DocumentRow).where(
        DocumentRow.generation == generation_id, DocumentRow.chunk_count == PENDING, DocumentRow.path > after
    )
    return list(session.scalars(query.order_by(DocumentRow.path).limit(count)))


def pending_bytes(session: Session, generation_id: str) -> int:
    """Returns the size of those files together."""
    query = select(func.sum(DocumentRow.size_bytes)).where(
        DocumentRow.generation == generation_id, DocumentRow.chunk_count == PENDING
    )
    return int(session.scalar(query) or 0)


def set_pending(session: Session, generation: GenerationRow) -> None:
    """Forgets that any chunk is in the store, and the base: everything is written anew."""
    generation.base = ""
    session.execute(
        update(DocumentRow).where(DocumentRow.generation == generation.id, _COUNTS).values(chunk_count=PENDING)
    )


def count_chunks(session: Session, generation_id: str, counts: Sequence[tuple[str, int]]) -> None:
    """Notes how many chunks files have in the store."""
    rows = [{"generation": generation_id, "path": path, "chunk_count": count} for path, count in counts]
    if rows:
        session.execute(update(DocumentRow), rows)


def chunks(session: Session, generation_id: str) -> int:
    """Returns how many chunks all files have in the store."""
    query = select(func.sum(DocumentRow.chunk_count)).where(
        DocumentRow.generation == generation_id, DocumentRow.chunk_count > 0
    )
    return int(session.scalar(query) or 0)


def count(session: Session, generation_id: str) -> int:
    """Returns how many files count."""
    query = select(func.count()).select_from(DocumentRow).where(DocumentRow.generation == generation_id, _COUNTS)
    return session.scalar(query) or 0


def page(session: Session, generation_id: str, after: str, count: int) -> list[DocumentRow]:
    """Returns files that count, by path, those after a path."""
    query = select(DocumentRow).where(DocumentRow.generation == generation_id, _COUNTS, DocumentRow.path > after)
    return list(session.scalars(query.order_by(DocumentRow.path).limit(count)))


def every(session: Session, generation_id: str, after: str, count: int) -> list[DocumentRow]:
    """Returns all files, also those that do not count, by path, those after a path."""
    query = select(DocumentRow).where(DocumentRow.generation == generation_id, DocumentRow.path > after)
    return list(session.scalars(query.order_by(DocumentRow.path).limit(count)))


def one(session: Session, generation_id: str, path: str) -> DocumentRow | None:
    """Returns one file that counts, or None."""
    row = session.get(DocumentRow, (generation_id, path))
    return row if row is not None and not row.skipped else None


def paths(session: Session, generation_id: str) -> list[str]:
    """Returns the paths of all files that count, in order."""
    query = select(DocumentRow.path).where(DocumentRow.generation == generation_id, _COUNTS)
    return list(session.scalars(query.order_by(DocumentRow.path)))
