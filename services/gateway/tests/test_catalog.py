"""What is remembered of models, for how long, and who waits for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import integration_service_pb2 as integration_pb
from sluice.gateway.v1 import integration_service_pb2_grpc as integration_grpc
from sluice.gateway.v1 import model_service_pb2 as pb
from sluice.gateway.v1 import model_service_pb2_grpc as pb_grpc
from sluice.provider.v1.model_pb2 import Capability, Model
from sluice.provider.v1.provider_service_pb2 import ListModelsRequest, ListModelsResponse
from sluice_gateway.catalog import Catalog
from sluice_gateway.config import CatalogConfig
from sluice_gateway.integrations import Integration, Integrations
from sluice_kit.call import Call
from sluice_kit.errors import CancelledByOwnerError, SluiceError, UnavailableError

from .adapter import Adapter

R = ErrorReason
CALL = Call("/test")
PREFILL = Capability.CAPABILITY_ASSISTANT_PREFILL


class Lists:
    """A generator that lists models, when it is let, and counts how often."""

    def __init__(self, *models: Model) -> None:
        self.models = list(models)
        self.failure: Exception | None = None
        self.endless = False
        self.asked = 0
        self.news = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def list_models(self, request: ListModelsRequest, call: Call) -> ListModelsResponse:
        if not request.page_token:
            self.asked += 1
            self.news.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        at = int(request.page_token or 0)
        more = self.endless or at + 1 < len(self.models)
        return ListModelsResponse(models=self.models[at : at + 1], next_page_token=str(at + 1) if more else "")

    async def until(self, asked: int) -> None:
        while self.asked < asked:
            self.news.clear()
            await self.news.wait()


class Known(dict[str, Integration]):
    """The integrations of a test."""

    def __init__(self, **generators: Lists) -> None:
        super().__init__((name, Integration(name, cast(Any, one), "process")) for name, one in generators.items())

    def get(self, name: str) -> Integration:  # type: ignore[override]  # as Integrations has it
        return self[name]


@contextlib.asynccontextmanager
async def catalog(known: Known, share: float = 0.9, **config: float) -> AsyncIterator[Catalog]:
    """`share`: at which part of its age a list in use is fetched again."""
    one = Catalog(cast(Integrations, known), CatalogConfig(**config), draw=lambda low, high: share)
    try:
        yield one
    finally:
        await one.close()


async def names(one: Catalog, known: Known, **options: bool) -> dict[str, Any]:
    """Returns what each integration lists, or the reason why it does not."""
    answers = await one.models(known.values(), CALL, **options)
    return {
        integration.id: answer.reason if isinstance(answer, SluiceError) else [model.id for model in answer]
        for integration, answer in answers
    }


async def test_a_list_is_fetched_once_for_all_who_want_it() -> None:
    lists = Lists(Model(id="a"), Model(id="b"))
    known = Known(x=lists)
    lists.gate.clear()
    async with catalog(known) as one:
        both = asyncio.gather(names(one, known), names(one, known))
        await lists.until(1)
        lists.gate.set()
        assert list(await both) == [{"x": ["a", "b"]}] * 2
        assert await names(one, known) == {"x": ["a", "b"]}
        assert lists.asked == 1
        lists.models.pop()
        assert await names(one, known, refresh=True) == {"x": ["a"]}
        one.invalidate("x")
        lists.models.pop()
        assert await names(one, known) == {"x": []}
        assert lists.asked == 3


async def test_who_leaves_takes_nothing_away_from_the_others() -> None:
    lists = Lists(Model(id="a"))
    known = Known(x=lists)
    lists.gate.clear()
    async with catalog(known) as one:
        first = asyncio.create_task(names(one, known))
        await lists.until(1)
        second = asyncio.create_task(names(one, known))
        await asyncio.sleep(0)
        first.cancel()
        # What is being fetched when a list is forgotten is still for those who wait for it.
        one.invalidate("x")
        lists.gate.set()
        assert await second == {"x": ["a"]}
        assert await names(one, known) == {"x": ["a"]}
        assert lists.asked == 2


async def test_one_that_is_slow_is_named_and_listed_once_it_has_answered() -> None:
    slow, quick = Lists(Model(id="a")), Lists(Model(id="b"))
    known = Known(slow=slow, quick=quick)
    slow.gate.clear()
    async with catalog(known, ask_seconds=0.5) as one:
        assert await names(one, known) == {"slow": R.ERROR_REASON_UPSTREAM_TIMEOUT, "quick": ["b"]}
        slow.gate.set()
        while (await names(one, known))["slow"] != ["a"]:
            pass
        assert slow.asked == 1
        slow.gate.clear()
        # It has answered before: that is better than nothing.
        assert await names(one, known, refresh=True) == {"slow": ["a"], "quick": ["b"]}


async def test_a_failure_is_forgotten_sooner(until: Any) -> None:
    lists = Lists(Model(id="a"))
    lists.failure = UnavailableError("down", reason=R.ERROR_REASON_SERVICE_UNREACHABLE)
    known = Known(x=lists)
    async with catalog(known, age_seconds=0.5) as one:
        assert await names(one, known) == {"x": R.ERROR_REASON_SERVICE_UNREACHABLE}
        lists.failure = None
        await until(lambda: not one._is_fresh(one._entries["x"]))
        assert await names(one, known) == {"x": ["a"]}
        lists.failure = ValueError("a defect")
        assert await names(one, known, refresh=True) == {"x": R.ERROR_REASON_INTERNAL}
        assert one.capabilities(Target(provider="x", model="a")) == frozenset()
        lists.failure, lists.endless = None, True
        assert await names(one, known, refresh=True) == {"x": R.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR}


async def test_lists_in_use_are_fetched_in_the_background_and_others_are_not(until: Any) -> None:
    lists = Lists(Model(id="a"))
    known = Known(x=lists)
    async with catalog(known, share=0.0001, age_seconds=100.0) as one:
        await names(one, known)
        await lists.until(4)
        entry = one._entries["x"]
        entry.used = float("-inf")  # as if it were long ago
        await until(lambda: entry.timer is None and entry.fetch is None)
        fetched = lists.asked
        await names(one, known)
        await lists.until(fetched + 1)
    async with catalog(known, age_seconds=0) as one:
        before = lists.asked
        await names(one, known)
        await names(one, known)
        assert lists.asked == before + 2
        assert one._entries["x"].timer is None


async def test_capabilities_are_known_at_once_or_later(until: Any) -> None:
    lists = Lists(Model(id="a", capabilities=[PREFILL]))
    async with catalog(Known(x=lists)) as one:
        target, other = Target(provider="x", model="a"), Target(provider="x", model="other")
        assert one.capabilities(target) is None
        await until(lambda: one.capabilities(target) is not None)
        assert one.capabilities(target) == frozenset({PREFILL})
        assert one.capabilities(other) is None
        assert one.capabilities(Target(provider="nobody", model="a")) is None
        assert lists.asked == 1
        found = await one.find(target, CALL)
        assert found is not None
        assert found.capabilities == [PREFILL]
        assert await one.find(other, CALL) is None
        lists.failure = UnavailableError("down", reason=R.ERROR_REASON_SERVICE_UNREACHABLE)
        one.invalidate("x")
        with pytest.raises(UnavailableError):
            await one.find(target, CALL)


async def test_a_gateway_remembers_and_asks_anew_when_told(start: Any, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/fake.sock"
    adapter = Adapter()
    adapter.models = ["one"]
    settings = {"integrations": {"fake": {"address": address}}, "health": {"poll_seconds": 0.01}}
    async with adapter.serving(address), start(settings) as client:
        stub: Any = pb_grpc.ModelServiceStub(client.channel)

        async def listed(**fields: Any) -> list[str]:
            answer = await stub.ListModels(pb.ListModelsRequest(integration="fake", **fields))
            return [model.model.id for model in answer.models]

        assert await listed() == ["one"]
        adapter.models = ["one", "two"]
        assert await listed() == ["one"]
        assert await listed(refresh=True) == ["one", "two"]
        assert (await stub.GetModel(pb.GetModelRequest(name="fake/two"))).model.integration == "fake"
        assert adapter.lists == 2
        # An integration that comes to be in another state is asked anew.
        health: Any = integration_grpc.IntegrationServiceStub(client.channel)
        watch = health.WatchIntegrationHealth(integration_pb.WatchIntegrationHealthRequest(integration="fake"))
        await watch.read()
        adapter.models = ["three"]
        adapter.status.available = False
        while (await watch.read()).integration.health.state != integration_pb.HEALTH_STATE_UNAVAILABLE:
            pass
        assert await listed() == ["three"]
        watch.cancel()


async def test_what_a_list_says_of_others_and_not_of_one_it_is_known_not_to_have() -> None:
    streaming, tools, images = (
        Capability.CAPABILITY_STREAMING,
        Capability.CAPABILITY_TOOLS,
        Capability.CAPABILITY_IMAGES,
    )
    known = Known(
        a=Lists(
            Model(id="able", capabilities=[streaming, tools]),
            Model(id="unable", capabilities=[streaming, Capability.CAPABILITY_CITATIONS], context_window=5),
            Model(id="vague", capabilities=[streaming, PREFILL]),
            Model(id="silent"),
        )
    )
    async with catalog(known) as one:
        unable = Target(provider="a", model="unable")
        assert one.known(unable) is None
        assert known["a"].generator.asked == 0  # type: ignore[attr-defined]  # it asks nobody
        assert not one.lacks(unable, tools)  # not known yet
        await one.find(unable, CALL)
        assert one.known(unable) is not None
        lacking = {
            name: one.lacks(Target(provider="a", model=name), tools) for name in ("able", "unable", "vague", "silent")
        }
        assert lacking == {"able": False, "unable": True, "vague": False, "silent": False}
        assert not one.lacks(unable, images)  # the list never speaks of it
        assert not one.lacks(Target(provider="a", model="unlisted"), tools)
        assert not one.lacks(Target(provider="nobody", model="x"), tools)


async def test_an_adapter_that_stops_is_unreachable_and_fails_no_call() -> None:
    known = Known(a=Lists(), b=Lists(Model(id="m")))
    known["a"].generator.failure = CancelledByOwnerError("the adapter stops")  # type: ignore[attr-defined]  # as the test has it
    async with catalog(known) as one:
        [(_, stopped), (_, there)] = await one.models(known.values(), CALL)
    assert isinstance(stopped, SluiceError)
    assert stopped.reason == R.ERROR_REASON_SERVICE_UNREACHABLE
    assert not isinstance(there, SluiceError)
