"""What becomes of an answer that breaks off after its first content: FAIL, RESTART, CONTINUE."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from sluice.chat.v1 import event_pb2 as ev
from sluice.chat.v1.message_pb2 import MessageRole
from sluice.chat.v1.parameters_pb2 import GenerationParameters, JsonFormat, ResponseFormat
from sluice.chat.v1.passage_pb2 import Passage
from sluice.chat.v1.target_pb2 import Target
from sluice.chat.v1.tool_pb2 import FunctionTool, Tool
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.provider.v1.provider_service_pb2 import GenerateRequest, GenerateResponse
from sluice.retrieval.v1.search_service_pb2 import SearchRequest
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_gateway.pipeline.citations import CitationCollector
from sluice_gateway.pipeline.midstream import ContinuedRelay, Partial
from sluice_gateway.responses.log import unpack
from sluice_gateway.responses.response import Response
from sluice_gateway.retrieval import Retrieval
from sluice_kit.call import Call
from sluice_kit.fold import Fold
from sluice_kit.identity import LOCAL_IDENTITY

R = ErrorReason
RESTART = pb.MidstreamPolicy.MIDSTREAM_POLICY_RESTART
CONTINUE = pb.MidstreamPolicy.MIDSTREAM_POLICY_CONTINUE
GOOD = "scripted/text?tokens=3"
PREFILL = ["streaming", "assistant_prefill"]


def scripted(*capable: str, **scripts: Any) -> dict[str, Any]:
    """Returns settings with named scripts and the models that continue a started answer."""
    models = [{"id": name, "capabilities": PREFILL} for name in capable]
    return {"scripted": {"adapter": "scripted", "scripts": scripts, "models": models}}


def quick(**settings: Any) -> dict[str, Any]:
    return {"resilience": {"retry": {"initial_seconds": 0.001}}, **settings}


HALF = {"steps": [{"text": "one two "}], "fault": "cut@2"}
REST = {"steps": [{"text": " three four"}]}


def folded(seen: Any) -> Any:
    fold = Fold()
    for number, event in seen.events:
        fold.add(number, event)
    return fold.answer()


async def test_by_default_it_fails_and_keeps_what_was_sent(client: Any, ask: Any) -> None:
    seen = await client.stream(ask("scripted/text?tokens=5&fault=UPSTREAM_OVERLOADED@2", fallbacks=[GOOD]))
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_UPSTREAM_OVERLOADED
    assert seen.kinds.count("text_delta") == 2
    assert "restarted" not in seen.kinds


@pytest.mark.parametrize("fault", ["cut", "UPSTREAM_OVERLOADED", "restart", "UPSTREAM_TIMEOUT"])
async def test_restart_voids_what_was_sent(start: Any, ask: Any, placement: str, fault: str) -> None:
    async with start(quick(), placement) as client:
        seen = await client.stream(ask(f"scripted/text?tokens=4&fault={fault}@2&times=1", midstream_policy=RESTART))
        name = seen.response
        resumed = await client.resume(name, 3)
        kept = await client.chat.GetResponse(pb.GetResponseRequest(response=name))
        rows = await client.rows("attempts")
    assert seen.error is None
    assert seen.numbers == list(range(1, len(seen.events) + 1))
    assert resumed.events == seen.events[3:]
    at = seen.kinds.index("restarted")
    restarted = seen.events[at][1].restarted
    first = seen.numbers[seen.kinds.index("text_delta")]
    assert restarted.discard_from <= first < seen.numbers[at]
    assert seen.kinds[at - 1] == "route_changed"
    assert restarted.attempt_id == seen.events[at - 1][1].route_changed.attempt_id
    assert folded(seen).text == kept.answer.text == "the mesh answers every"
    assert [(row["number"], row["outcome"]) for row in rows] == [(1, "failed"), (2, "completed")]


async def test_a_route_may_say_so_and_a_request_otherwise(start: Any, ask: Any) -> None:
    routes = {
        "default": {"targets": ["scripted/text?tokens=4&fault=cut@2", GOOD], "midstream": "restart", "retries": 0}
    }
    async with start({"routes": routes}) as client:
        restarted = await client.stream(ask(""))
        failed = await client.stream(ask("", midstream_policy=pb.MidstreamPolicy.MIDSTREAM_POLICY_FAIL))
    assert restarted.error is None
    assert folded(restarted).target.model == GOOD.partition("/")[2]
    assert folded(restarted).text == "the mesh answers"
    assert failed.error is not None


async def test_nothing_is_void_while_nothing_new_has_come(start: Any, ask: Any) -> None:
    async with start(quick(limits={"retries": 1})) as client:
        model = "scripted/text?tokens=4&fault=cut@2"
        seen = await client.stream(ask(model, fallbacks=["scripted/text?fault=empty"], midstream_policy=RESTART))
        attempts = len(await client.rows("attempts"))
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_EMPTY_RESPONSE
    # The second attempt restarted and broke off, the third never said anything: what the second sent stands.
    assert seen.kinds.count("restarted") == 1
    assert folded(seen).text == "the mesh "
    assert attempts == 3


@pytest.mark.parametrize("fault", ["CONTENT_FILTERED", "UPSTREAM_INVALID_ARGUMENT"])
async def test_what_is_withheld_is_not_asked_for_again(client: Any, ask: Any, fault: str) -> None:
    seen = await client.stream(
        ask(f"scripted/text?tokens=4&fault={fault}@2", fallbacks=[GOOD], midstream_policy=RESTART)
    )
    assert seen.error is not None
    assert seen.error.reason_name == fault
    assert "route_changed" not in seen.kinds


async def test_continue_follows_on(start: Any, ask: Any, placement: str) -> None:
    async with start(quick(), placement, providers=scripted("half", "rest", half=HALF, rest=REST)) as client:
        seen = await client.stream(
            ask("scripted/half", fallbacks=["scripted/rest"], midstream_policy=CONTINUE), timeout=20
        )
        kept = await client.chat.GetResponse(pb.GetResponseRequest(response=seen.response))
        rows = await client.rows("attempts")
    assert seen.error is None
    assert seen.numbers == list(range(1, len(seen.events) + 1))
    assert "restarted" not in seen.kinds
    # The target asked for is tried once more, twice, before the next one is; all go on from all that was sent.
    assert kept.answer.text == folded(seen).text
    assert kept.answer.text.endswith("two three four")
    assert len(kept.answer.message.parts) == 1
    assert [row["outcome"] for row in rows] == ["failed", "failed", "failed", "completed"]


async def test_what_was_sent_is_the_start_of_the_next_message(start: Any, ask: Any) -> None:
    """The model repeats the last message of the user, so what it was given is seen in its usage."""
    asked: list[GenerateRequest] = []
    providers = scripted("half", "rest", half=HALF | {"usage": "none"}, rest=REST)
    async with start({"limits": {"retries": 0}}, "colocated", providers=providers) as client:
        generator = client.gateway._integrations.get("scripted").generator
        generate = generator.generate

        async def spy(request: GenerateRequest, call: Call, send: Any) -> None:
            asked.append(GenerateRequest.FromString(request.SerializeToString()))
            await generate(request, call, send)

        generator.generate = spy
        parameters = GenerationParameters(max_output_tokens=10)
        spec = ask("scripted/half", fallbacks=["scripted/rest"], midstream_policy=CONTINUE, parameters=parameters)
        seen = await client.stream(spec)
    assert seen.error is None
    assert folded(seen).text == "one two three four"
    first, second = asked
    assert len(first.messages) == 1
    assert second.messages[-1].role == MessageRole.MESSAGE_ROLE_ASSISTANT
    assert second.messages[-1].parts[0].text == "one two"
    # Two tokens, estimated from the eight bytes that came, are spent.
    assert (first.parameters.max_output_tokens, second.parameters.max_output_tokens) == (10, 8)


@pytest.mark.parametrize(
    ("model", "why", "fields"),
    [
        ("scripted/reason?reasoning=2&tokens=4&fault=cut@3", "reasoning", {}),
        ("scripted/tool?fault=cut@1", "tool_call", {"tools": [Tool(function=FunctionTool(name="t"))]}),
        ("scripted/text?tokens=4&fault=cut@2", "json", {"response_format": ResponseFormat(json=JsonFormat())}),
        ("scripted/text?tokens=4&fault=cut@2", "no_assistant_prefill", {}),
        (
            "scripted/text?tokens=4&fault=cut@2",
            "max_output_tokens",
            {"parameters": GenerationParameters(max_output_tokens=3)},
        ),
    ],
)
async def test_where_nothing_can_go_on_it_fails_and_says_why(
    start: Any, ask: Any, model: str, why: str, fields: dict[str, Any]
) -> None:
    async with start(quick()) as client:
        seen = await client.stream(ask(model, fallbacks=[GOOD], midstream_policy=CONTINUE, **fields))
        attempts = len(await client.rows("attempts"))
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR
    assert seen.error.metadata["midstream"] == why
    assert attempts == 1
    assert "route_changed" not in seen.kinds


async def test_targets_that_cannot_go_on_are_passed_over(start: Any, ask: Any) -> None:
    providers = scripted("half", "rest", half=HALF, rest=REST)
    async with start({"limits": {"retries": 0}}, providers=providers) as client:
        spec = ask("scripted/half", fallbacks=[GOOD, "scripted/rest"], midstream_policy=CONTINUE)
        seen = await client.stream(spec)
    assert seen.error is None
    assert folded(seen).text == "one two three four"
    assert [attempt.target.model for attempt in seen.last.completed.attempts] == ["half", "rest"]


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


def text(value: str, block: int = 0) -> ev.Event:
    return ev.Event(text_delta=ev.TextDelta(block_index=block, text=value))


def played(response: Response, partial: Partial, events: Sequence[ev.Event]) -> tuple[list[ev.Event], Any]:
    collector = CitationCollector([Passage(id="p1")])
    relay = ContinuedRelay(response, AttemptRecord(2, Target(provider="p", model="m")), collector, partial)
    relay.deliver(GenerateResponse(events=[ev.Event(started=ev.Started()), *events]))
    return [event for batch in response.log.batches() for event in unpack(batch)][1:], collector


async def test_blocks_and_citations_move_along(response: Response) -> None:
    partial = Partial("zéro. one ", 2, 5)  # of its last block, "one " with two bytes of something
    cite = ev.CitationDelta(passage_id="p1")
    cite.answer_span.start, cite.answer_span.end = 0, 4
    shown, collector = played(response, partial, [text(" two"), ev.Event(citation_delta=cite), text("next", 1)])
    assert [(event.text_delta.block_index, event.text_delta.text) for event in shown] == [(2, "two"), (3, "next")]
    [claim] = collector._claims
    assert (claim.block_index, claim.answer_span.start, claim.answer_span.end) == (2, 4, 8)


async def test_a_model_that_thinks_first_goes_on_in_a_block_of_its_own(response: Response) -> None:
    thought = ev.Event(reasoning_delta=ev.ReasoningDelta(text="hm"))
    shown, _ = played(response, Partial("one ", 0, 4), [thought, text("two", 1)])
    assert shown[0].reasoning_delta.block_index == 1
    assert (shown[1].text_delta.block_index, shown[1].text_delta.text) == (2, "two")


async def test_other_space_than_was_sent_is_left_alone(response: Response) -> None:
    shown, _ = played(response, Partial("one \n", 0, 5), [text(" two"), text(" \n")])
    assert [event.text_delta.text for event in shown] == ["two", " \n"]


class _Found(Retrieval):
    """Finds one passage, whatever is searched for."""

    def __init__(self) -> None:
        super().__init__(None)

    async def search(self, request: SearchRequest, call: Call, *, patient: bool = True) -> Sequence[Passage]:
        return [Passage(corpus="corpora/docs", path="a.py", start_line=1, end_line=1, text="x = 1\n")]


async def test_what_is_too_long_is_sent_once_more_without_its_passages(start: Any, ask: Any) -> None:
    async with start() as client:
        client.gateway.pipeline._grounder._retrieval = _Found()
        grounding = {"corpora": ["corpora/docs"]}
        once = await client.stream(ask("scripted/cite?fault=CONTEXT_TOO_LONG&times=1", grounding=grounding))
        always = await client.stream(ask("scripted/cite?fault=CONTEXT_TOO_LONG", grounding=grounding, fallbacks=[GOOD]))
        plain = await client.stream(ask("scripted/text?fault=CONTEXT_TOO_LONG"))
    assert once.error is None
    assert once.kinds[:5] == ["accepted", "retrieved", "notice", "route_changed", "started"]
    assert once.events[2][1].notice.code == ev.NoticeCode.NOTICE_CODE_PASSAGES_DROPPED
    assert once.events[3][1].route_changed.reason == R.ERROR_REASON_CONTEXT_TOO_LONG
    assert once.text == "There are no passages."
    for seen, attempts in ((always, "2"), (plain, None)):
        assert seen.error is not None
        assert seen.error.reason == R.ERROR_REASON_CONTEXT_TOO_LONG
        assert seen.error.metadata.get("attempts") == attempts
