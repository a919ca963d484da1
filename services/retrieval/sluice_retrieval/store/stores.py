"""Several stores as one: each generation is asked for where it is, and new ones go to the configured store."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from sluice_kit.errors import ConfigurationError
from sluice_kit.health import Check
from sluice_retrieval.store.base import Builder, Generation, Hit, Payload, Point, Query, Store


class Stores:
    """Stores by their kind. A `Store`."""

    def __init__(self, stores: Mapping[str, Store], kind: str) -> None:
        """`kind` is that of the store for what is new."""
        self._stores = dict(stores)
        self.kind = kind

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of all stores that are configured."""
        return tuple(self._stores)

    def add(self, **stores: Store) -> None:
        """Adds stores, or puts them in the place of others of their kind. Only before the start."""
        self._stores |= stores

    @property
    def needs(self) -> dict[str, Check]:
        """The server that what is new needs, if it is one; see `sluice_kit.health`."""
        ping = getattr(self._stores[self.kind], "ping", None)
        return {} if ping is None else {"vectors": ping}

    async def start(self) -> None:
        """Gets all ready."""
        for store in self._stores.values():
            await store.start()

    async def close(self) -> None:
        """Releases all."""
        for store in self._stores.values():
            await store.close()

    def build(
        self, generation: Generation, base: Generation | None = None, *, resume: bool = False
    ) -> AbstractAsyncContextManager[Builder]:
        """Begins a generation in its store, where its base is, too."""
        return self._of(generation).build(generation, base, resume=resume)

    async def search(self, generation: Generation, query: Query) -> list[Hit]:
        """Searches where the generation is."""
        return await self._of(generation).search(generation, query)

    async def chunks_of(self, generation: Generation, path: str, limit: int) -> list[Payload]:
        """Returns chunks of a file by line."""
        return await self._of(generation).chunks_of(generation, path, limit)

    async def dense_vectors(self, generation: Generation, ids: Sequence[str]) -> dict[str, list[float]]:
        """Returns the dense vectors of those of the points that exist."""
        return await self._of(generation).dense_vectors(generation, ids)

    def points(self, generation: Generation, size: int) -> AsyncIterator[list[Point]]:
        """Yields every point with its vectors."""
        return self._of(generation).points(generation, size)

    async def count(self, generation: Generation) -> int:
        """Returns the number of points."""
        return await self._of(generation).count(generation)

    async def delete(self, generation: Generation) -> None:
        """Deletes a generation."""
        await self._of(generation).delete(generation)

    async def drop(self, tenant: str, corpus: str) -> None:
        """Deletes every generation of a corpus, wherever it is."""
        for store in self._stores.values():
            await store.drop(tenant, corpus)

    async def keep_only(self, generations: Sequence[Generation]) -> int:
        """Deletes every generation but these from each store."""
        removed = 0
        for kind, store in self._stores.items():
            removed += await store.keep_only([one for one in generations if one.store == kind])
        return removed

    def _of(self, generation: Generation) -> Store:
        store = self._stores.get(generation.store)
        if store is None:
            raise ConfigurationError(
                f"the vectors of this corpus are in a store of the kind '{generation.store}', which is not configured: "
                "set retrieval.store.qdrant.url, or index the corpus again",
                metadata={"setting": "retrieval.store.qdrant.url"},
            )
        return store
