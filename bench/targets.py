"""What the project means to reach, as ratios within a round to peers that took part in it."""

from collections.abc import Sequence
from statistics import median
from typing import Final

import msgspec

from bench.runner import Measurement


class Goal(msgspec.Struct, frozen=True):
    """At most `limit` times a peer's CPU for each request or token."""

    scenario: str
    path: str
    peer: str
    limit: float


_GOALS: Final = tuple(
    Goal(scenario, path, peer, limit)
    for scenario, path, limits in (
        ("unary-c32", "two", {"litellm": 1 / 12, "portkey": 0.8}),
        ("unary-c32", "colocated", {"litellm": 1 / 30, "portkey": 0.4}),
        ("flood", "two", {"litellm": 1 / 60, "portkey": 0.6}),
        ("flood", "colocated", {"litellm": 1 / 100, "portkey": 0.4}),
        ("paced", "two", {"litellm": 1 / 6, "portkey": 1.2}),
        ("paced", "colocated", {"litellm": 1 / 10, "portkey": 0.75, "tensorzero": 1.4}),
    )
    for peer, limit in limits.items()
)
_ADDED_TTFT_MS: Final = {"two": 4.0, "colocated": 2.0}
_LAG_P99_MS: Final = {"two": 300.0, "colocated": 80.0}
_STREAM_KIB: Final = {"two": 100.0, "colocated": 60.0}


def stream_memory(measurement: Measurement) -> float | None:
    """Returns the KiB that the path's processes grew by for each stream of a load that held them open together."""
    if not measurement.memory:
        return None
    grown = sum(measurement.memory.values()) - sum(measurement.memory_before.values())
    return grown / 1024 / max(1, measurement.outcome.started)


class Table:
    """The measurements by round, path and scenario."""

    def __init__(self, found: Sequence[Measurement]) -> None:
        self._by_key = {(m.scenario, m.path, m.round): m for m in found}
        self.rounds = sorted({m.round for m in found})

    def pairs(self, scenario: str, path: str, other: str) -> list[tuple[Measurement, Measurement]]:
        """Returns both measurements of every round in which both paths took part."""
        keys = [((scenario, path, number), (scenario, other, number)) for number in self.rounds]
        return [(self._by_key[a], self._by_key[b]) for a, b in keys if a in self._by_key and b in self._by_key]

    def all(self, scenario: str, path: str) -> list[Measurement]:
        """Returns the measurements of one path."""
        keys = [(scenario, path, number) for number in self.rounds]
        return [self._by_key[key] for key in keys if key in self._by_key]


def section(found: Sequence[Measurement]) -> list[str]:
    """Returns the part of the report that compares with the targets, as far as the run can tell."""
    table = Table(found)
    rows = [*_ratios(table), *_absolutes(table)]
    if not rows:
        return []
    return [
        "## Targets",
        "",
        "Ratios of CPU are taken within each round.",
        "",
        "| what | path | target | min–median–max | reached |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
    ]


def _ratios(table: Table) -> list[str]:
    rows = []
    for goal in _GOALS:
        ratios = []
        for ours, theirs in table.pairs(goal.scenario, goal.path, goal.peer):
            own, peer = ours.per_unit(ours.own_cpu), theirs.per_unit(theirs.own_cpu)
            if own is not None and peer:
                ratios.append(own / peer)
        if ratios:
            what = f"{goal.scenario}: CPU against {goal.peer}"
            if goal.limit < 0.1 or goal.peer == "litellm":
                shown = "–".join(f"1/{1 / value:.1f}" for value in _three(ratios))
                limit = f"≤ 1/{round(1 / goal.limit)}"
            else:
                shown, limit = "–".join(f"{value:.2f}" for value in _three(ratios)), f"≤ {goal.limit}"
            rows.append(_row(what, goal.path, limit, shown, median(ratios), goal.limit))
    return rows


def _absolutes(table: Table) -> list[str]:
    rows = []
    for path in ("two", "colocated"):
        # The target is for many streams; beside it, what is added where nothing is short of CPU.
        rows += _absolute("light: added TTFT p50, ms", path, _added_ttft(table, "light", path), None)
        rows += _absolute("many: added TTFT p50, ms", path, _added_ttft(table, "many", path), _ADDED_TTFT_MS[path])
        many = table.all("many", path)
        lags = [m.outcome.lag.p99 for m in many if m.outcome.lag.p99 is not None]
        rows += _absolute("many: lag p99, ms", path, lags, _LAG_P99_MS[path])
        memory = [value for m in many if (value := stream_memory(m)) is not None]
        rows += _absolute("many: memory a stream, KiB", path, memory, _STREAM_KIB[path])
    return rows


def _added_ttft(table: Table, scenario: str, path: str) -> list[float]:
    return [
        ours.outcome.ttft.p50 - base.outcome.ttft.p50
        for ours, base in table.pairs(scenario, path, "direct")
        if ours.outcome.ttft.p50 is not None and base.outcome.ttft.p50 is not None
    ]


def _absolute(what: str, path: str, values: list[float], limit: float | None) -> list[str]:
    if not values:
        return []
    shown = "–".join(f"{value:.1f}" for value in _three(values))
    if limit is None:
        return [f"| {what} | {path} | none | {shown} | – |"]
    return [_row(what, path, f"≤ {limit:g}", shown, median(values), limit)]


def _three(values: Sequence[float]) -> list[float]:
    return [min(values), median(values), max(values)]


def _row(what: str, path: str, limit: str, shown: str, value: float, most: float) -> str:
    verdict = "yes" if value <= most else f"no, {value / most:.2f} × the target"
    return f"| {what} | {path} | {limit} | {shown} | {verdict} |"
