"""Writes what a soak found as Markdown."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from bench.soak.gauges import Held, Sample
from bench.soak.slope import Slope, slope

_KIB: Final = 1024.0
_MIB: Final = 2.0**20
_TYPES: Final = 12
"""Most types of objects listed for a process."""
_FEW: Final = 20
"""A type that there are so few more of is not listed."""


class Run(msgspec.Struct, frozen=True, kw_only=True, tag="run", tag_field="kind"):
    """One load, as a whole."""

    path: str
    rate: float
    seconds: float
    begun: int
    """Requests, those of the warm-up included."""
    skipped: int
    visitors: int
    done: dict[str, int]
    """By what was done."""
    failed: int
    mistakes: list[str]
    """The first of what went otherwise than it should."""


class _Column(msgspec.Struct, frozen=True):
    title: str
    read: Callable[[Held], float]
    digits: int


_COLUMNS: Final = (
    _Column("resident, KiB", lambda held: held.rss / _KIB, 1),
    _Column("blocks", lambda held: held.blocks, 1),
    _Column("files", lambda held: held.fds, 2),
    _Column("threads", lambda held: held.threads, 2),
    _Column("tasks", lambda held: held.tasks, 2),
    _Column("series", lambda held: held.series, 2),
)


def line(sample: Sample) -> str:
    """Returns a sample as a line for people."""
    parts = " ".join(
        f"{name}={held.rss / _MIB:.1f}MiB/{held.fds}fd/{held.threads}th/{held.tasks}t"
        for name, held in sample.held.items()
    )
    rest = f" at rest, {sample.at_rest}" if sample.at_rest else ""
    return f"{sample.path} {sample.seconds:.0f} s, {sample.requests} requests{rest}: {parts}"


def markdown(about: Mapping[str, str], runs: Sequence[Run], samples: Sequence[Sample]) -> str:
    """Returns the whole report."""
    lines = [
        "# Soak",
        "",
        "What a mesh holds more of after every 1,000 requests, once it is warm: the slope of the line of least squares",
        "over the samples under load, ± two standard errors (a jackknife over eight stretches of the run). A request is",
        "one thing that a user does, in one call or a few. Blocks are pieces of memory that the interpreter gave out;",
        "series are those of metrics; at rest means after everything that was begun had ended and was given up.",
        "",
        *(f"- {name}: {version}" for name, version in about.items()),
        "",
    ]
    for run in runs:
        lines += _run(run, [sample for sample in samples if sample.path == run.path])
    return "\n".join(lines).rstrip() + "\n"


def _run(run: Run, samples: Sequence[Sample]) -> list[str]:
    load = [sample for sample in samples if not sample.at_rest]
    before, after = (next(one for one in samples if one.at_rest == when) for when in ("before", "after"))
    number = after.requests - before.requests
    lines = [
        f"## {run.path}: {number:,} requests, {run.rate:g} a second",
        "",
        f"{run.visitors:,} clients came and went. Requests that were not begun because too many were open: {run.skipped}.",
        f"Requests that went otherwise than they should: {run.failed}.",
        "",
        *(f"- {mistake}" for mistake in run.mistakes),
        *([""] if run.mistakes else []),
        "Done: " + ", ".join(f"{name} {count:,}" for name, count in sorted(run.done.items())) + ".",
        "",
        "Growth by 1,000 requests:",
        "",
        "| process | " + " | ".join(column.title for column in _COLUMNS) + " |",
        "| --- |" + " --- |" * len(_COLUMNS),
    ]
    for name in after.held:
        cells = [_growth(load, [column.read(one.held[name]) for one in load], column.digits) for column in _COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "At rest, before and after:", ""]
    lines += ["| process | " + " | ".join(column.title for column in _COLUMNS) + " |"]
    lines += ["| --- |" + " --- |" * len(_COLUMNS)]
    for name, held in after.held.items():
        first = before.held[name]
        cells = [f"{column.read(first):,.0f} → {column.read(held):,.0f}" for column in _COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", *_disk(load, before, after), "", *_types(before, after)]
    return lines


def _disk(load: Sequence[Sample], before: Sample, after: Sample) -> list[str]:
    lines = ["| on the disk | KiB by 1,000 requests | KiB at rest, before and after |", "| --- | --- | --- |"]
    for name in sorted({*before.disk, *after.disk}):
        growth = _growth(load, [one.disk.get(name, 0) / _KIB for one in load], 1)
        first, last = before.disk.get(name, 0) / _KIB, after.disk.get(name, 0) / _KIB
        lines.append(f"| {name} | {growth} | {first:,.0f} → {last:,.0f} |")
    return lines


def _types(before: Sample, after: Sample) -> list[str]:
    lines = [f"Objects that there are at least {_FEW} more of at rest, by type, and tasks:", ""]
    for name, held in after.held.items():
        first = before.held[name]
        told = ", ".join(_more(first.types, held.types, _FEW) + _more(first.coroutines, held.coroutines, 1)) or "none"
        lines.append(f"- {name}: {told}")
    return [*lines, ""]


def _more(before: Mapping[str, int], after: Mapping[str, int], least: int) -> list[str]:
    more = {name: number - before.get(name, 0) for name, number in after.items()}
    most = sorted(((number, name) for name, number in more.items() if number >= least), reverse=True)
    return [f"`{name}` {number:+,}" for number, name in most[:_TYPES]]


def _growth(load: Sequence[Sample], values: Sequence[float], digits: int) -> str:
    return written(slope([sample.requests / 1000 for sample in load], values), digits)


def written(found: Slope, digits: int) -> str:
    """Returns a slope and two standard errors, or a dash where there are too few points."""
    if math.isnan(found.value) or math.isnan(found.error):
        return "–"
    return f"{found.value:+,.{digits}f} ± {2 * found.error:,.{digits}f}{' **grows**' if found.grows else ''}"
