"""What holds for every adapter, with or without a vendor behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sluice.chat.v1 import parameters_pb2, passage_pb2, usage_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import SluiceError
from sluice_providers.registry import REGISTRY

from .formats import FORMATS
from .subject import Subject, asking, kinds, subject, text_of
from .upstream import Upstream

WIRES = {wire.adapter: wire for wire in FORMATS.values()}
MODELS = {"scripted": "text?tokens=3", "extractive": "quote"} | {name: wire.model for name, wire in WIRES.items()}


@pytest.fixture(params=sorted(REGISTRY))
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def running(adapter: str, transport: str, upstream: Upstream, tmp_path: Path) -> AsyncIterator[Subject]:
    settings: dict[str, Any] = {"adapter": adapter}
    wire = WIRES.get(adapter)
    if wire is not None:
        upstream.answer(wire.stream(wire.text("Hello ", "there")))
        settings |= wire.settings(upstream.url)
    async with subject(transport, "here", settings, tmp_path) as found:
        yield found


def test_the_suite_knows_every_adapter() -> None:
    assert set(MODELS) == set(REGISTRY)


async def test_started_first_completed_last_and_once(running: Subject, adapter: str) -> None:
    events = await running.generate(asking("here", MODELS[adapter]))
    names = [event.WhichOneof("kind") for event in events]
    assert names[0] == "started"
    assert names.count("started") == 1
    assert names[-1] == "completed"
    assert names.count("completed") == 1
    assert text_of(events)
    assert events[0].started.model


async def test_the_end_tells_usage_and_its_source(running: Subject, adapter: str) -> None:
    events = await running.generate(asking("here", MODELS[adapter]))
    usage = events[-1].completed.usage
    assert usage.source in (usage_pb2.USAGE_SOURCE_PROVIDER, usage_pb2.USAGE_SOURCE_ESTIMATED)
    assert usage.input_tokens > 0
    assert usage.output_tokens > 0
    assert events[-1].completed.finish_reason == usage_pb2.FINISH_REASON_STOP


async def test_every_block_has_one_kind(running: Subject, adapter: str) -> None:
    events = await running.generate(asking("here", MODELS[adapter]))
    kinds_by_block: dict[int, set[str]] = {}
    for event in events:
        name = event.WhichOneof("kind")
        if name in ("text_delta", "reasoning_delta", "tool_call_delta"):
            kinds_by_block.setdefault(getattr(event, name).block_index, set()).add(name)
    assert kinds_by_block
    assert all(len(names) == 1 for names in kinds_by_block.values())


async def test_attempts_do_not_disturb_each_other(running: Subject, adapter: str) -> None:
    first = text_of(await running.generate(asking("here", MODELS[adapter])))
    for _ in range(3):
        assert text_of(await running.generate(asking("here", MODELS[adapter]))) == first


async def test_an_unknown_option_is_refused_by_name(running: Subject, adapter: str) -> None:
    request = asking("here", MODELS[adapter])
    request.parameters.vendor_options.fields["base_url"].string_value = "http://elsewhere.example"
    with pytest.raises(SluiceError) as caught:
        await running.generate(request)
    assert caught.value.reason_name == "UNSUPPORTED_OPTION"
    assert caught.value.metadata["option"] == "vendor_options.base_url"
    assert running.batches == []


async def test_a_lenient_request_drops_it_with_a_notice(running: Subject, adapter: str) -> None:
    request = asking("here", MODELS[adapter], lenient=True)
    request.parameters.vendor_options.fields["base_url"].string_value = "http://elsewhere.example"
    events = await running.generate(request)
    notices = [event.notice for event in events if event.WhichOneof("kind") == "notice"]
    assert "vendor_options.base_url" in [notice.metadata["option"] for notice in notices]
    assert kinds(events)[0] == "started"


async def test_tokens_are_counted_or_estimated_with_a_margin(
    running: Subject, adapter: str, upstream: Upstream
) -> None:
    count = WIRES[adapter].exact_count if adapter in WIRES else None
    if count is not None:
        upstream.answer(count)
    request = asking("here", MODELS[adapter], "How many tokens are these?")
    counting = pb.CountTokensRequest(target=request.target, messages=request.messages)
    counted = await running.call("CountTokens", counting)
    assert counted.tokens > 0
    exact = counted.kind == pb.TOKEN_COUNT_KIND_EXACT
    assert exact == (count is not None)
    assert (counted.margin == 0) == exact
    assert not exact or counted.tokens == 14


async def test_status_names_the_adapter(running: Subject, adapter: str) -> None:
    status = await running.call("GetStatus", pb.GetStatusRequest())
    assert status.adapter == adapter
    assert status.available
    assert not status.missing_settings
    assert not status.HasField("latency")


async def test_a_deadline_ends_an_attempt(transport: str, tmp_path: Path) -> None:
    async with subject(transport, "s", {"adapter": "scripted"}, tmp_path) as running:
        for seconds in (0.2, 2.0, 30.0):  # time enough to begin, on any machine
            with pytest.raises(SluiceError) as caught:
                await running.generate(asking("s", "text?fault=stall@1"), timeout=seconds)
            assert caught.value.reason == ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED
            if running.events:
                break
        assert text_of(running.events)


async def test_cancelling_leaves_nothing_behind(running: Subject, adapter: str) -> None:
    task = asyncio.create_task(running.generate(asking("here", MODELS[adapter])))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert text_of(await running.generate(asking("here", MODELS[adapter])))


@pytest.mark.parametrize("method", ["Embed"])
async def test_what_is_not_offered_is_refused_as_such(method: str, transport: str, tmp_path: Path) -> None:
    async with subject(transport, "e", {"adapter": "extractive"}, tmp_path) as running:
        with pytest.raises(SluiceError) as caught:
            await running.call(method, pb.EmbedRequest(target=asking("e", "quote").target, texts=["a"]))
        assert caught.value.reason_name == "UNSUPPORTED_OPERATION"
        assert caught.value.metadata["operation"] == method


async def test_models_come_in_pages_and_configured_ones_win(transport: str, tmp_path: Path) -> None:
    listed = [
        {"id": "echo", "display_name": "Parrot", "context_window": 7},
        {"id": "zz", "capabilities": ["tools", "images"]},
    ]
    async with subject(transport, "s", {"adapter": "scripted", "models": listed}, tmp_path) as running:
        whole = await running.call("ListModels", pb.ListModelsRequest())
        ids = [model.id for model in whole.models]
        assert ids == sorted(ids)
        assert ids[-1] == "zz"
        assert whole.models[-1].capabilities == [model_pb2.CAPABILITY_TOOLS, model_pb2.CAPABILITY_IMAGES]
        echo = next(model for model in whole.models if model.id == "echo")
        assert (echo.display_name, echo.context_window, echo.family) == ("Parrot", 7, "scripted")
        paged: list[str] = []
        token = ""
        while True:
            page = await running.call("ListModels", pb.ListModelsRequest(page_size=2, page_token=token))
            paged += [model.id for model in page.models]
            token = page.next_page_token
            if not token:
                break
        assert paged == ids


async def test_extractive_and_scripted_models_are_exactly_those_that_answer(transport: str, tmp_path: Path) -> None:
    for name in ("extractive", "scripted"):
        async with subject(transport, "x", {"adapter": name}, tmp_path) as running:
            with pytest.raises(SluiceError) as caught:
                await running.generate(asking("x", "no-such-model"))
            assert caught.value.reason_name == "MODEL_NOT_FOUND"
            for model in (await running.call("ListModels", pb.ListModelsRequest())).models:
                if model_pb2.CAPABILITY_STREAMING in model.capabilities:
                    text = '{"steps": [{"text": "x"}]}' if model.id == "script" else "Hello?"
                    passages = [passage_pb2.Passage(id="p1", path="a.md", start_line=1, end_line=1, text="Hello")]
                    assert (await running.generate(asking("x", model.id, text, passages=passages)))[-1].HasField(
                        "completed"
                    )


async def test_a_neutral_parameter_is_no_option(running: Subject, adapter: str) -> None:
    request = asking("here", MODELS[adapter], parameters=parameters_pb2.GenerationParameters())
    assert (await running.generate(request))[-1].HasField("completed")
