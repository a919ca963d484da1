"""What cutting costs: chunks per CPU second without embedding, as the indexer's child makes them.

Counted is all that a file costs after it was read and before vectors are written: its syntax, its chunks, their words
and weights, hashes and ids. Files are what lies in the folder of installed packages: Python above all, and what
packages bring of other languages. Only the standard library and the code that is measured take part.
"""

import hashlib
import statistics
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sluice_retrieval.chunking.spans import ChunkSizes
from sluice_retrieval.indexing.points import points_of
from sluice_retrieval.sources.classify import skip_by_content, skip_by_name
from sluice_retrieval.text.languages import HEAD_BYTES, language_of

MOST_BYTES: Final = 4_000_000
"""Of each language: whole files, always the same ones."""
_LEAST_BYTES: Final = 20_000
_LEAST_CHUNKS: Final = 50
_MOST_FILE_BYTES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Figure:
    """How fast the files of one language were cut, over all rounds."""

    language: str
    files: int
    bytes: int
    chunks: int
    """In one round."""
    per_second: float
    """Chunks per second of CPU time, the median of the rounds."""
    slowest: float
    fastest: float
    """The same of the slowest and of the fastest round: on a machine that is shared, caches are, too."""


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    data: bytes


def run(rounds: int = 3, most_bytes: int = MOST_BYTES, folder: Path | None = None) -> list[Figure]:
    """Cuts the files of each language that there are enough of, and returns a figure for each, most chunks first.

    `folder` is that of the installed packages unless it is given. What a process does once, such as loading a grammar,
    is done before the first round.
    """
    figures: list[Figure] = []
    for language, files in _files(folder or Path(sysconfig.get_path("purelib")), most_bytes).items():
        _chunks(files[:1], language)
        chunks = 0
        rates: list[float] = []
        for _ in range(rounds):
            began = time.process_time()
            chunks = _chunks(files, language)
            rates.append(chunks / max(time.process_time() - began, 1e-9))
        if chunks >= _LEAST_CHUNKS:
            size = sum(len(file.data) for file in files)
            middle = statistics.median(rates)
            figures.append(Figure(language, len(files), size, chunks, middle, min(rates), max(rates)))
    return sorted(figures, key=lambda figure: -figure.chunks)


def _chunks(files: Sequence[_File], language: str) -> int:
    sizes = ChunkSizes()
    return sum(
        1
        for file in files
        for _ in points_of(file.path, language, hashlib.sha256(file.data).hexdigest(), file.data, sizes)
    )


def _files(folder: Path, most_bytes: int) -> dict[str, list[_File]]:
    """Returns files by language, in an order that depends on their names alone and mixes the packages."""
    found: dict[str, list[_File]] = {}
    held: dict[str, int] = {}
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file())
    for name in sorted(paths, key=lambda name: hashlib.sha256(name.encode()).digest()):
        language = language_of(name)
        path = folder / name
        if not language or held.get(language, 0) >= most_bytes or skip_by_name(name) is not None:
            continue
        if path.stat().st_size > _MOST_FILE_BYTES:
            continue
        data = path.read_bytes()
        if skip_by_content(name, data) is None:
            language = language_of(name, data[:HEAD_BYTES])
            found.setdefault(language, []).append(_File(name, data))
            held[language] = held.get(language, 0) + len(data)
    return {language: files for language, files in found.items() if held[language] >= _LEAST_BYTES}
