"""What is left out where a prompt is more than the model can read: counted before the call, and after it."""

from collections.abc import Sequence
from typing import Any

import pytest

from sluice.chat.v1 import event_pb2 as ev
from sluice.chat.v1.parameters_pb2 import GenerationParameters
from sluice.chat.v1.passage_pb2 import Passage
from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as provider_pb
from sluice.retrieval.v1.search_service_pb2 import SearchRequest
from sluice_gateway.retrieval import Retrieval
from sluice_kit.call import Call
from sluice_kit.errors import UnavailableError

from .talking import Talker

R = ErrorReason
DROPPED = ev.NoticeCode.NOTICE_CODE_PASSAGES_DROPPED
CUT = ev.NoticeCode.NOTICE_CODE_HISTORY_CUT
GROUNDED = {"grounding": {"corpora": ["corpora/docs"]}}
SAYS = {"steps": [{"text": "words"}]}
FULL = {**SAYS, "fault": "CONTEXT_TOO_LONG"}
PROVIDERS = {
    "scripted": {
        "adapter": "scripted",
        "scripts": {"small": SAYS, "full": FULL, "once": {**FULL, "times": 1}, "unknown": FULL, "large": SAYS},
        "models": [
            {"id": "small", "context_window": 4000},
            {"id": "full", "context_window": 4000},
            {"id": "once", "context_window": 100_000},
            {"id": "large", "context_window": 200_000},
        ],
    }
}
PASSAGE = "word " * 4000
"""About 5600 tokens, as estimated; 4000 words."""


class Found(Retrieval):
    """Finds one passage, whatever is searched for."""

    def __init__(self, text: str = PASSAGE) -> None:
        super().__init__(None)
        self.text = text

    async def search(self, request: SearchRequest, call: Call, *, patient: bool = True) -> Sequence[Passage]:
        return [Passage(corpus="corpora/docs", path="a.py", start_line=1, end_line=1, text=self.text)]


@pytest.fixture
async def talker(start: Any, ask: Any) -> Any:
    """A talker over models whose windows are known, in a mesh that finds a long passage."""
    async with start(providers=PROVIDERS) as client:
        client.gateway.pipeline._grounder._retrieval = Found()
        talker = Talker(client, ask)
        await client.gateway.catalog.find(Target(provider="scripted", model="small"), Call("/test"))
        await talker.create()
        yield talker


def notices(seen: Any) -> list[Any]:
    return [event.notice for _, event in seen.events if event.HasField("notice")]


def codes(seen: Any) -> list[int]:
    return [notice.code for notice in notices(seen)]


def counts(talker: Talker, kind: Any = provider_pb.TOKEN_COUNT_KIND_EXACT, scale: float = 1) -> None:
    async def count(request: provider_pb.CountTokensRequest) -> provider_pb.CountTokensResponse:
        words = sum(len(part.text.split()) for message in request.messages for part in message.parts)
        return provider_pb.CountTokensResponse(tokens=round(words * scale), kind=kind)

    talker.told.count = count


async def test_passages_that_are_known_to_be_too_much_are_left_out_before_the_call(talker: Talker) -> None:
    ask, client = talker.ask, talker.client
    seen = await client.stream(ask("scripted/small", **GROUNDED))
    assert seen.error is None
    assert seen.kinds[:4] == ["accepted", "retrieved", "notice", "started"]
    assert codes(seen) == [DROPPED]
    assert len(talker.told.requests) == 1
    assert not talker.told.requests[0].passages
    assert not talker.told.requests[0].grounding_instruction
    # Where the window is larger, or not known, it is the vendor's to say.
    for model in ("scripted/large", "scripted/text?tokens=1"):
        seen = await client.stream(ask(model, **GROUNDED))
        assert codes(seen) == []
        assert len(talker.told.requests[-1].passages) == 1


async def test_room_for_the_answer_counts(talker: Talker) -> None:
    talker.client.gateway.pipeline._grounder._retrieval = Found("word " * 1700)  # about 2400 tokens
    for tokens, expected in ((200, []), (1700, [DROPPED])):
        parameters = GenerationParameters(max_output_tokens=tokens)
        spec = talker.ask("scripted/small", parameters=parameters, **GROUNDED)
        assert codes(await talker.client.stream(spec)) == expected


async def test_a_count_decides_where_it_is_close(talker: Talker) -> None:
    ask, client = talker.ask, talker.client
    text = "word " * 2900  # about 4000 tokens as estimated, so that it is not known whether they fit into 4000
    spec = ask("scripted/small", text, fallbacks=["scripted/large"])
    spec.grounding.corpora.append("corpora/docs")
    client.gateway.pipeline._grounder._retrieval = Found("a")
    counts(talker)
    assert codes(await client.stream(spec)) == []
    assert len(talker.told.requests[-1].passages) == 1
    counts(talker, scale=2)
    seen = await client.stream(spec)
    assert codes(seen) == [DROPPED]
    # It is still too much, and another target reads more: this one is not even asked.
    assert talker.told.requests[-1].target.model == "large"
    [changed] = [event.route_changed for _, event in seen.events if event.HasField("route_changed")]
    assert (changed.reason, changed.previous.model) == (R.ERROR_REASON_CONTEXT_TOO_LONG, "small")
    # Without another one it is asked all the same: who knows.
    alone = await client.stream(ask("scripted/small", text))
    assert alone.error is None
    assert talker.told.requests[-1].target.model == "small"


async def test_who_counts_no_better_is_asked_once_and_who_fails_holds_up_nothing(talker: Talker) -> None:
    async def fail(_: provider_pb.CountTokensRequest) -> provider_pb.CountTokensResponse:
        raise UnavailableError("down")

    spec = talker.ask("scripted/small", **GROUNDED)
    talker.told.count = fail
    assert codes(await talker.client.stream(spec)) == [DROPPED]
    counts(talker, provider_pb.TOKEN_COUNT_KIND_ESTIMATED)
    talker.told.counted.clear()
    for _ in range(2):
        assert codes(await talker.client.stream(spec)) == [DROPPED]
    assert len(talker.told.counted) == 1


async def test_what_is_short_is_not_measured(talker: Talker) -> None:
    talker.client.gateway.pipeline._grounder._retrieval = Found("short")
    parameters = GenerationParameters(max_output_tokens=100_000)
    seen = await talker.client.stream(talker.ask("scripted/small", parameters=parameters, **GROUNDED))
    assert codes(seen) == []
    assert talker.told.counted == []


async def test_half_of_a_conversation_is_left_out_and_then_a_larger_target_is_asked(talker: Talker) -> None:
    for number in range(4):
        await talker.say(f"{number} {'word ' * 20}", "scripted/large")
    once = await talker.say("half", "scripted/once")
    assert once.error is None
    assert [(notice.code, notice.metadata["turns_left_out"]) for notice in notices(once)] == [(CUT, "2")]
    assert [text[0] for text in talker.told.texts[:-1:2]] == ["2", "3"]
    [changed] = [event.route_changed for _, event in once.events if event.HasField("route_changed")]
    assert changed.reason == R.ERROR_REASON_CONTEXT_TOO_LONG

    first = len(talker.told.requests)
    spec = talker.spec("all", "scripted/full", **GROUNDED)
    spec.fallbacks.extend(["scripted/small", "scripted/text?tokens=1", "scripted/large"])
    seen = await talker.client.stream(spec)
    assert seen.error is None
    # Without the passages, which are known to be too much; with half of what was said; then the one that reads more.
    asked = talker.told.requests[first:]
    assert [(request.target.model, len(request.passages)) for request in asked] == [
        ("full", 0),
        ("full", 0),
        ("large", 0),
    ]
    assert len(asked[1].messages) < len(asked[0].messages) == len(asked[2].messages)
    assert codes(seen) == [DROPPED, CUT]


async def test_without_a_target_that_reads_more_it_fails(talker: Talker) -> None:
    for model, fallbacks, attempts in (
        ("scripted/full", ["scripted/small"], None),
        ("scripted/unknown", ["scripted/text?tokens=1"], None),
        ("scripted/full", [], None),
    ):
        seen = await talker.client.stream(talker.ask(model, fallbacks=fallbacks))
        assert seen.error is not None
        assert seen.error.reason == R.ERROR_REASON_CONTEXT_TOO_LONG
        assert seen.error.metadata.get("attempts") == attempts
    larger = await talker.client.stream(
        talker.ask("scripted/text?fault=CONTEXT_TOO_LONG", fallbacks=["scripted/large"])
    )
    assert larger.error is None
    assert larger.text == "words"
