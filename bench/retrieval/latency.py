"""How fast the embedded store searches, by the number of chunks it holds.

The chunks are made up: their words are drawn from those of installed packages as often as they occur there, and every
so often one is new, as names are in a growing repository. They are written through the store's own interface.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from bench.retrieval.packages import Package, without_docstrings
from bench.retrieval.service import Memory, cpu_of, memory_of
from sluice_retrieval.chunking.spans import ChunkSizes
from sluice_retrieval.indexing.points import points_of
from sluice_retrieval.minilm.embedder import DIMENSIONS
from sluice_retrieval.store.base import Generation, Payload, Point, Query
from sluice_retrieval.store.edge import EdgeStore
from sluice_retrieval.text.bm25 import AVERAGE_TERMS, K1, B, query_vector

_NEW_WORDS: Final = 0.02
"""Share of words that no other chunk has."""
_TOPICS: Final = 400
"""Directions around which dense vectors lie: those of texts are not spread evenly either."""
_SPREAD: Final = 0.7
_BATCH: Final = 500
_LIMIT: Final = 40
"""Candidates of each kind, as many as a search for ten passages asks the store for."""
_WARM_UP: Final = 20
Array = np.ndarray[Any, Any]


class Searched(msgspec.Struct, tag="search", tag_field="part"):
    """Questions asked one after the other, of a shard that is open."""

    round: int
    chunks: int
    mode: str
    """`words`, or `words and meaning`."""
    questions: int
    p50: float
    """Milliseconds, from the call to the decoded answer."""
    p99: float
    cpu: float
    """Milliseconds of CPU a question, of the store's process and the one that asks."""
    resident: int
    """Bytes of the store's process, with what is mapped of the index."""
    own: int
    """Without it."""
    opening: float
    """Milliseconds that the first question took, which opens the shard."""
    building: float
    """Seconds that writing and sealing the shard took."""
    disk: int
    """Bytes of its folder."""


class _Words:
    """What chunks are made of: terms by how often they occur, and how many a chunk has."""

    def __init__(self, packages: Sequence[Package]) -> None:
        counts: dict[int, int] = {}
        sizes: list[int] = []
        for package in packages:
            for path, text in package.sources().items():
                for point, _ in points_of(path, "python", "", text.encode(), ChunkSizes()):
                    sizes.append(len(point.indices))
                    for term in point.indices:
                        counts[term] = counts.get(term, 0) + 1
        self.terms = np.array(list(counts), dtype=np.uint32)
        self._shares = np.cumsum(np.array(list(counts.values()), dtype=np.float64))
        self._shares /= self._shares[-1]
        self._sizes = np.array(sizes)

    def vectors(self, draw: np.random.Generator, count: int) -> Iterator[tuple[list[int], list[float]]]:
        sizes = draw.choice(self._sizes, count)
        edges = np.concatenate([[0], np.cumsum(sizes)])
        terms = self.terms[np.searchsorted(self._shares, draw.random(edges[-1]))]
        new = draw.random(edges[-1]) < _NEW_WORDS
        terms[new] = draw.integers(0, 2**32, int(new.sum()), dtype=np.uint32)
        for first, last in pairwise(edges):
            indices, times = np.unique(terms[first:last], return_counts=True)
            norm = K1 * (1 - B + B * (last - first) / AVERAGE_TERMS)
            yield indices.tolist(), (times * (K1 + 1) / (times + norm)).tolist()


def _directions(draw: np.random.Generator, topics: Array, count: int) -> Array:
    """Returns dense vectors of length 1, each near one of the topics."""
    noise = draw.standard_normal((count, DIMENSIONS)).astype(np.float32) * (_SPREAD / np.sqrt(DIMENSIONS))
    vectors = topics[draw.integers(0, len(topics), count)] + noise
    found: Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def _points(draw: np.random.Generator, words: _Words, topics: Array, total: int) -> Iterator[list[Point]]:
    for at in range(0, total, _BATCH):
        count = min(_BATCH, total - at)
        dense = _directions(draw, topics, count).tolist()
        batch: list[Point] = []
        for number, (indices, values) in enumerate(words.vectors(draw, count), at):
            line = number % 40 * 25 + 1
            payload = Payload(
                f"folder{number // 800}/module{number // 40}.py",
                line,
                line + 24,
                f"Class{number // 8}.method{number}",
                "python",
                f"{number // 40:064x}",
                f"{number:064x}",
            )
            batch.append(Point(f"00000000-0000-4000-8000-{number:012x}", payload, indices, values, dense[number - at]))
        yield batch


async def measure(
    packages: Sequence[Package], chunks: int, questions: int, rounds: int, folder: Path, say: Callable[[Searched], None]
) -> None:
    """Builds a shard of so many chunks, and asks it so many questions in each round."""
    draw = np.random.default_rng(chunks)
    words = _Words(packages)
    topics = draw.standard_normal((_TOPICS, DIMENSIONS)).astype(np.float32) / np.sqrt(DIMENSIONS)
    texts = [question.text for package in packages for question in without_docstrings(package.sources(), questions)[1]]
    asked = [query_vector(texts[number % len(texts)]) for number in range(questions)]
    meant = _directions(draw, topics, questions).tolist()
    generation = Generation("bench", "made-up", "g1", 1, DIMENSIONS)
    store = EdgeStore(folder)
    await store.start()
    try:
        began = time.perf_counter()
        async with store.build(generation) as builder:
            for batch in _points(draw, words, topics, chunks):
                await builder.add(batch)
            assert await builder.seal() == chunks
        building = time.perf_counter() - began
        began = time.perf_counter()
        await store.search(generation, Query(_LIMIT, asked[0].indices, asked[0].values, meant[0]))
        opening = (time.perf_counter() - began) * 1e3
        disk = await asyncio.to_thread(_size, folder)
        for number in range(rounds):
            for mode in ("words", "words and meaning"):
                queries = [
                    Query(_LIMIT, vector.indices, vector.values, dense if mode != "words" else None)
                    for vector, dense in zip(asked, meant, strict=True)
                ]
                times, cpu, held = await _ask(store, generation, queries)
                times.sort()
                say(
                    Searched(
                        round=number,
                        chunks=chunks,
                        mode=mode,
                        questions=questions,
                        p50=times[len(times) // 2],
                        p99=times[min(len(times) - 1, int(len(times) * 0.99))],
                        cpu=cpu,
                        resident=held.resident,
                        own=held.own,
                        opening=opening,
                        building=building,
                        disk=disk,
                    )
                )
    finally:
        await store.close()


def _size(folder: Path) -> int:
    """Returns the bytes that the files of a folder take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


async def _ask(store: EdgeStore, generation: Generation, queries: Sequence[Query]) -> tuple[list[float], float, Memory]:
    """Returns the milliseconds of each question, those of CPU for one, and the memory of the store's process."""
    for query in queries[:_WARM_UP]:
        await store.search(generation, query)
    assert store.child.pid is not None
    pids = [os.getpid(), store.child.pid]
    before = cpu_of(pids)
    times: list[float] = []
    for query in queries:
        began = time.perf_counter()
        await store.search(generation, query)
        times.append((time.perf_counter() - began) * 1e3)
    return times, (cpu_of(pids) - before) * 1e3 / len(queries), memory_of([store.child.pid])
