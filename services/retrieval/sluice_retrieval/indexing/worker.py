"""The child that reads and cuts one source. One for each index, so that what breaks it breaks nothing else."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from sluice_retrieval.blobs import BlobFolder
from sluice_retrieval.children.runtime import ChildFailure, connect, run
from sluice_retrieval.chunking.spans import ChunkSizes
from sluice_retrieval.indexing import wire
from sluice_retrieval.indexing.points import points_of
from sluice_retrieval.sources.found import Budget, FoundFile
from sluice_retrieval.sources.git import GitReader
from sluice_retrieval.sources.local import read_folder
from sluice_retrieval.sources.patterns import PathFilter
from sluice_retrieval.store.base import Point
from sluice_retrieval.text.languages import language_of
from sluice_retrieval.text.lines import estimate_tokens


def serve(descriptor: str) -> None:
    """Runs the child."""
    connection = connect(descriptor)
    worker = Worker()
    run(connection, {wire.Open: worker.open, wire.More: worker.more, wire.Cut: worker.cut})


class Worker:
    """Reads one source, then cuts its files."""

    def __init__(self) -> None:
        self._blobs = BlobFolder(Path())
        self._sizes = ChunkSizes()
        self._files: Iterator[FoundFile] = iter(())
        self._budget = Budget(0, 0, 0, 0, 0)
        self._dry_run = False

    def open(self, question: wire.Open) -> wire.Opened:
        """Begins to read."""
        limits = question.limits
        self._blobs = BlobFolder(Path(question.blobs))
        self._sizes = ChunkSizes(question.target_chars, question.small_chars)
        self._budget = budget = Budget(
            limits.max_files, limits.max_file_bytes, limits.max_total_bytes, limits.max_depth, limits.max_seconds
        )
        self._dry_run = question.dry_run
        filters = PathFilter(question.include, question.exclude)
        root = Path(question.root)
        if not question.url:
            self._files = read_folder(root, filters, budget)
            return wire.Opened("")
        reader = GitReader(
            root,
            budget,
            host=question.host,
            port=question.port,
            addresses=question.addresses,
            ca_file=question.ca_file,
        )
        commit = reader.fetch(question.url, question.revision)
        self._files = reader.files(commit, filters)
        return wire.Opened(commit)

    def more(self, question: wire.More) -> wire.Files:
        """Reads more files, and keeps their texts."""
        found = [self._entry(file) for file in itertools.islice(self._files, question.count)]
        return wire.Files(found, dict(self._budget.skipped), len(found) < question.count)

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

    def _entry(self, file: FoundFile) -> wire.FileEntry:
        language = language_of(file.path)
        lines = file.data.count(b"\n") + (not file.data.endswith(b"\n"))
        if not self._dry_run:
            digest = self._blobs.put(file.data)
            return wire.FileEntry(file.path, language, len(file.data), lines, digest, 0, 0)
        made = [text for _, text in points_of(file.path, language, "", file.data, self._sizes)]
        tokens = sum(map(estimate_tokens, made))
        return wire.FileEntry(file.path, language, len(file.data), lines, "", len(made), tokens)
