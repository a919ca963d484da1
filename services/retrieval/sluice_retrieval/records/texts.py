"""Texts of files as rows, as functions of a session. They are here only where several processes share the records."""

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from sluice_retrieval.names import now
from sluice_retrieval.records.documents import insert
from sluice_retrieval.records.models import BlobRow, DocumentRow


def ask_for(session: Session, tenant: str, digests: Sequence[str]) -> set[str]:
    """Returns which of the texts are there, and keeps those from being swept for a while."""
    query = update(BlobRow).where(BlobRow.tenant == tenant, BlobRow.sha256.in_(digests)).values(keep_time=now())
    return set(session.scalars(query.returning(BlobRow.sha256)))


def put(session: Session, tenant: str, texts: Mapping[str, bytes]) -> None:
    """Writes texts by their digests."""
    time = now()
    rows = [{"tenant": tenant, "sha256": digest, "data": data, "keep_time": time} for digest, data in texts.items()]
    statement = insert(session, BlobRow)
    changed = {"keep_time": statement.excluded.keep_time}
    session.execute(statement.on_conflict_do_update(index_elements=["tenant", "sha256"], set_=changed), rows)


def get(session: Session, tenant: str, digest: str) -> bytes | None:
    """Returns a text, or None if it is not kept."""
    return session.scalar(select(BlobRow.data).where(BlobRow.tenant == tenant, BlobRow.sha256 == digest))


def sweep(session: Session, asked_for_before: float) -> int:
    """Deletes texts that no document names and that were not asked to be kept since a time. Returns how many."""
    named = select(DocumentRow.path).where(
        DocumentRow.tenant == BlobRow.tenant, DocumentRow.blob_sha256 == BlobRow.sha256
    )
    query = delete(BlobRow).where(BlobRow.keep_time < asked_for_before, ~named.exists())
    return len(list(session.scalars(query.returning(BlobRow.sha256))))
