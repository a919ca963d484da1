"""What operators import names metrics that there are: the dashboard, the alert rules, and the page that lists them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.telemetry.metrics import Metrics
from sluice_kit.telemetry.table import METRICS, Metric

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "deploy" / "observability"
_VARIABLES: Final = {"$__rate_interval": "5m", "$job": ".*", "$instance": ".*"}
_OF_PROMETHEUS: Final = {"up"}


@cache
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "grafana" / "sluice.json").read_text(encoding="utf-8"))
    return loaded


@cache
def rules() -> tuple[dict[str, Any], ...]:
    groups = yaml.safe_load((FOLDER / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return tuple(rule for group in groups for rule in group["rules"])


def expressions() -> Iterator[tuple[str, str]]:
    """Where a query stands, and the query."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"]
            for variable, value in _VARIABLES.items():
                text = text.replace(variable, value)
            yield f"panel {panel['title']}", text
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]


EXPRESSIONS: Final = list(expressions())


class _Selectors(list[Any]):
    """Finds the selectors of a query."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._walk(promql_parser.parse(text))

    def _walk(self, node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            self.append(node)
        for name in ("lhs", "rhs", "expr", "param", "vector_selector", "vs"):
            child = getattr(node, name, None)
            if isinstance(child, promql_parser.Expr):
                self._walk(child)
        for child in getattr(node, "args", None) or ():
            self._walk(child)


@cache
def by_series() -> dict[str, Metric]:
    return {series: metric for metric in METRICS for series in metric.series}


@cache
def of_the_process() -> frozenset[str]:
    """The names that every process serves beside the table's."""
    registry = Metrics("gateway").registry
    return frozenset(sample.name for family in registry.collect() for sample in family.samples)


@pytest.mark.parametrize(("where", "text"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_queries_can_be_read_and_name_metrics_and_labels_that_there_are(where: str, text: str) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    selectors = _Selectors(text)
    assert selectors, f"{where} asks for nothing"
    for selector in selectors:
        metric = by_series().get(selector.name)
        known = metric is not None or selector.name in recorded | _OF_PROMETHEUS | of_the_process()
        assert known, f"{where} asks for {selector.name}"
        if metric is not None:
            labels = {one.name for one in selector.matchers.matchers}
            assert labels <= {*metric.labels, "job", "instance", "le"}, f"{where}: {selector.name}"


@pytest.mark.parametrize(("where", "text"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_counters_are_asked_for_their_rates(where: str, text: str) -> None:
    for name in set(re.findall(r"\bsluice_\w+_(?:total|bucket|count|sum)\b", text)):
        assert re.search(rf"(rate|increase)\({name}", text.replace(" ", "")), f"{where}: {name}"


def test_the_dashboard_shows_every_metric() -> None:
    shown = {selector.name for where, text in EXPRESSIONS if where.startswith("panel") for selector in _Selectors(text)}
    missing = [metric.name for metric in METRICS if not shown & set(metric.series)]
    assert not missing


def test_panels_do_not_lie_over_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


@cache
def anchors(page: Path) -> frozenset[str]:
    """What a link into a page may name."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found)


def test_alerts_say_what_is_wrong_how_urgent_it_is_and_where_to_read_on() -> None:
    for rule in rules():
        if "alert" not in rule:
            continue
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert anchor in anchors(ROOT / page), f"{rule['alert']}: {page} has no #{anchor}"


def test_reasons_in_queries_are_reasons() -> None:
    known = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()}  # noqa: SIM118 - an enum of protobuf
    for where, text in EXPRESSIONS:
        for pattern in re.findall(r'reason(?:=~|!~|=|!=)"([^"]*)"', text):
            for reason in pattern.split("|"):
                assert any(re.fullmatch(reason, name) for name in known), f"{where}: {reason}"
