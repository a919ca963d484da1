"""Checks that lines still stand: at the revision they were read at, and in the source as it is now."""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sqlalchemy.orm import Session

from sluice.retrieval.v1 import corpus_pb2
from sluice.retrieval.v1 import search_service_pb2 as pb
from sluice_kit.errors import NotFoundError
from sluice_retrieval.names import corpus_id_of
from sluice_retrieval.records import corpora as rows
from sluice_retrieval.records import documents
from sluice_retrieval.records.database import Database
from sluice_retrieval.search.texts import Texts
from sluice_retrieval.sources.folder import Folder, SkippedFile
from sluice_retrieval.text.lines import decode, join_lines, split_lines

_State = pb.SpanState
_MAX_READ_BYTES: Final = 16 * 1024 * 1024


class Verifier:
    """Answers VerifySpansRequests."""

    def __init__(self, database: Database, texts: Texts) -> None:
        self._database = database
        self._texts = texts

    async def verify(self, tenant: str, spans: Sequence[pb.SpanToVerify]) -> "list[_State.ValueType]":
        """Returns the state of each span. A corpus or revision that is gone is REVISION_EXPIRED."""
        # Each file is read once, however many spans lie in it.
        on_disk: dict[tuple[str, str], list[str] | None] = {}
        return [await self._state(tenant, span, on_disk) for span in spans]

    async def _state(
        self, tenant: str, span: pb.SpanToVerify, on_disk: dict[tuple[str, str], list[str] | None]
    ) -> "_State.ValueType":
        def look(session: Session) -> tuple[str | None, str | None, bytes] | None:
            """Returns the file's blob then and now, and the source; None if the revision is not kept."""
            try:
                corpus, seen = rows.visible(session, tenant, corpus_id_of(span.corpus))
            except NotFoundError:
                return None
            then = seen if seen.revision == span.revision else rows.at_revision(session, corpus, span.revision)
            if then is None:
                return None
            was, is_now = documents.one(session, then.id, span.path), documents.one(session, seen.id, span.path)
            return (was.blob_sha256 if was else None, is_now.blob_sha256 if is_now else None, seen.source)

        found = await self._database.read(look)
        if found is None:
            return _State.SPAN_STATE_REVISION_EXPIRED
        was, is_now, source_bytes = found
        if was is None:
            return _State.SPAN_STATE_CHANGED
        then = await self._texts.lines(tenant, was)
        if then is None:
            return _State.SPAN_STATE_REVISION_EXPIRED
        if not _reads_so(then, span):
            return _State.SPAN_STATE_CHANGED
        source = corpus_pb2.Source.FromString(source_bytes)
        if source.WhichOneof("kind") == "local":
            key = (source.local.path, span.path)
            if key not in on_disk:
                on_disk[key] = await asyncio.to_thread(_read, *key)
            now = on_disk[key]
        else:
            now = await self._texts.lines(tenant, is_now) if is_now is not None else None
        return _State.SPAN_STATE_VALID if now is not None and _reads_so(now, span) else _State.SPAN_STATE_CHANGED


def _read(root: str, path: str) -> list[str] | None:
    """Returns the lines of a file as it is on disk, or None if it cannot be read."""
    try:
        with Folder.root(Path(root)) as folder:
            return split_lines(decode(folder.read_path(path.split("/"), _MAX_READ_BYTES)))
    except (OSError, SkippedFile):
        return None


def _reads_so(lines: Sequence[str], span: pb.SpanToVerify) -> bool:
    """Tells whether the lines have the span's hash, with or without the end of the last line."""
    if span.end_line < span.start_line or span.end_line > len(lines):
        return False
    text = join_lines(lines, span.start_line, span.end_line)
    return any(
        hashlib.sha256(form.encode()).hexdigest() == span.sha256
        for form in dict.fromkeys((text, text.removesuffix("\n"), text.removesuffix("\n").removesuffix("\r")))
    )
