"""Writes what was measured as Markdown."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Final, TypeVar

from bench.report import spread
from bench.retrieval.cutting import Cut
from bench.retrieval.incremental import Changed
from bench.retrieval.latency import Searched
from bench.retrieval.memory import Indexed
from bench.retrieval.metrics import CUTS, Score, gain_over, mean
from bench.retrieval.parts import Row
from bench.retrieval.quality import BASELINES, MOST_BYTES, MOST_QUESTIONS, SYSTEMS, Answers

_MIB: Final = 2**20
_TARGET_GAIN: Final = 0.10
_TARGET_SHARE: Final = 0.02
_TARGET_RATE: Final = 2000
R = TypeVar("R", Answers, Changed, Cut, Indexed, Searched)


def line(row: Row) -> str:
    """Returns one row as a line for people."""
    if isinstance(row, Answers):
        about = mean(row.scores)
        return (
            f"{row.set} {row.package:10} {row.system:10} MRR@10 {about.reciprocal:.3f} recall@10 {about.recall[1]:.3f}"
        )
    if isinstance(row, Cut):
        return f"chunking {row.language}: {row.chunks} chunks, {row.median:.0f} a CPU second"
    if isinstance(row, Indexed):
        return (
            f"{row.round} memory {row.copies}x: {row.chunks} chunks, own {row.own / _MIB:.0f} MiB, {row.cpu:.1f} s CPU"
        )
    if isinstance(row, Changed):
        return f"{row.round} incremental: {row.full:.2f} s, then {row.changed:.2f} s ({row.share:.2%}) of CPU"
    return (
        f"{row.round} search {row.chunks} {row.mode}: p50 {row.p50:.2f} ms, p99 {row.p99:.2f} ms, CPU {row.cpu:.2f} ms"
    )


def markdown(about: dict[str, str], rows: Sequence[Row], *, quick: bool = False) -> str:
    """Returns the whole report."""
    lines = ["# Retrieval benchmark", ""]
    if quick:
        lines += ["A smoke run: too small for its figures to mean anything.", ""]
    lines += [*(f"- {name}: {version}" for name, version in about.items()), ""]
    answers = _of(rows, Answers)
    if answers:
        lines += [*_ABOUT_HITS, ""]
    for name, title, text in (
        ("docstrings", "Docstring to function", _ABOUT_DOCSTRINGS),
        ("questions", "Questions written by hand", _ABOUT_QUESTIONS),
    ):
        own = [one for one in answers if one.set == name]
        if own:
            lines += [f"## {title}", "", *text, "", *_quality(own)]
    for part in (
        _chunking(_of(rows, Cut)),
        _memory(_of(rows, Indexed)),
        _search(_of(rows, Searched)),
        _incremental(_of(rows, Changed)),
    ):
        lines += part
    return "\n".join(lines).rstrip() + "\n"


def _of(rows: Iterable[Row], kind: type[R]) -> list[R]:
    return [row for row in rows if isinstance(row, kind)]


_ABOUT_DOCSTRINGS: Final = (
    "Each package is searched for its functions by the first sentences of their docstrings; no docstring is indexed. Of",
    f"each package, at most {MOST_BYTES // 1000} kB of sources and {MOST_QUESTIONS} questions, always the same ones. The",
    "weights of search were chosen by the packages of the first half; those held out say what that is worth.",
)
_ABOUT_QUESTIONS: Final = (
    "The sources as they are, docstrings included, and the questions of `bench/retrieval/questions.toml`.",
)
_ABOUT_HITS: Final = (
    "A passage is a hit if it has at least half of the answer's lines, or lies at least half within them. *sparse*, *dense*",
    "and *hybrid* are searches of the running service; *plain BM25* and *MiniLM* search windows of 350 words with 100 of",
    "overlap. The model reads the first 256 tokens of a text, windows included.",
)


def _quality(rows: Sequence[Answers]) -> list[str]:
    lines: list[str] = []
    halves = [("all", list(rows))]
    if len({row.held_out for row in rows}) == 2:
        halves += [("tuned by", [row for row in rows if not row.held_out])]
        halves += [("held out", [row for row in rows if row.held_out])]
    for name, half in halves:
        packages = {row.package: row.version for row in half}
        asked = sum(len(row.scores) for row in half if row.system == SYSTEMS[0])
        title = ", ".join(f"{package} {version}" for package, version in packages.items())
        lines += [f"### {name}: {title}; {asked} questions", "", *_systems(half), "", *_targets(half), ""]
    lines += ["### MRR@10 by package", "", *_by_package(rows), ""]
    return lines


def _scores(rows: Sequence[Answers], system: str) -> list[Score]:
    return [score for row in rows if row.system == system for score in row.scores]


def _systems(rows: Sequence[Answers]) -> list[str]:
    cuts = " | ".join(f"recall@{cut}" for cut in CUTS)
    lines = [f"| system | {cuts} | MRR@10 | nDCG@10 | lines a passage |", "| --- |" + " --- |" * (len(CUTS) + 3)]
    for system in SYSTEMS:
        about = mean(_scores(rows, system))
        recalls = " | ".join(f"{value:.3f}" for value in about.recall)
        sizes = [row.lines for row in rows if row.system == system]
        lines.append(
            f"| {system} | {recalls} | {about.reciprocal:.3f} | {about.gain:.3f} | {sum(sizes) / len(sizes):.0f} |"
        )
    return lines


def _targets(rows: Sequence[Answers]) -> list[str]:
    values = {system: [score.reciprocal for score in _scores(rows, system)] for system in SYSTEMS}
    better = max(BASELINES, key=lambda system: sum(values[system]))
    lines = ["| target, in MRR@10 | wanted | measured, in its 95 % interval | reached |", "| --- | --- | --- | --- |"]
    for system, baseline, wanted in (("hybrid", better, _TARGET_GAIN), ("sparse", "plain BM25", 0.0)):
        low, gain, high = gain_over(values[system], values[baseline])
        needed = f"≥ {wanted:+.0%}" if wanted else "> 0"
        reached = "yes" if gain >= wanted and gain > 0 else "no"
        lines.append(f"| {system} over {baseline} | {needed} | {low:+.0%} … {gain:+.1%} … {high:+.0%} | {reached} |")
    return lines


def _by_package(rows: Sequence[Answers]) -> list[str]:
    lines = [
        "| package | KiB | chunks | windows | questions | " + " | ".join(SYSTEMS) + " |",
        "| --- |" + " --- |" * (len(SYSTEMS) + 4),
    ]
    for package in dict.fromkeys(row.package for row in rows):
        own = {row.system: row for row in rows if row.package == package}
        first, last = own[SYSTEMS[0]], own[SYSTEMS[-1]]
        cells = " | ".join(f"{mean(own[system].scores).reciprocal:.3f}" for system in SYSTEMS)
        lines.append(
            f"| {package} | {first.bytes / 1024:.0f} | {first.units:,} | {last.units:,} | {len(first.scores)} | {cells} |"
        )
    return lines


def _chunking(rows: Sequence[Cut]) -> list[str]:
    if not rows:
        return []
    lines = [
        "## Cutting",
        "",
        "Chunks with their words, weights and ids a second of CPU, without embedding: what installed packages hold of each",
        "language, cut in one process. Slowest–median–fastest round.",
        "",
        f"| language | files | MiB | chunks | chunks a CPU second | ≥ {_TARGET_RATE:,} |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        rate = f"{row.slowest:,.0f}–{row.median:,.0f}–{row.fastest:,.0f}"
        reached = "yes" if row.median >= _TARGET_RATE else f"no, 1/{_TARGET_RATE / row.median:.1f} of it"
        size = f"{row.bytes / _MIB:.2f}"
        lines.append(f"| {row.language} | {row.files:,} | {size} | {row.chunks:,} | {rate} | {reached} |")
    return [*lines, ""]


def _memory(rows: Sequence[Indexed]) -> list[str]:
    if not rows:
        return []
    lines = [
        "## Memory while indexing",
        "",
        "A new service indexes copies of the same packages. Worst moments of service and children together, in MiB; *own*",
        "is what they hold themselves, *resident* is that with what is mapped of files, the index above all. Figures are",
        "min–median–max over the rounds.",
        "",
        "| size | MiB of sources | chunks | own, before | own | resident | CPU s | chunks a CPU second |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for copies in dict.fromkeys(row.copies for row in rows):
        own = [row for row in rows if row.copies == copies]
        columns: tuple[Callable[[Indexed], float], ...] = (
            lambda row: row.before / _MIB,
            lambda row: row.own / _MIB,
            lambda row: row.resident / _MIB,
            lambda row: row.cpu,
            lambda row: row.chunks / row.cpu if row.cpu else 0.0,
        )
        cells = " | ".join(spread(map(column, own)) for column in columns)
        lines.append(f"| {copies}× | {own[0].bytes / _MIB:.1f} | {own[0].chunks:,} | {cells} |")
    return [*lines, ""]


def _search(rows: Sequence[Searched]) -> list[str]:
    if not rows:
        return []
    lines = [
        "## Searches of the embedded store",
        "",
        f"{rows[0].questions} questions one after the other, 40 candidates each, of made-up chunks with real words. Latency",
        "and CPU in milliseconds; CPU is of the store's process and the one that asks; memory is the store's process's, in",
        "MiB. Figures are min–median–max over the rounds; opening, building and disk are of the one shard of that size.",
        "",
        "| chunks | by | p50 | p99 | CPU a question | own | resident | opening, ms | building, s | disk, MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for chunks, mode in dict.fromkeys((row.chunks, row.mode) for row in rows):
        own = [row for row in rows if (row.chunks, row.mode) == (chunks, mode)]
        columns: tuple[Callable[[Searched], float], ...] = (
            lambda row: row.p50,
            lambda row: row.p99,
            lambda row: row.cpu,
            lambda row: row.own / _MIB,
            lambda row: row.resident / _MIB,
        )
        cells = " | ".join(spread(map(column, own)) for column in columns)
        once = f"{own[0].opening:.0f} | {own[0].building:.0f} | {own[0].disk / _MIB:.0f}"
        lines.append(f"| {chunks:,} | {mode} | {cells} | {once} |")
    return [*lines, ""]


def _incremental(rows: Sequence[Changed]) -> list[str]:
    if not rows:
        return []
    lines = [
        "## An index after one file changed",
        "",
        "The same corpus indexed, then again after a function was added to one file, then again with nothing to do. Seconds",
        "of CPU of the service and its children, those that ended included; min–median–max over the rounds.",
        "",
        "| MiB of sources | chunks | by | full | one file changed | nothing changed | share of the full one, % | ≤ 2 % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for chunks, dense in dict.fromkeys((row.chunks, row.dense) for row in rows):
        own = [row for row in rows if (row.chunks, row.dense) == (chunks, dense)]
        share = median(row.share for row in own)
        cells = [
            f"{own[0].bytes / _MIB:.1f}",
            f"{chunks:,}",
            "words and meaning" if dense else "words",
            spread(row.full for row in own),
            spread(row.changed for row in own),
            spread(row.unchanged for row in own),
            spread(100 * row.share for row in own),
            "yes" if share <= _TARGET_SHARE else f"no, {share / _TARGET_SHARE:.1f} × the target",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]
