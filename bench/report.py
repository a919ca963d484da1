"""Writes what was measured as Markdown."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Final

from bench import targets
from bench.runner import Measurement
from bench.scenarios import SCENARIOS

_MIB: Final = 2**20


def lost(measurement: Measurement) -> int:
    """Returns how many requests were not answered."""
    return measurement.outcome.failed + measurement.outcome.unfinished


def line(measurement: Measurement) -> str:
    """Returns one measurement as a line for people."""
    outcome = measurement.outcome
    unit = "token" if outcome.tokens else "request"
    cpu = {name: measurement.per_unit(seconds) for name, seconds in measurement.cpu.items()}
    parts = " ".join(f"{name}={value:.1f}" for name, value in cpu.items() if value is not None)
    text = (
        f"{measurement.round} {measurement.scenario:9} {measurement.path:10} {outcome.done} done, "
        f"us/{unit}: {parts} latency {outcome.latency.p50}/{outcome.latency.p99} ttft {outcome.ttft.p50}/"
        f"{outcome.ttft.p99} lag {outcome.lag.p50}/{outcome.lag.p99} ms"
    )
    if lost(measurement):
        text += f" LOST {lost(measurement)}: {outcome.error}"
    return text


def spread(values: Iterable[float | None], digits: int = 3) -> str:
    """Returns `min–median–max`; one number where there is but one, a dash where there is none."""
    present = sorted(value for value in values if value is not None)
    if not present:
        return "–"
    shown = [_number(value, digits) for value in (present[0], median(present), present[-1])]
    return shown[0] if len(present) == 1 else "–".join(shown)


def _number(value: float, digits: int) -> str:
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


Column = tuple[str, Callable[[Measurement], float | None]]


def markdown(about: dict[str, str], found: Sequence[Measurement]) -> str:
    """Returns the whole report."""
    rounds = len({measurement.round for measurement in found})
    lines = [
        "# Streaming benchmark",
        "",
        f"Rounds, interleaved: {rounds}. Figures are min–median–max over them; CPU is user and system time of all",
        "processes of a path, in microseconds; times are in milliseconds.",
        "",
        *(f"- {name}: {version}" for name, version in about.items()),
        "",
    ]
    for name in dict.fromkeys(measurement.scenario for measurement in found):
        lines += _scenario(name, [measurement for measurement in found if measurement.scenario == name])
    lines += targets.section(found)
    return "\n".join(lines).rstrip() + "\n"


def _scenario(name: str, found: Sequence[Measurement]) -> list[str]:
    scenario = SCENARIOS[name]
    columns: list[Column] = [
        (f"CPU a {scenario.unit}", lambda m: m.per_unit(m.own_cpu)),
        ("of the client", lambda m: m.per_unit(m.cpu["client"])),
    ]
    if scenario.stream:
        columns += [
            ("tokens/s", lambda m: m.outcome.tokens / m.outcome.wall),
            ("TTFT p50", lambda m: m.outcome.ttft.p50),
            ("TTFT p99", lambda m: m.outcome.ttft.p99),
            ("lag p50", lambda m: m.outcome.lag.p50),
            ("lag p99", lambda m: m.outcome.lag.p99),
            ("tokens a message", lambda m: m.outcome.tokens / m.outcome.messages if m.outcome.messages else None),
        ]
    else:
        columns += [
            ("requests/s", lambda m: m.outcome.done / m.outcome.wall),
            ("latency p50", lambda m: m.outcome.latency.p50),
            ("latency p99", lambda m: m.outcome.latency.p99),
        ]
    columns += [
        ("MiB", lambda m: sum(m.memory.values()) / _MIB),
        ("KiB a stream", targets.stream_memory),
        ("lost", lambda m: float(lost(m))),
    ]
    if not scenario.stream or scenario.name != "many":
        columns = [column for column in columns if column[0] != "KiB a stream"]
    lines = [
        f"## {name}: {scenario.about}",
        "",
        "| path | " + " | ".join(title for title, _ in columns) + " | CPU by process |",
        "| --- |" + " --- |" * (len(columns) + 1),
    ]
    for path in dict.fromkeys(measurement.path for measurement in found):
        own = [measurement for measurement in found if measurement.path == path]
        cells = [spread(value(measurement) for measurement in own) for _, value in columns]
        lines.append(f"| {path} | " + " | ".join(cells) + f" | {_by_process(own)} |")
    return [*lines, ""]


def _by_process(found: Sequence[Measurement]) -> str:
    names = [name for name in found[0].cpu if name != "client"]
    parts = []
    for name in names:
        values = [value for m in found if (value := m.per_unit(m.cpu[name])) is not None]
        if values:
            parts.append(f"{name.rpartition('-')[2]} {_number(median(values), 3)}")
    return ", ".join(parts)
