"""What the service asks the child that reads and cuts a source."""

import msgspec

from sluice_retrieval.sources.login import Login
from sluice_retrieval.store.base import Point


class Limits(msgspec.Struct, frozen=True):
    """See LimitsConfig."""

    max_files: int
    max_file_bytes: int
    max_total_bytes: int
    max_depth: int
    max_seconds: float
    max_objects: int


class Open(msgspec.Struct, tag=True):
    """Begins to read a source: a folder, or a repository (where `url` is set)."""

    root: str
    """The folder to read; for a repository, the one to fetch it into, which may hold what an earlier fetch left."""
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
    login: Login | None = None
    include: list[str] = []
    exclude: list[str] = []
    dry_run: bool = False
    """Keep no texts, and cut the files while they are read, to count."""
    cut_only: bool = False
    """The source was read before; its files are only cut."""


class Opened(msgspec.Struct):
    """The answer to Open. `revision` is the commit of a repository."""

    revision: str


class Look(msgspec.Struct, tag=True):
    """Asks for more of the files that may count, about so many, without reading them."""

    count: int


class Seen(msgspec.Struct, array_like=True):
    """A file that may count. See `sources.found.SeenFile`."""

    path: str
    size_bytes: int
    signature: str
    ref: str


class Files(msgspec.Struct):
    """The answer to Look. `skipped` counts, by reason, all so far that do not count by their name, kind or size."""

    files: list[Seen]
    skipped: dict[str, int]
    done: bool


class Read(msgspec.Struct, tag=True):
    """Asks to read files and to keep their texts. Those that count and need no reading are named by number and size."""

    files: list[Seen]
    known: int
    known_bytes: int


class FileEntry(msgspec.Struct, array_like=True):
    """A file that was read. `skipped` says why its contents do not count; `chunks` and `tokens` are counted in a dry run
    alone."""

    path: str
    language: str
    size_bytes: int
    line_count: int
    blob_sha256: str
    signature: str
    skipped: str
    chunks: int
    tokens: int


class Entries(msgspec.Struct):
    """The answer to Read."""

    files: list[FileEntry]


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
