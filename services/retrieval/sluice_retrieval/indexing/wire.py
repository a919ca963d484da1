"""What the service asks the child that reads and cuts a source."""

import msgspec

from sluice_retrieval.store.base import Point


class Limits(msgspec.Struct, frozen=True):
    """See LimitsConfig."""

    max_files: int
    max_file_bytes: int
    max_total_bytes: int
    max_depth: int
    max_seconds: float


class Open(msgspec.Struct, tag=True):
    """Begins to read a source: a folder, or a repository (where `url` is set)."""

    root: str
    """The folder to read; for a repository, an empty one to fetch it into."""
    blobs: str
    """Folder of the tenant's texts."""
    limits: Limits
    target_chars: int
    small_chars: int
    url: str = ""
    revision: str | None = None
    host: str = ""
    port: int = 0
    addresses: tuple[str, ...] = ()
    ca_file: str | None = None
    include: list[str] = []
    exclude: list[str] = []
    dry_run: bool = False
    """Keep no texts, and cut the files while they are read, to count."""


class Opened(msgspec.Struct):
    """The answer to Open. `revision` is the commit of a repository."""

    revision: str


class More(msgspec.Struct, tag=True):
    """Asks for more files, about so many."""

    count: int


class FileEntry(msgspec.Struct, array_like=True):
    """A file that counts. `chunks` and `tokens` are counted in a dry run alone."""

    path: str
    language: str
    size_bytes: int
    line_count: int
    blob_sha256: str
    chunks: int
    tokens: int


class Files(msgspec.Struct):
    """The answer to More. `skipped` counts all so far."""

    files: list[FileEntry]
    skipped: dict[str, int]
    done: bool


class FileToCut(msgspec.Struct, array_like=True):
    """A file whose text was kept."""

    path: str
    language: str
    blob_sha256: str


class Cut(msgspec.Struct, tag=True):
    """Asks to cut files into chunks with their vectors by words, and for the texts to embed if `texts` is set."""

    files: list[FileToCut]
    texts: bool


class CutFiles(msgspec.Struct):
    """The answer to Cut: all points, the texts to embed for each, and the number of points of each file."""

    points: list[Point]
    texts: list[str]
    counts: list[tuple[str, int]]
