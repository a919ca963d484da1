"""The relay: what an adapter may send, and in which order."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sluice.chat.v1 import event_pb2 as ev
from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1.provider_service_pb2 import GenerateResponse
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_gateway.pipeline.relay import Relay
from sluice_gateway.responses.log import unpack
from sluice_gateway.responses.response import Response
from sluice_kit.errors import SluiceError
from sluice_kit.identity import LOCAL_IDENTITY

STARTED = ev.Event(started=ev.Started(model="m"))
TEXT = ev.Event(text_delta=ev.TextDelta(text="hello"))
TOOL = ev.Event(tool_call_delta=ev.ToolCallDelta(id="c", name="n", arguments_json="{}"))
USAGE = ev.Event(usage_update=ev.UsageUpdate())
NOTICE = ev.Event(notice=ev.Notice(code=ev.NoticeCode.NOTICE_CODE_NO_MODEL))
COMPLETED = ev.Event(completed=ev.Completed())


@pytest.fixture
async def response() -> AsyncIterator[Response]:
    made = Response(
        "r",
        LOCAL_IDENTITY,
        row_key=1,
        log_bytes=1 << 20,
        queue_bytes=1 << 20,
        on_growth=lambda size: None,
        on_end=lambda r: None,
    )
    yield made
    made.done.cancel()


def relay_to(response: Response) -> Relay:
    record = AttemptRecord(1, Target(provider="fake", model="m"))
    record.started = asyncio.get_running_loop().time()
    return Relay(response, record, None)


def kinds(response: Response) -> list[Any]:
    return [event.WhichOneof("kind") for batch in response.log.batches() for event in unpack(batch)]


async def test_nothing_is_shown_before_the_first_content(response: Response) -> None:
    relay = relay_to(response)
    relay.deliver(GenerateResponse(events=[STARTED]))
    relay.deliver(GenerateResponse())
    relay.deliver(GenerateResponse(events=[USAGE, NOTICE]))
    assert kinds(response) == []
    assert not relay.committed
    relay.deliver(GenerateResponse(events=[TEXT]))
    assert relay.committed
    assert kinds(response) == ["started", "usage_update", "notice", "text_delta"]
    relay.deliver(GenerateResponse(events=[TEXT, COMPLETED]))
    relay.check_completed()
    # What came with the end is shown with the end.
    assert kinds(response).count("text_delta") == 1
    assert relay.tail == [TEXT]
    relay.show_tail()
    assert kinds(response).count("text_delta") == 2
    assert relay.tail == []


@pytest.mark.parametrize(
    "batches",
    [
        [[TEXT]],
        [[USAGE]],
        [[COMPLETED]],
        [[STARTED, STARTED]],
        [[STARTED, TEXT], [STARTED]],
        [[STARTED, COMPLETED, TEXT]],
        [[STARTED, TEXT, COMPLETED], [TEXT]],
        [[STARTED, TEXT, COMPLETED], [COMPLETED]],
        [[STARTED, TEXT, COMPLETED, COMPLETED]],
        [[STARTED, ev.Event()]],
        [[STARTED, ev.Event(accepted=ev.Accepted())]],
        [[STARTED, ev.Event(restarted=ev.Restarted())]],
        [[STARTED, TEXT], [ev.Event(route_changed=ev.RouteChanged())]],
    ],
)
async def test_a_breach_of_the_protocol(response: Response, batches: list[list[ev.Event]]) -> None:
    relay = relay_to(response)
    with pytest.raises(SluiceError) as caught:
        for batch in batches:
            relay.deliver(GenerateResponse(events=batch))
    assert caught.value.reason == ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR


async def test_an_end_without_completed_or_without_content(response: Response) -> None:
    unfinished, empty = relay_to(response), relay_to(response)
    unfinished.deliver(GenerateResponse(events=[STARTED, TEXT]))
    with pytest.raises(SluiceError) as caught:
        unfinished.check_completed()
    assert caught.value.reason == ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR
    empty.deliver(GenerateResponse(events=[STARTED, USAGE, COMPLETED]))
    with pytest.raises(SluiceError) as caught:
        empty.check_completed()
    assert caught.value.reason == ErrorReason.ERROR_REASON_EMPTY_RESPONSE


async def test_a_tool_call_is_content(response: Response) -> None:
    relay = relay_to(response)
    relay.deliver(GenerateResponse(events=[STARTED, TOOL, COMPLETED]))
    relay.check_completed()
    assert relay.tail == [STARTED, TOOL]
    assert relay.committed
