"""What the parent asks the child that holds the shards."""

import msgspec

from sluice_retrieval.store.base import Hit, Payload, Point, Query


class Create(msgspec.Struct, tag=True):
    """Makes a shard in a folder: as a copy of another, or empty, removing one that is there; with `resume`, goes on with
    one that is there."""

    folder: str
    dimensions: int | None
    base: str | None = None
    resume: bool = False


class Remove(msgspec.Struct, tag=True):
    """Removes the chunks of files."""

    folder: str
    paths: list[str]


class Add(msgspec.Struct, tag=True):
    """Writes points."""

    folder: str
    points: list[Point]


class Seal(msgspec.Struct, tag=True):
    """Flushes, optimises and closes a shard."""

    folder: str


class Search(msgspec.Struct, tag=True):
    """Searches."""

    folder: str
    query: Query


class ChunksOf(msgspec.Struct, tag=True):
    """Asks for the chunks of one file."""

    folder: str
    path: str
    limit: int


class Dense(msgspec.Struct, tag=True):
    """Asks for dense vectors."""

    folder: str
    ids: list[str]


class Page(msgspec.Struct, tag=True):
    """Asks for points with their vectors, those from an id on."""

    folder: str
    offset: str | None
    limit: int


class Points(msgspec.Struct):
    """The answer to Page. `next` is where to go on, if anywhere."""

    points: list[Point]
    next: str | None


class Count(msgspec.Struct, tag=True):
    """Asks for the number of points."""

    folder: str


class Release(msgspec.Struct, tag=True):
    """Closes a shard if it is open, so that its folder may go."""

    folder: str


class Done(msgspec.Struct):
    """The answer where there is nothing to say but a number."""

    count: int = 0


class Hits(msgspec.Struct):
    """The answer to Search."""

    hits: list[Hit]


class Payloads(msgspec.Struct):
    """The answer to ChunksOf."""

    payloads: list[Payload]


class Vectors(msgspec.Struct):
    """The answer to Dense."""

    vectors: dict[str, list[float]]
