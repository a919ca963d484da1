"""The child that reads and cuts one source. One for each index, so that what breaks it breaks nothing else."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from sluice_retrieval.blobs import BlobFolder
from sluice_retrieval.children.runtime import ChildFailure, connect, run
from sluice_retrieval.chunking.spans import ChunkSizes
from sluice_retrieval.indexing import wire
from sluice_retrieval.indexing.points import points_of
from sluice_retrieval.sources.classify import skip_by_content
from sluice_retrieval.sources.found import Budget, SeenFile, Source
from sluice_retrieval.sources.git import GitReader
from sluice_retrieval.sources.git_process import Git
from sluice_retrieval.sources.local import LocalFolder
from sluice_retrieval.sources.patterns import PathFilter
from sluice_retrieval.store.base import Point
from sluice_retrieval.text.languages import HEAD_BYTES, language_of
from sluice_retrieval.text.lines import estimate_tokens


def serve(descriptor: str) -> None:
    """Runs the child."""
    connection = connect(descriptor)
    worker = Worker()
    try:
        run(
            connection,
            {wire.Open: worker.open, wire.Look: worker.look, wire.Read: worker.read, wire.Cut: worker.cut},
        )
    finally:
        worker.close()


class Worker:
    """Reads one source, then cuts its files."""

    def __init__(self) -> None:
        self._blobs = BlobFolder(Path())
        self._sizes = ChunkSizes()
        self._source: Source | None = None
        self._files: Iterator[SeenFile] = iter(())
        self._budget = Budget(0, 0, 0, 0, 0)
        self._dry_run = False

    def open(self, question: wire.Open) -> wire.Opened:
        """Gets ready to cut and, unless its reading is done, begins to read the source."""
        limits = question.limits
        self._blobs = BlobFolder(Path(question.blobs))
        self._sizes = ChunkSizes(question.target_chars, question.small_chars)
        self._budget = budget = Budget(
            limits.max_files,
            limits.max_file_bytes,
            limits.max_total_bytes,
            limits.max_depth,
            limits.max_seconds,
            limits.max_objects,
        )
        self._dry_run = question.dry_run
        if question.cut_only:
            return wire.Opened("")
        filters = PathFilter(question.include, question.exclude)
        root = Path(question.root)
        revision = ""
        if not question.url:
            self._source = LocalFolder(root, filters, budget)
        else:
            git = Git(
                root,
                budget,
                host=question.host,
                port=question.port,
                addresses=question.addresses,
                ca_file=question.ca_file,
                login=question.login,
            )
            self._source = reader = GitReader(git, budget, filters)
            revision = reader.fetch(question.url, question.revision)
        self._files = self._source.files()
        return wire.Opened(revision)

    def look(self, question: wire.Look) -> wire.Files:
        """Looks for more files."""
        found = [
            wire.Seen(file.path, file.size, file.signature, file.ref)
            for file in itertools.islice(self._files, question.count)
        ]
        return wire.Files(found, dict(self._budget.skipped), len(found) < question.count)

    def read(self, question: wire.Read) -> wire.Entries:
        """Reads files, and keeps the texts of those that count."""
        self._budget.take(question.known_bytes, question.known)
        return wire.Entries([self._entry(file) for file in question.files])

    def close(self) -> None:
        """Releases the source."""
        if self._source is not None:
            self._source.close()

    def cut(self, question: wire.Cut) -> wire.CutFiles:
        """Cuts files whose texts were kept."""
        points: list[Point] = []
        texts: list[str] = []
        counts: list[tuple[str, int]] = []
        for file in question.files:
            data = self._blobs.get(file.blob_sha256)
            if data is None:
                raise ChildFailure("STORE_UNAVAILABLE", "a text that was just kept cannot be read again")
            before = len(points)
            for point, text in points_of(file.path, file.language, file.blob_sha256, data, self._sizes):
                points.append(point)
                if question.texts:
                    texts.append(text)
            counts.append((file.path, len(points) - before))
        return wire.CutFiles(points, texts, counts)

    def _entry(self, file: wire.Seen) -> wire.FileEntry:
        assert self._source is not None  # only what it yielded is read
        self._budget.check_time()
        data = self._source.read(file.path, file.ref)
        reason = data if isinstance(data, str) else skip_by_content(file.path, data)
        if isinstance(data, str) or reason is not None:
            # Why a file could not be read may pass; what its contents are stays as long as they do.
            signature = file.signature if isinstance(data, bytes) else ""
            return wire.FileEntry(file.path, "", file.size_bytes, 0, "", signature, reason or "", 0, 0)
        self._budget.take(len(data))
        language = language_of(file.path, data[:HEAD_BYTES])
        lines = data.count(b"\n") + (not data.endswith(b"\n"))
        entry = wire.FileEntry(file.path, language, len(data), lines, "", file.signature, "", 0, 0)
        if not self._dry_run:
            entry.blob_sha256 = self._blobs.put(data)
        else:
            made = [text for _, text in points_of(file.path, language, "", data, self._sizes)]
            entry.chunks, entry.tokens = len(made), sum(map(estimate_tokens, made))
        return entry
