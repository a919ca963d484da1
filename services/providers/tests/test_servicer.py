"""The servicer keeps the promise of a stream whatever the adapter inside does."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from sluice.chat.v1 import parameters_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.call import Call
from sluice_kit.config import ConfigError, load
from sluice_kit.errors import SluiceError
from sluice_providers import options
from sluice_providers.base import Adapter, Emitter, Settings
from sluice_providers.colocate import create, make
from sluice_providers.registry import REGISTRY, adapter_class, names
from sluice_providers.servicer import Servicer
from sluice_providers.vendors import VENDORS

from .contract.subject import asking


class Odd(Adapter):
    """An adapter that does what a test says."""

    def __init__(self, act: Any, **settings: Any) -> None:
        super().__init__("odd", Settings(**settings))
        self.act = act
        self.closed = asyncio.Event()

    async def generate(self, request: pb.GenerateRequest, emitter: Emitter) -> None:
        try:
            await self.act(emitter)
        finally:
            self.closed.set()


def batch(*kinds: str) -> pb.GenerateResponse:
    """Returns a batch of empty events of the kinds; text holds an x."""
    response = pb.GenerateResponse()
    for kind in kinds:
        event = response.events.add()
        getattr(event, kind).SetInParent()
        if kind == "text_delta":
            event.text_delta.text = "x"
    return response


async def run(adapter: Odd, **call: Any) -> tuple[list[Any], SluiceError | None]:
    """Runs an attempt and returns what was passed on, and how it failed."""
    sent: list[Any] = []
    try:
        await Servicer("odd", "odd", adapter).generate(
            asking("odd", "m"), Call("/test"), lambda batch: sent.extend(batch.events)
        )
    except SluiceError as error:
        return sent, error
    return sent, None


@pytest.mark.parametrize(
    ("batches", "passed"),
    [
        ([["text_delta"]], []),
        ([["started"], ["started"]], ["started"]),
        ([["started", "text_delta", "started"]], []),
        ([["started", "text_delta"], ["accepted"]], ["started", "text_delta"]),
        ([["started", "text_delta"], ["citation"]], ["started", "text_delta"]),
        ([["started", "text_delta"], ["completed", "completed"]], ["started", "text_delta"]),
        ([["started", "text_delta", "completed"], ["text_delta"]], ["started", "text_delta", "completed"]),
        ([["started", "text_delta"]], ["started", "text_delta"]),
        ([], []),
        ([["completed"]], []),
    ],
)
async def test_a_broken_order_is_a_protocol_error(batches: list[list[str]], passed: list[str]) -> None:
    async def act(emitter: Emitter) -> None:
        for kinds_ in batches:
            await emitter.emit(batch(*kinds_))

    sent, error = await run(Odd(act))
    assert error is not None
    assert error.reason_name == "UPSTREAM_PROTOCOL_ERROR"
    assert [event.WhichOneof("kind") for event in sent] == passed


async def test_an_unset_event_is_a_protocol_error() -> None:
    async def act(emitter: Emitter) -> None:
        response = batch("started")
        response.events.add()
        await emitter.emit(response)

    sent, error = await run(Odd(act))
    assert error is not None
    assert error.reason_name == "UPSTREAM_PROTOCOL_ERROR"
    assert sent == []


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (RuntimeError("key sk-live-12345678"), "INTERNAL"),
        (ConnectionResetError("key sk-live-12345678"), "UPSTREAM_UNAVAILABLE"),
        (TimeoutError(), "UPSTREAM_TIMEOUT"),
        (UnicodeDecodeError("utf-8", b"sk-live-12345678", 0, 1, "x"), "UPSTREAM_PROTOCOL_ERROR"),
    ],
)
async def test_foreign_exceptions_are_mapped_and_hidden(
    raised: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(emitter: Emitter) -> None:
        await emitter.emit(batch("started"))
        raise raised

    caplog.set_level(logging.DEBUG)
    _, error = await run(Odd(act))
    assert error is not None
    assert error.reason_name == reason
    assert error.__suppress_context__
    seen = error.message + str(error.metadata) + "".join(str(record.__dict__) for record in caplog.records)
    assert "sk-live" not in seen
    if reason == "INTERNAL":
        assert error.metadata["error_id"] in seen.removeprefix(error.message)
        assert "in act" in caplog.records[-1].__dict__["frames"]


async def test_vendor_pings_hold_off_the_idle_limit_and_nothing_else_does() -> None:
    pings = 8

    async def act(emitter: Emitter) -> None:
        await emitter.emit(batch("started", "text_delta"))
        # By timers of the loop, which calls what is due in order, however late it is.
        loop = asyncio.get_running_loop()
        for number in range(1, pings + 1):
            loop.call_later(number * 0.1, emitter.touch)
        await asyncio.Event().wait()

    adapter = Odd(act, ttft_seconds=5.0, idle_seconds=0.25)
    began = asyncio.get_running_loop().time()
    _, error = await run(adapter)
    assert error is not None
    assert error.metadata["limit"] == "idle"
    assert asyncio.get_running_loop().time() - began > pings * 0.1
    assert adapter.closed.is_set()


async def test_a_slow_receiver_is_not_the_vendors_silence() -> None:
    async def act(emitter: Emitter) -> None:
        await emitter.emit(batch("started", "text_delta"))
        await emitter.emit(batch("text_delta"))
        await emitter.emit(batch("completed"))

    async def slow(response: pb.GenerateResponse) -> None:
        await asyncio.sleep(0.3)

    servicer = Servicer("odd", "odd", Odd(act, idle_seconds=0.1))
    await servicer.generate(asking("odd", "m"), Call("/test"), slow)


async def test_the_ttft_limit_counts_to_the_first_content() -> None:
    async def act(emitter: Emitter) -> None:
        await emitter.emit(batch("started"))
        while True:
            await asyncio.sleep(0.05)
            emitter.touch()

    _, error = await run(Odd(act, ttft_seconds=0.2, idle_seconds=5.0))
    assert error is not None
    assert error.metadata["limit"] == "ttft"


async def test_a_deadline_that_is_over_starts_nothing_more() -> None:
    async def act(emitter: Emitter) -> None:
        await asyncio.Event().wait()

    adapter = Odd(act)
    with pytest.raises(SluiceError) as caught:
        await Servicer("odd", "odd", adapter).generate(
            asking("odd", "m"), Call("/test").with_timeout(0), lambda _: None
        )
    assert caught.value.reason == ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED


async def test_cancelling_reaches_the_adapter() -> None:
    entered = asyncio.Event()

    async def act(emitter: Emitter) -> None:
        entered.set()
        await asyncio.Event().wait()

    adapter = Odd(act)
    task = asyncio.create_task(run(adapter))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert adapter.closed.is_set()


async def test_usage_is_there_even_if_the_adapter_says_none() -> None:
    async def act(emitter: Emitter) -> None:
        await emitter.emit(batch("started", "text_delta", "completed"))

    sent, error = await run(Odd(act))
    assert error is None
    assert sent[-1].completed.usage.source == 2


def test_every_parameter_of_the_contract_is_a_known_option() -> None:
    fields = {field.name for field in parameters_pb2.GenerationParameters.DESCRIPTOR.fields}
    assert fields == options.PARAMETERS | {"vendor_options"}


def test_dropping_leaves_the_rest_and_the_original() -> None:
    request = asking("odd", "m")
    request.parameters.temperature = 1
    request.parameters.stop.append("x")
    request.parameters.vendor_options.update({"a": 1, "b": 2})
    request.tools.add().function.strict = True
    names_ = options.requested(request)
    assert set(names_) == {"temperature", "stop", "vendor_options.a", "vendor_options.b", "tools", "tools.strict"}
    left = options.without(request, ["stop", "vendor_options.a", "tools.strict"])
    assert set(options.requested(left)) == {"temperature", "vendor_options.b", "tools"}
    assert options.requested(request) == names_


def test_configuration_mistakes_are_named(tmp_path: Path) -> None:
    for words, expected in (
        (["providers.x.adapter=nope"], "no adapter 'nope'; there are: .*openai.*"),
        (["providers.x.adapter=scripted", "providers.x.base_url=http://a"], "providers.x.base_url: no such setting"),
        (["providers.x.adapter=openai", "providers.x.base_url=ftp://a"], "base_url must be an http or https address"),
        (["providers.x.adapter=openai", "providers.x.base_url=http://u:p@a"], "must hold no credentials"),
        (["providers.x.adapter=openai", f"providers.x.ca_file={tmp_path}/none.pem"], "none.pem cannot be used"),
        (
            ["providers.x.adapter=scripted", 'providers.x.scripts={"a": {"fault": "no@1"}}'],
            "no fault no; there are crash, cut",
        ),
    ):
        with pytest.raises(ConfigError, match=expected):
            create(load(None, words, environ={}), "x")


def test_the_usual_variables_are_found_without_a_file() -> None:
    environ = {"OPENAI_API_KEY": "k1", "OPENAI_BASE_URL": "http://proxy.example/v1/"}
    servicer, settings = make(load(None, environ=environ), "openai")
    assert not servicer.adapter.missing()
    assert "k1" not in repr(settings)
    assert make(load(None, environ={}), "openai")[0].adapter.missing() == ("OPENAI_API_KEY",)
    assert make(load(None, environ={}), "anthropic")[0].adapter.missing() == ("ANTHROPIC_API_KEY",)


def test_adapters_come_by_name() -> None:
    assert {*REGISTRY, *VENDORS} <= set(names())
    assert adapter_class("scripted").__name__ == "ScriptedAdapter"
    with pytest.raises(LookupError):
        adapter_class("nope")
