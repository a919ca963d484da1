"""Routes, prices and integrations: what a configuration may say."""

from collections.abc import Mapping
from typing import Any

import pytest

from sluice_kit.config import ConfigError
from sluice_kit.testing import mesh


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
