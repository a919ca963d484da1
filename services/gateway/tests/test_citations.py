"""Citations: found however the text is cut, checked before they are shown."""

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sluice.chat.v1.event_pb2 import CitationDelta, TextDelta
from sluice.chat.v1.passage_pb2 import Citation, CitationState, Passage, Span
from sluice.retrieval.v1.search_service_pb2 import SpanState, SpanToVerify
from sluice_gateway.pipeline.citations import CitationCollector
from sluice_gateway.retrieval import Retrieval
from sluice_kit.call import Call
from sluice_kit.errors import UnavailableError

TEXT = "first\nsecond\nthird\n"
PASSAGE = Passage(
    id="p1",
    corpus="corpora/docs",
    path="a.py",
    start_line=10,
    end_line=12,
    revision="r1",
    sha256=hashlib.sha256(TEXT.encode()).hexdigest(),
    text=TEXT,
    symbol="A.b",
)


class Verifier(Retrieval):
    """Answers VerifySpans from a table by first line."""

    def __init__(self, states: "dict[int, SpanState.ValueType] | None") -> None:
        super().__init__(None)
        self.asked: list[SpanToVerify] = []
        self._states = states

    async def verify(self, spans: Iterable[SpanToVerify], call: Call) -> "Sequence[SpanState.ValueType]":
        rows = list(spans)
        self.asked += rows
        if self._states is None:
            raise UnavailableError("the retrieval service does not answer")
        return [self._states[row.start_line] for row in rows]


def collect(pieces: Iterable[str], block: int = 0) -> CitationCollector:
    collector = CitationCollector([PASSAGE])
    for piece in pieces:
        collector.text(TextDelta(block_index=block, text=piece))
    return collector


ANSWER = "Grüße [p1], and [p2][p1, p3]; not [q1], not [p], not [p12345] nor p1. End [p1]"


@given(cuts=st.lists(st.integers(0, len(ANSWER)), max_size=12).map(sorted))
def test_markers_are_found_at_every_cut(cuts: list[int]) -> None:
    edges = [0, *cuts, len(ANSWER)]
    collector = collect(ANSWER[start:end] for start, end in itertools.pairwise(edges))
    found = [(claim.passage_id, claim.answer_span.start, claim.answer_span.end) for claim in collector._markers]
    raw = ANSWER.encode()
    assert [name for name, _, _ in found] == ["p1", "p2", "p1", "p3", "p1"]
    assert [raw[start:end].decode() for _, start, end in found] == ["[p1]", "[p2]", "[p1, p3]", "[p1, p3]", "[p1]"]


async def check(collector: CitationCollector, verifier: Verifier) -> list[Citation]:
    return await collector.check(verifier, Call("/test"))


async def test_the_state_is_what_the_check_says() -> None:
    for verdict, state in (
        (SpanState.SPAN_STATE_VALID, CitationState.CITATION_STATE_VERIFIED),
        (SpanState.SPAN_STATE_CHANGED, CitationState.CITATION_STATE_STALE),
        (SpanState.SPAN_STATE_REVISION_EXPIRED, CitationState.CITATION_STATE_UNVERIFIED),
    ):
        verifier = Verifier({10: verdict})
        [citation, again] = await check(collect(["see [p1] and [p1]"], block=2), verifier)
        assert citation.state == again.state == state
        assert (citation.path, citation.start_line, citation.end_line) == ("a.py", 10, 12)
        assert (citation.symbol, citation.revision, citation.block_index) == ("A.b", "r1", 2)
        assert len(verifier.asked) == 1  # the same lines are asked about once


async def test_a_passage_that_was_never_given_is_unverified() -> None:
    verifier = Verifier({})
    [citation] = await check(collect(["see [p9]"]), verifier)
    assert citation.state == CitationState.CITATION_STATE_UNVERIFIED
    assert citation.path == ""
    assert verifier.asked == []


async def test_a_claim_for_some_of_the_lines_is_checked_for_those() -> None:
    collector = CitationCollector([PASSAGE])
    collector.claim(CitationDelta(passage_id="p1", answer_span=Span(start=0, end=4), start_line=11, end_line=11))
    verifier = Verifier({11: SpanState.SPAN_STATE_VALID})
    [citation] = await check(collector, verifier)
    assert citation.state == CitationState.CITATION_STATE_VERIFIED
    assert verifier.asked[0].sha256 == hashlib.sha256(b"second\n").hexdigest()


async def test_lines_end_with_line_feeds_only() -> None:
    text = "one\x0cstill one\ntwo\u2028still two\r\nthree"
    passage = Passage(id="p1", corpus="corpora/docs", path="a", start_line=1, end_line=3, text=text, sha256="0" * 64)
    collector = CitationCollector([passage])
    collector.claim(CitationDelta(passage_id="p1", start_line=2, end_line=2))
    [citation] = await check(collector, Verifier({2: SpanState.SPAN_STATE_VALID}))
    assert citation.sha256 == hashlib.sha256("two\u2028still two\r\n".encode()).hexdigest()


async def test_what_looks_like_a_marker_is_none_where_the_model_cites_by_other_means() -> None:
    collector = collect(["the file says [p1]"])
    collector.claim(CitationDelta(passage_id="p1", start_line=11, end_line=11))
    [citation] = await check(collector, Verifier({11: SpanState.SPAN_STATE_VALID}))
    assert citation.start_line == 11


async def test_lines_outside_the_passage_are_unverified() -> None:
    collector = CitationCollector([PASSAGE])
    for start, end in ((9, 10), (12, 13), (12, 11)):
        collector.claim(CitationDelta(passage_id="p1", start_line=start, end_line=end))
    citations = await check(collector, Verifier({}))
    assert [citation.state for citation in citations] == [CitationState.CITATION_STATE_UNVERIFIED] * 3


async def test_without_a_check_they_stay_unverified(caplog: Any) -> None:
    [citation] = await check(collect(["see [p1]"]), Verifier(None))
    assert citation.state == CitationState.CITATION_STATE_UNVERIFIED
    assert "could not be checked" in caplog.text
