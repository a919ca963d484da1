"""Corpora and their generations, as functions of a session."""

import uuid

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_pb2 as pb
from sluice_kit.errors import SluiceError, make_error
from sluice_retrieval.names import corpus_name, not_found, now, request_id_reused, timestamp
from sluice_retrieval.records import documents
from sluice_retrieval.records.models import CorpusRow, DocumentRow, GenerationRow
from sluice_retrieval.store.base import Generation


def generation_key(row: GenerationRow) -> Generation:
    """Returns what the store calls a generation."""
    return Generation(row.tenant, row.corpus, row.id, row.number, row.dimensions, row.store)


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
        corpus.store = generation.store
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


def remove(session: Session, row: CorpusRow) -> str:
    """Deletes a corpus with its generations and documents. Returns its own id, by which the store is to drop it."""
    for generation in list(session.scalars(select(GenerationRow).where(GenerationRow.corpus == row.id))):
        remove_generation(session, generation)
    session.delete(row)
    return row.id


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


def begin_generation(
    session: Session, row: CorpusRow, task: str, source: bytes, settings: str, store: str
) -> GenerationRow:
    """Makes a generation that nobody sees yet, or returns the one that the task began before, with one scan more."""
    found = session.scalar(
        select(GenerationRow).where(
            GenerationRow.corpus == row.id, GenerationRow.task == task, GenerationRow.index_time.is_(None)
        )
    )
    if found is not None and (found.settings, found.store) != (settings, store):
        # A newer program cuts otherwise, or the store is another: what was begun before is of no use.
        remove_generation(session, found)
        session.flush()
        found = None
    if found is None:
        row.generations += 1
        found = GenerationRow(
            id=uuid.uuid4().hex,
            tenant=row.tenant,
            corpus=row.id,
            number=row.generations,
            dimensions=row.dimensions,
            store=store,
            task=task,
            revision="",
            source=source,
            settings=settings,
            manifest="",
            base="",
            scans=0,
        )
        session.add(found)
    found.scans += 1
    return found


def publish(session: Session, generation: Generation, chunk_count: int) -> CorpusRow | None:
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
    row.document_count = documents.count(session, generation.id)
    row.chunk_count = chunk_count
    row.index_time = time
    corpus.generation_id = row.id
    return corpus


def remove_generation(session: Session, row: GenerationRow) -> None:
    """Deletes a generation and its documents."""
    session.execute(delete(DocumentRow).where(DocumentRow.generation == row.id))
    session.delete(row)
