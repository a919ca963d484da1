"""Moves the vectors of a corpus from one store to another: the work of the task `move_corpus`."""

from typing import Final

import msgspec
from sqlalchemy.orm import Session

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_service_pb2 as pb
from sluice_kit.errors import make_error
from sluice_retrieval.names import corpus_id_of
from sluice_retrieval.records import corpora as rows
from sluice_retrieval.records.database import Database
from sluice_retrieval.records.models import GenerationRow
from sluice_retrieval.store.base import Generation
from sluice_retrieval.store.stores import Stores
from sluice_retrieval.tasks.handle import TaskHandle

KIND: Final = "move_corpus"
_PIECE: Final = 512


class Mover:
    """Moves corpora into the configured store."""

    def __init__(self, database: Database, store: Stores) -> None:
        self._database = database
        self._store = store

    async def run(self, handle: TaskHandle) -> pb.MoveResult:
        """Carries out a MoveCorpusRequest. Raises SluiceError.

        Searches see the old place until the new one is whole. Begun again, it writes the same points again.
        """
        request = pb.MoveCorpusRequest.FromString(handle.request)
        corpus_id = corpus_id_of(request.name)

        def visible(session: Session) -> tuple[Generation, int]:
            row = rows.visible(session, handle.tenant, corpus_id)[1]
            return rows.generation_key(row), row.chunk_count

        generation, expected = await self._database.read(visible)
        moved = 0
        if generation.store != self._store.kind:
            target = msgspec.structs.replace(generation, store=self._store.kind)
            try:
                moved = await self._copy(handle, generation, target, expected)
            except BaseException:
                if not handle.interrupted:
                    await self._store.delete(target)
                raise
            await self._database.write(lambda session: _switch(session, target))
            await handle.report(step="cleaning up", progress=0.99)
            await self._store.delete(generation)
        else:
            # An earlier try may have ended between the switch and the cleaning up.
            for kind in self._store.kinds:
                if kind != self._store.kind:
                    await self._store.delete(msgspec.structs.replace(generation, store=kind))
        made = await self._database.read(
            lambda session: rows.to_proto(session, rows.get(session, handle.tenant, corpus_id))
        )
        return pb.MoveResult(corpus=made, chunks=moved)

    async def _copy(self, handle: TaskHandle, source: Generation, target: Generation, expected: int) -> int:
        await handle.report(step="copying")
        moved = 0
        async with self._store.build(target, resume=True) as builder:
            async for points in self._store.points(source, _PIECE):
                await builder.add(points)
                moved += len(points)
                await handle.report(progress=moved / max(1, expected), counts={"chunks": moved}, advanced=True)
            await handle.report(step="sealing")
            written = await builder.seal()
        if written != expected:
            raise make_error(
                ErrorReason.ERROR_REASON_STORE_UNAVAILABLE,
                f"{written} of {expected} chunks arrived; the corpus stays where it is",
                retry_after=1.0,
            )
        return moved


def _switch(session: Session, target: Generation) -> None:
    session.get_one(GenerationRow, target.id).store = target.store
