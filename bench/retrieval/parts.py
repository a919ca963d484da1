"""The parts of the benchmark, each with its sizes."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

from bench.retrieval import cutting, incremental, latency, memory, quality
from bench.retrieval.cutting import Cut
from bench.retrieval.incremental import Changed
from bench.retrieval.latency import Searched
from bench.retrieval.memory import Indexed
from bench.retrieval.quality import Answers
from bench.retrieval.service import running
from bench.retrieval.speed_chunking import MOST_BYTES

Row = Answers | Changed | Cut | Indexed | Searched
Say = Callable[[Row], None]

PACKAGES: Final = (*quality.TUNED, *quality.HELD_OUT, *quality.ASKED_ABOUT)
"""All that are read."""
_COPIED: Final = quality.TUNED
_SIZES: Final = (1, 4, 16)
_CHANGED_SIZES: Final = (4, 16)
_EMBEDDED: Final = quality.TUNED[1:3]
_CHUNKS: Final = (10_000, 100_000, 300_000)
_QUESTIONS: Final = 300
_QUICK_FILES: Final = ("_auth.py", "_config.py", "_content.py")


class Settings(NamedTuple):
    """How a part runs."""

    rounds: int
    """How often what is timed."""
    quick: bool
    """Whether little of everything is enough."""


class Part(NamedTuple):
    """One of the parts."""

    about: str
    run: Callable[[Settings, Path, Say], Awaitable[None]]


async def _docstrings(settings: Settings, folder: Path, say: Say) -> None:
    if settings.quick:
        tasks = quality.docstring_tasks((quality.TUNED[1], quality.HELD_OUT[0]), 30_000, 8)
    else:
        packages = quality.TUNED + quality.HELD_OUT
        tasks = quality.docstring_tasks(packages, quality.MOST_BYTES, quality.MOST_QUESTIONS)
    await _quality(tasks, folder, say)


async def _questions(settings: Settings, folder: Path, say: Say) -> None:
    tasks = quality.question_tasks(quality.ASKED_ABOUT[:1] if settings.quick else quality.ASKED_ABOUT)
    if settings.quick:
        tasks = [task.only(_QUICK_FILES) for task in tasks]
    await _quality(tasks, folder, say)


async def _quality(tasks: list[quality.Task], folder: Path, say: Say) -> None:
    async with running(folder) as service:
        for task in tasks:
            await quality.measure(service, task, folder, say)


async def _chunking(settings: Settings, folder: Path, say: Say) -> None:  # noqa: ARG001 - all parts are called alike
    most_bytes = 100_000 if settings.quick else MOST_BYTES
    for row in await asyncio.to_thread(cutting.measure, settings.rounds, most_bytes):
        say(row)


async def _memory(settings: Settings, folder: Path, say: Say) -> None:
    sizes = _SIZES[:2] if settings.quick else _SIZES
    packages = _COPIED[1:2] if settings.quick else _COPIED
    for number in range(settings.rounds):
        for copies in sizes:
            await memory.measure(packages, copies, number, folder / f"{number}-{copies}", say)


async def _incremental(settings: Settings, folder: Path, say: Say) -> None:
    packages = _COPIED[1:2] if settings.quick else _COPIED
    for number in range(settings.rounds):
        for copies in (1,) if settings.quick else _CHANGED_SIZES:
            await incremental.measure(packages, copies, number, folder / f"{number}-{copies}", say)
        if not settings.quick:
            await incremental.measure(_EMBEDDED, 1, number, folder / f"{number}-dense", say, dense=True)


async def _search(settings: Settings, folder: Path, say: Say) -> None:
    for chunks in (2000,) if settings.quick else _CHUNKS:
        packages = _COPIED[1:2] if settings.quick else _COPIED
        questions = 40 if settings.quick else _QUESTIONS
        await latency.measure(packages, chunks, questions, settings.rounds, folder / str(chunks), say)


PARTS: Final = {
    "docstrings": Part("functions found by the first sentence of their docstrings", _docstrings),
    "questions": Part("lines found by questions written by hand", _questions),
    "chunking": Part("chunks a CPU second, without embedding, by language", _chunking),
    "memory": Part("memory of an index of 1, 4 and 16 times the same size", _memory),
    "search": Part("searches of the embedded store at 10k, 100k and 300k chunks", _search),
    "incremental": Part("an index after one file changed, as a share of the full one", _incremental),
}
"""By name."""
