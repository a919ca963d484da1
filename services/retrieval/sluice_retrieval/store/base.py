"""The one interface to vectors.

A *generation* is one complete index of a corpus. It is built beside the one that is searched, as a copy of it that is
changed where the source was, never changed once it is sealed, and deleted as a whole. A store keeps generations apart:
by directory on the local disk, by payload filters on a server. Point ids are deterministic, so writing a point twice is
writing it once, and a generation whose building was interrupted is gone on with.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import msgspec

RRF_K: Final = 10
"""How little a place counts against the next one where words and meaning are fused: 1 / (k + place) each. Chosen by
`make bench-retrieval`; the usual 60 lets what both find late come before what one finds first."""


class Generation(msgspec.Struct, frozen=True):
    """Names a generation. `tenant` is who owns it, `corpus` the corpus's own id (not its name), `id` is unique.

    `number` counts the generations of a corpus: a later one has a higher number. `dimensions` is the length of its dense
    vectors, if it has any. `store` is the kind of the store that has it, where there are several.
    """

    tenant: str
    corpus: str
    id: str
    number: int = 0
    dimensions: int | None = None
    store: str = ""


class Payload(msgspec.Struct, frozen=True, array_like=True):
    """What is kept with a chunk's vectors."""

    path: str
    start_line: int
    end_line: int
    symbol: str
    language: str
    blob_sha256: str
    text_sha256: str


class Point(msgspec.Struct, array_like=True):
    """A chunk as the store takes it. `id` is a UUID in text form."""

    id: str
    payload: Payload
    indices: list[int]
    values: list[float]
    dense: list[float] | None = None


class Query(msgspec.Struct, frozen=True):
    """A question to one generation: by words, by meaning, or both, then fused by reciprocal rank."""

    limit: int
    indices: list[int] = []
    values: list[float] = []
    dense: list[float] | None = None
    include_paths: list[str] | None = None
    """Only chunks of these files. None: of all."""
    exclude_paths: list[str] = []
    """No chunks of these files."""


class Hit(msgspec.Struct, frozen=True, array_like=True):
    """A chunk found."""

    id: str
    score: float
    payload: Payload
    sparse: bool
    """Whether it is among the best by words."""
    dense: bool
    """Whether it is among the best by meaning."""


class Builder(Protocol):
    """Writes one generation."""

    async def remove(self, paths: Sequence[str]) -> None:
        """Removes the chunks of files, those that are not there included."""

    async def add(self, points: Sequence[Point]) -> None:
        """Writes points. Returns when the store has them, not when they are durable."""

    async def seal(self) -> int:
        """Makes what was written durable and fast to search. Returns the number of points."""


class Store(Protocol):
    """Where vectors are kept. Failures are raised as SluiceError, STORE_UNAVAILABLE where the store cannot be used."""

    async def start(self) -> None:
        """Gets ready."""

    async def close(self) -> None:
        """Releases everything."""

    def build(
        self, generation: Generation, base: Generation | None = None, *, resume: bool = False
    ) -> AbstractAsyncContextManager[Builder]:
        """Begins a generation: as a copy of `base`, or empty; with `resume`, goes on with what an earlier try left.

        Raises NotFoundError if the base is gone.
        """

    async def search(self, generation: Generation, query: Query) -> list[Hit]:
        """Returns the best chunks, best first. Raises NotFoundError if there is no such generation."""

    async def chunks_of(self, generation: Generation, path: str, limit: int) -> list[Payload]:
        """Returns chunks of a file by line, at most `limit`."""

    async def dense_vectors(self, generation: Generation, ids: Sequence[str]) -> dict[str, list[float]]:
        """Returns the dense vectors of those of the points that exist."""

    def points(self, generation: Generation, size: int) -> AsyncIterator[list[Point]]:
        """Yields every point with its vectors, in pieces of a size."""

    async def count(self, generation: Generation) -> int:
        """Returns the number of points. Raises NotFoundError if there is no such generation."""

    async def delete(self, generation: Generation) -> None:
        """Deletes a generation; one that is not there is fine."""

    async def drop(self, tenant: str, corpus: str) -> None:
        """Deletes every generation of a corpus (its own id)."""

    async def keep_only(self, generations: Sequence[Generation]) -> int:
        """Deletes every generation but these, which a crash may have left. Returns how many were deleted."""
