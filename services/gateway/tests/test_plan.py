"""Routes, prices and integrations: what a configuration may say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_gateway.config import GatewayConfig
from sluice_gateway.integrations import Integrations
from sluice_gateway.pipeline import plan as plan_module
from sluice_gateway.pipeline.plan import Plan, Planner
from sluice_kit.config import ConfigError
from sluice_kit.errors import SluiceError, make_error
from sluice_kit.testing import document_of, mesh


@pytest.mark.parametrize(
    ("gateway", "words"),
    [
        ({"routes": {"default": {"targets": ["no-slash"]}}}, "provider/model"),
        ({"routes": {"default": {"targets": []}}}, "targets"),
        ({"routes": {"a/b": {"targets": ["scripted/echo"]}}}, "slash"),
        ({"routes": {"fast": {"targets": ["scripted/echo"]}}}, "no route 'default'"),
        ({"integrations": {"x": {}}}, "address or colocate"),
        ({"integrations": {"x": {"address": "unix:/x", "colocate": True}}}, "address or colocate"),
        ({"prices": {"gpt": {"input": 1, "output": 1}}}, "provider/model"),
        ({"prices": {"a/b": {"input": -1, "output": 1}}}, "input"),
        ({"listen": "0.0.0.0:0"}, "auth.mode"),
        ({"admission": {"in_flight": 0}}, "in_flight"),
        ({"no_such_setting": 1}, "no such setting"),
        ({"limits": {"min_tokens_per_second": 5}}, "go together"),
        ({"routes": {"default": {"targets": ["scripted/echo"], "commit_window_seconds": 1}}}, "go together"),
    ],
)
async def test_a_mistake_fails_the_start_with_its_line(gateway: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=r"sluice\.yaml") as caught:
        async with mesh({"gateway": gateway}):
            pass
    assert words in str(caught.value)


async def test_routes_are_listed_and_used(start: Any, ask: Any) -> None:
    routes = {"default": {"targets": ["nobody/x", "scripted/echo"]}, "slow": {"targets": ["scripted/text"]}}
    async with start({"routes": routes}) as client:
        # The route names an integration that this gateway does not have; the one it has answers.
        seen = await client.stream(ask("", "hi there"))
        assert seen.text == "hi there"
        assert [target.provider for target in seen.events[0][1].accepted.targets] == ["scripted"]


class Present:
    """The integrations that there are, as a planner sees them."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.generation = 0

    def change(self, *names: str) -> None:
        self.names = set(names)
        self.generation += 1

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def get(self, name: str) -> None:
        if name not in self.names:
            raise make_error(ErrorReason.ERROR_REASON_MODEL_NOT_FOUND, "no such integration")

    def was_removed(self, name: str) -> bool:
        return False


def planner(folder: Path, present: Present) -> Planner:
    document = document_of({"gateway": {"routes": {"default": {"targets": ["a/x", "b/y"]}}}}, folder)
    return Planner(document, document.section("gateway", GatewayConfig), cast(Integrations, present))


def providers(plan: Plan) -> list[str]:
    return [target.provider for target in plan.targets]


def test_a_plan_is_remembered_until_there_are_other_integrations(tmp_path: Path) -> None:
    present = Present("a")
    plans = planner(tmp_path, present)
    first = plans.plan_answer("")
    assert plans.plan_answer("") is first
    assert providers(first) == ["a"]
    present.change("a", "b")
    assert providers(plans.plan_answer("")) == ["a", "b"]
    present.change("b")
    assert providers(plans.plan_answer("")) == ["b"]
    with pytest.raises(SluiceError):
        plans.plan_answer("a/x")
    assert providers(plans.plan_answer("", ["b/z"])) == ["b", "b"]
    assert providers(plans.plan_answer("")) == ["b"]


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "_MAX_PLANS", 3)
    plans = planner(tmp_path, Present("a"))
    for number in range(10):
        assert [target.model for target in plans.plan_answer(f"a/{number}").targets] == [str(number)]
        assert len(plans._plans) <= 3
