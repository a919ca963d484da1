"""Corpora, their generations and documents, as functions of a session."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_pb2 as pb
from sluice_kit.errors import SluiceError, make_error
from sluice_retrieval.names import corpus_name, not_found, now, request_id_reused, timestamp
from sluice_retrieval.records.models import CorpusRow, DocumentRow, GenerationRow
from sluice_retrieval.store.base import Generation


@dataclass(frozen=True, slots=True)
class DocumentEntry:
    """A file as it is written into a generation."""

    path: str
    language: str
    size_bytes: int
    line_count: int
    blob_sha256: str


def generation_key(row: GenerationRow) -> Generation:
    """Returns what the store calls a generation."""
    return Generation(row.tenant, row.corpus, row.id)


def to_proto(session: Session, row: CorpusRow) -> pb.Corpus:
    """Returns a corpus as its message."""
    corpus = pb.Corpus(
        name=corpus_name(row.corpus_id), display_name=row.display_name, create_time=timestamp(row.create_time)
    )
    if row.provider is not None and row.model is not None and row.dimensions is not None:
        corpus.embedder.CopyFrom(
            pb.Embedder(target=Target(provider=row.provider, model=row.model), dimensions=row.dimensions)
        )
    generation = session.get(GenerationRow, row.generation_id) if row.generation_id is not None else None
    if generation is not None:
        corpus.source.ParseFromString(generation.source)
        corpus.revision = generation.revision
        corpus.document_count = generation.document_count
        corpus.chunk_count = generation.chunk_count
        if generation.index_time is not None:
            corpus.index_time.CopyFrom(timestamp(generation.index_time))
    return corpus


def create(
    session: Session,
    tenant: str,
    corpus_id: str,
    display_name: str,
    embedder: pb.Embedder | None,
    request_id: str | None,
    fingerprint: str,
) -> CorpusRow:
    """Makes a corpus, or returns the one that an earlier call with this request_id made."""
    if request_id is not None:
        made = session.scalar(select(CorpusRow).where(CorpusRow.tenant == tenant, CorpusRow.request_id == request_id))
        if made is not None:
            if made.fingerprint != fingerprint:
                raise request_id_reused()
            return made
    if find(session, tenant, corpus_id) is not None:
        name = corpus_name(corpus_id)
        raise make_error(ErrorReason.ERROR_REASON_ALREADY_EXISTS, f"{name} exists already", metadata={"resource": name})
    row = CorpusRow(
        id=uuid.uuid4().hex,
        tenant=tenant,
        corpus_id=corpus_id,
        display_name=display_name,
        provider=embedder.target.provider if embedder is not None else None,
        model=embedder.target.model if embedder is not None else None,
        dimensions=embedder.dimensions if embedder is not None else None,
        request_id=request_id,
        fingerprint=fingerprint,
        create_time=now(),
    )
    session.add(row)
    return row


def find(session: Session, tenant: str, corpus_id: str) -> CorpusRow | None:
    """Returns a corpus of the tenant, or None."""
    return session.scalar(select(CorpusRow).where(CorpusRow.tenant == tenant, CorpusRow.corpus_id == corpus_id))


def get(session: Session, tenant: str, corpus_id: str) -> CorpusRow:
    """Returns a corpus of the tenant. Raises NotFoundError."""
    row = find(session, tenant, corpus_id)
    if row is None:
        raise not_found(corpus_name(corpus_id))
    return row


def page(session: Session, tenant: str, after: str, count: int) -> list[CorpusRow]:
    """Returns the tenant's corpora by name, those after a name."""
    query = select(CorpusRow).where(CorpusRow.tenant == tenant, CorpusRow.corpus_id > after)
    return list(session.scalars(query.order_by(CorpusRow.corpus_id).limit(count)))


def remove(session: Session, row: CorpusRow) -> list[Generation]:
    """Deletes a corpus with its generations and documents. Returns what the store is to delete."""
    generations = list(session.scalars(select(GenerationRow).where(GenerationRow.corpus == row.id)))
    keys = [generation_key(generation) for generation in generations]
    for generation in generations:
        remove_generation(session, generation)
    session.delete(row)
    return keys


def visible(session: Session, tenant: str, corpus_id: str) -> tuple[CorpusRow, GenerationRow]:
    """Returns a corpus and the generation that searches see. Raises NotFoundError, or CORPUS_NOT_READY."""
    row = get(session, tenant, corpus_id)
    generation = session.get(GenerationRow, row.generation_id) if row.generation_id is not None else None
    if generation is None:
        name = corpus_name(corpus_id)
        raise make_error(
            ErrorReason.ERROR_REASON_CORPUS_NOT_READY,
            f"{name} was not indexed yet: call IndexCorpus, and wait for its task",
            metadata={"resource": name},
        )
    return row, generation


def lost_index(name: str) -> SluiceError:
    """Returns the error for a corpus whose vectors are not where they were written."""
    return make_error(
        ErrorReason.ERROR_REASON_STORE_UNAVAILABLE,
        f"the index of {name} is not there any more; index it again",
        metadata={"resource": name},
    )


def visible_of(session: Session, corpus_uid: str) -> GenerationRow | None:
    """Returns the generation of a corpus (by its own id) that searches see, or None."""
    row = session.get(CorpusRow, corpus_uid)
    return session.get(GenerationRow, row.generation_id) if row is not None and row.generation_id is not None else None


def at_revision(session: Session, row: CorpusRow, revision: str) -> GenerationRow | None:
    """Returns the newest kept generation at a revision that searches see or saw, or None."""
    return session.scalar(
        select(GenerationRow)
        .where(
            GenerationRow.corpus == row.id,
            GenerationRow.revision == revision,
            GenerationRow.index_time.is_not(None),
        )
        .order_by(GenerationRow.index_time.desc())
        .limit(1)
    )


def begin_generation(session: Session, row: CorpusRow, source: bytes) -> GenerationRow:
    """Makes a generation that nobody sees yet."""
    generation = GenerationRow(id=uuid.uuid4().hex, tenant=row.tenant, corpus=row.id, revision="", source=source)
    session.add(generation)
    return generation


def add_documents(session: Session, generation: Generation, entries: Sequence[DocumentEntry]) -> None:
    """Writes files of a generation."""
    rows: list[dict[str, Any]] = [
        {
            "generation": generation.id,
            "tenant": generation.tenant,
            "path": entry.path,
            "language": entry.language,
            "size_bytes": entry.size_bytes,
            "line_count": entry.line_count,
            "blob_sha256": entry.blob_sha256,
            "chunk_count": 0,
        }
        for entry in entries
    ]
    if rows:
        session.execute(insert(DocumentRow), rows)


def count_chunks(session: Session, generation: Generation, counts: Sequence[tuple[str, int]]) -> None:
    """Notes how many chunks files have."""
    rows = [{"generation": generation.id, "path": path, "chunk_count": count} for path, count in counts]
    if rows:
        session.execute(update(DocumentRow), rows)


def documents(session: Session, generation_id: str, after: str, count: int) -> list[DocumentRow]:
    """Returns files of a generation by path, those after a path."""
    query = select(DocumentRow).where(DocumentRow.generation == generation_id, DocumentRow.path > after)
    return list(session.scalars(query.order_by(DocumentRow.path).limit(count)))


def document(session: Session, generation_id: str, path: str) -> DocumentRow | None:
    """Returns one file of a generation, or None."""
    return session.get(DocumentRow, (generation_id, path))


def paths(session: Session, generation_id: str) -> list[str]:
    """Returns the paths of all files of a generation, in order."""
    query = select(DocumentRow.path).where(DocumentRow.generation == generation_id)
    return list(session.scalars(query.order_by(DocumentRow.path)))


def publish(
    session: Session, generation: Generation, revision: str, manifest: str, chunk_count: int
) -> CorpusRow | None:
    """Makes a generation the one that searches see. Returns None if its corpus is gone."""
    corpus = session.get(CorpusRow, generation.corpus)
    row = session.get(GenerationRow, generation.id)
    if corpus is None or row is None:
        return None
    time = now()
    if corpus.generation_id is not None:
        old = session.get(GenerationRow, corpus.generation_id)
        if old is not None:
            old.replace_time = time
    count = select(func.count()).select_from(DocumentRow).where(DocumentRow.generation == generation.id)
    row.document_count = session.scalar(count) or 0
    row.chunk_count = chunk_count
    row.revision = revision
    row.manifest = manifest
    row.index_time = time
    corpus.generation_id = row.id
    return corpus


def remove_generation(session: Session, row: GenerationRow) -> None:
    """Deletes a generation and its documents."""
    session.execute(delete(DocumentRow).where(DocumentRow.generation == row.id))
    session.delete(row)
