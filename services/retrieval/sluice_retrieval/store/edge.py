"""The store on the local disk: Qdrant Edge shards, one folder for each generation, in child processes.

Two children: one that searches, and for the time of an index one that writes. A library call holds its process's
interpreter, and optimising a large shard takes many seconds, in which searches must go on.
"""

import asyncio
import contextlib
import hashlib
import logging
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import SluiceError, make_error
from sluice_retrieval.children.process import Child, ChildDied
from sluice_retrieval.store import edge_wire as wire
from sluice_retrieval.store.base import Builder, Generation, Hit, Payload, Point, Query

log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 1.0
S = TypeVar("S", bound=msgspec.Struct)


def folder_of(root: Path, generation: Generation) -> Path:
    """Returns the folder of a generation."""
    # A tenant's name may be anything; its digest is a safe name for a folder.
    tenant = hashlib.sha256(generation.tenant.encode()).hexdigest()[:24]
    return root / tenant / generation.corpus / generation.id


def unavailable(message: str) -> SluiceError:
    """Returns the error for a store that cannot be used now."""
    return make_error(ErrorReason.ERROR_REASON_STORE_UNAVAILABLE, message, retry_after=_RETRY_SECONDS)


class EdgeStore:
    """Generations as folders below one root. A `Store`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._child = Child("edge")
        self._starting = asyncio.Lock()

    @property
    def child(self) -> Child:
        """The child that searches."""
        return self._child

    async def start(self) -> None:
        """Makes the root and starts the child that searches."""
        self._root.mkdir(parents=True, exist_ok=True)
        await self._child.start()

    async def close(self) -> None:
        """Ends the child."""
        await self._child.close()

    @contextlib.asynccontextmanager
    async def build(
        self, generation: Generation, base: Generation | None = None, *, resume: bool = False
    ) -> AsyncIterator[Builder]:
        """Begins a generation in a child of its own, which ends with the block."""
        folder = str(self._folder(generation))
        copied = str(self._folder(base)) if base is not None else None
        await self._ask(wire.Release(folder), wire.Done)
        child = Child("edge")
        await child.start()
        try:
            with _named():
                await child.ask(wire.Create(folder, generation.dimensions, copied, resume), wire.Done)
            yield _EdgeBuilder(child, folder)
        except BaseException:
            child.kill()
            raise
        finally:
            await child.close()

    async def search(self, generation: Generation, query: Query) -> list[Hit]:
        """Searches."""
        return (await self._ask(wire.Search(str(self._folder(generation)), query), wire.Hits)).hits

    async def chunks_of(self, generation: Generation, path: str, limit: int) -> list[Payload]:
        """Returns chunks of a file by line."""
        question = wire.ChunksOf(str(self._folder(generation)), path, limit)
        return (await self._ask(question, wire.Payloads)).payloads

    async def dense_vectors(self, generation: Generation, ids: Sequence[str]) -> dict[str, list[float]]:
        """Returns the dense vectors of those of the points that exist."""
        return (await self._ask(wire.Dense(str(self._folder(generation)), list(ids)), wire.Vectors)).vectors

    async def points(self, generation: Generation, size: int) -> AsyncIterator[list[Point]]:
        """Yields every point with its vectors."""
        folder, offset = str(self._folder(generation)), None
        while True:
            page = await self._ask(wire.Page(folder, offset, size), wire.Points)
            if page.points:
                yield page.points
            offset = page.next
            if offset is None:
                return

    async def count(self, generation: Generation) -> int:
        """Returns the number of points."""
        return (await self._ask(wire.Count(str(self._folder(generation))), wire.Done)).count

    async def delete(self, generation: Generation) -> None:
        """Closes and removes the folder."""
        folder = self._folder(generation)
        await self._ask(wire.Release(str(folder)), wire.Done)
        await asyncio.to_thread(shutil.rmtree, folder, True)

    async def drop(self, tenant: str, corpus: str) -> None:
        """Closes and removes the folder of the corpus."""
        folder = self._folder(Generation(tenant, corpus, "any")).parent
        for inner in await asyncio.to_thread(lambda: list(folder.glob("*"))):
            await self._ask(wire.Release(str(inner)), wire.Done)
        await asyncio.to_thread(shutil.rmtree, folder, True)

    async def keep_only(self, generations: Sequence[Generation]) -> int:
        """Removes every other folder."""
        wanted = {self._folder(generation) for generation in generations}
        there = await asyncio.to_thread(lambda: [folder for folder in self._root.glob("*/*/*") if folder.is_dir()])
        gone = [folder for folder in there if folder not in wanted]
        for folder in gone:
            await self._ask(wire.Release(str(folder)), wire.Done)
            await asyncio.to_thread(shutil.rmtree, folder, True)
        return len(gone)

    def _folder(self, generation: Generation) -> Path:
        return folder_of(self._root, generation)

    async def _ask(self, question: msgspec.Struct, answer: type[S]) -> S:
        """Asks the child that searches, once more after a crash: questions to it change nothing."""
        for attempt in (1, 2):
            try:
                if not self._child.running:
                    await self._restart()
                return await self._child.ask(question, answer)
            except ChildDied:
                log.warning("the store's process ended", extra={"attempt": attempt})
        raise unavailable("the process of the vector store keeps ending; the service's log may say why")

    async def _restart(self) -> None:
        async with self._starting:
            if not self._child.running:
                await self._child.close()
                self._child = Child("edge")
                await self._child.start()


class _EdgeBuilder:
    def __init__(self, child: Child, folder: str) -> None:
        self._child = child
        self._folder = folder

    async def remove(self, paths: Sequence[str]) -> None:
        with _named():
            await self._child.ask(wire.Remove(self._folder, list(paths)), wire.Done)

    async def add(self, points: Sequence[Point]) -> None:
        with _named():
            await self._child.ask(wire.Add(self._folder, list(points)), wire.Done)

    async def seal(self) -> int:
        with _named():
            return (await self._child.ask(wire.Seal(self._folder), wire.Done)).count


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except ChildDied:
        raise unavailable("the process that writes the index ended unexpectedly") from None
