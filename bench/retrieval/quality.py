"""Whether searches find the right lines: the service as it ships, beside windows of words."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

import msgspec

from bench.retrieval.baselines import DenseWindows, PlainBM25, windows
from bench.retrieval.metrics import Question, Score, Span, score
from bench.retrieval.packages import Package, sample, total_bytes, without_docstrings, write
from bench.retrieval.questions import questions_about
from bench.retrieval.service import Mode, Service
from sluice_retrieval.minilm.embedder import LocalEmbedder

TUNED: Final = (
    Package("aiohttp", "aiohttp"),
    Package("h2", "h2"),
    Package("requests", "requests"),
    Package("urllib3", "urllib3"),
)
"""Packages whose docstrings the weights of search were chosen by."""
HELD_OUT: Final = (
    Package("attrs", "attr"),
    Package("packaging", "packaging"),
    Package("pytest", "_pytest"),
    Package("websockets", "websockets"),
)
"""Packages that nothing was chosen by."""
ASKED_ABOUT: Final = (
    Package("httpx", "httpx"),
    # Tables of characters, which nobody asks about.
    Package("rich", "rich", leave_out=("_unicode_data/", "_emoji_codes.py", "_spinners.py")),
)
"""Packages with questions written by hand."""

MOST_BYTES: Final = 320_000
"""Of each package's sources in docstring search, before docstrings are taken away: whole files, always the same ones."""
MOST_QUESTIONS: Final = 80
"""Of each package in docstring search."""

SYSTEMS: Final = ("sparse", "dense", "hybrid", "plain BM25", "MiniLM")
BASELINES: Final = SYSTEMS[3:]
_MODES: Final = {
    "sparse": Mode.SEARCH_MODE_SPARSE,
    "dense": Mode.SEARCH_MODE_DENSE,
    "hybrid": Mode.SEARCH_MODE_HYBRID,
}


class Answers(msgspec.Struct, tag="quality", tag_field="part"):
    """How one system answered the questions about one package, in the order of the questions."""

    set: str
    """`docstrings`, or `questions` for those written by hand."""
    package: str
    version: str
    held_out: bool
    system: str
    bytes: int
    """Size of what was searched."""
    units: int
    """Chunks or windows that it was cut into."""
    lines: float
    """Mean length of the passages."""
    scores: list[Score]


class Task(msgspec.Struct):
    """What is searched, and what for."""

    set: str
    package: Package
    held_out: bool
    sources: dict[str, str]
    questions: list[Question]

    def only(self, files: Collection[str]) -> "Task":
        """Returns the part of it that these files are enough for."""
        sources = {path: text for path, text in self.sources.items() if path in files}
        questions = [one for one in self.questions if all(answer.path in files for answer in one.answers)]
        return msgspec.structs.replace(self, sources=sources, questions=questions)


def docstring_tasks(packages: Sequence[Package], most_bytes: int, most_questions: int) -> list[Task]:
    """Returns docstring search over packages."""
    tasks: list[Task] = []
    for package in packages:
        bare, questions = without_docstrings(sample(package.sources(), most_bytes), most_questions)
        tasks.append(Task("docstrings", package, package in HELD_OUT, bare, questions))
    return tasks


def question_tasks(packages: Sequence[Package]) -> list[Task]:
    """Returns the questions written by hand. Raises StaleQuestions."""
    tasks: list[Task] = []
    for package in packages:
        sources = package.sources()
        tasks.append(Task("questions", package, True, sources, questions_about(package, sources)))
    return tasks


async def measure(service: Service, task: Task, folder: Path, say: Callable[[Answers], None]) -> None:
    """Asks every system every question. The sources are written below the folder."""
    name = f"{task.set}-{task.package.distribution}"
    place = folder / name
    write(task.sources, place)
    cut = windows(task.sources)
    embedder = LocalEmbedder()
    try:
        # Two processes, so two cores.
        indexed, vectors = await asyncio.gather(
            service.index(name, place, dense=True), embedder.documents([window.text for window in cut])
        )
        bm25, nearest = PlainBM25(cut), DenseWindows(cut, vectors)
        for system in SYSTEMS:
            scores: list[Score] = []
            sizes: list[int] = []
            for question in task.questions:
                spans: list[Span]
                if system in _MODES:
                    spans = await service.search(name, question.text, _MODES[system])
                elif system == "MiniLM":
                    spans = nearest.search(await embedder.query(question.text))
                else:
                    spans = bm25.search(question.text)
                scores.append(score(question, spans))
                sizes += [span.size for span in spans]
            say(
                Answers(
                    set=task.set,
                    package=task.package.distribution,
                    version=task.package.version,
                    held_out=task.held_out,
                    system=system,
                    bytes=total_bytes(task.sources),
                    units=indexed.chunks if system in _MODES else len(cut),
                    lines=fmean(sizes or [0]),
                    scores=scores,
                )
            )
    finally:
        await embedder.close()
