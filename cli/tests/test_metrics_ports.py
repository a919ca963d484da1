"""Each process of `sluice up` serves its metrics on a port of its own."""

import pytest

from sluice_cli.supervisor.metrics import spread
from sluice_cli.supervisor.plan import ChildSpec, Kind
from sluice_kit.config import load


def child(name: str, kind: Kind) -> ChildSpec:
    return ChildSpec(name, kind, "module", ("--config", "x"), f"unix:/{name}", required=True)


CHILDREN = (child("openai", "provider"), child("retrieval", "retrieval"), child("gateway", "gateway"))


def test_the_gateway_has_the_port_and_the_others_those_that_follow() -> None:
    document = load(None, ["telemetry.metrics=127.0.0.1:9464"], {})
    said = {one.name: one.arguments[-1] for one in spread(document, CHILDREN)}
    assert said == {
        "gateway": "telemetry.metrics=127.0.0.1:9464",
        "openai": "telemetry.metrics=127.0.0.1:9465",
        "retrieval": "telemetry.metrics=127.0.0.1:9466",
    }


@pytest.mark.parametrize("overrides", [[], ["telemetry.metrics=127.0.0.1:0"], ["telemetry.metrics=nowhere"]])
def test_without_a_port_nothing_is_said(overrides: list[str]) -> None:
    assert spread(load(None, overrides, {}), CHILDREN) == CHILDREN
