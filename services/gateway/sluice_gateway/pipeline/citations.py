"""Citations: found in the answer while it streams, checked against the corpus before they are shown.

A model cites by markers in its text, `[p3]`, or by its vendor's own means. Where it does the latter, what looks like a
marker in its text is not one: it may be quoting a file that holds such a thing.
"""

import hashlib
import logging
import re
from collections.abc import Sequence
from typing import Final

from sluice.chat.v1.event_pb2 import CitationDelta, TextDelta
from sluice.chat.v1.passage_pb2 import Citation, CitationState, Passage, Span
from sluice.retrieval.v1.search_service_pb2 import SpanState, SpanToVerify
from sluice_gateway.retrieval import Retrieval
from sluice_kit.call import Call
from sluice_kit.errors import SluiceError

log = logging.getLogger(__name__)

# [p3], and what models make of it: [p1, p3] and [p1][p3]. No marker is longer, so the tail kept between two pieces of
# text is bounded.
_MARKER: Final = re.compile(rb"\[(p\d{1,4}(?:\s?[,;]\s?p\d{1,4}){0,15})\]")
_ID: Final = re.compile(rb"p\d{1,4}")
_MAX_MARKER_BYTES: Final = 128
_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")
_STATES: Final = {
    SpanState.SPAN_STATE_VALID: CitationState.CITATION_STATE_VERIFIED,
    SpanState.SPAN_STATE_CHANGED: CitationState.CITATION_STATE_STALE,
    SpanState.SPAN_STATE_REVISION_EXPIRED: CitationState.CITATION_STATE_UNVERIFIED,
}


class _Text:
    """The end of one text block: what may be the beginning of a marker, and where it starts."""

    __slots__ = ("length", "tail")

    def __init__(self) -> None:
        self.tail = b""
        self.length = 0


class CitationCollector:
    """Finds the citations of one attempt, in its text markers and in the model's own claims, without altering the text."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = {passage.id: passage for passage in passages}
        self._markers: list[CitationDelta] = []
        self._claims: list[CitationDelta] = []
        self._blocks: dict[int, _Text] = {}

    def text(self, delta: TextDelta) -> None:
        """Takes more text and notes the markers that it completes."""
        block = self._blocks.get(delta.block_index)
        if block is None:
            block = self._blocks[delta.block_index] = _Text()
        piece = delta.text.encode()
        text = block.tail + piece
        start = block.length - len(block.tail)
        block.length += len(piece)
        end = 0
        for match in _MARKER.finditer(text):
            end = match.end()
            span = Span(start=start + match.start(), end=start + end)
            for passage_id in _ID.findall(match[1]):
                claim = CitationDelta(block_index=delta.block_index, passage_id=passage_id.decode(), answer_span=span)
                self._markers.append(claim)
        opening = text.rfind(b"[", max(end, len(text) - _MAX_MARKER_BYTES))
        block.tail = text[opening:] if opening >= 0 else b""

    def claim(self, delta: CitationDelta) -> None:
        """Takes a claim that the model made by its vendor's own means."""
        self._claims.append(delta)

    async def check(self, retrieval: Retrieval, call: Call) -> list[Citation]:
        """Returns every citation with its state, in the order they came; the same lines are checked once."""
        citations = [self._citation(claim) for claim in self._claims or self._markers]
        spans: dict[tuple[str, str, int, int, str], SpanToVerify] = {}
        for citation in citations:
            if citation.sha256:
                spans.setdefault(_key(citation), _span(citation))
        if not spans:
            return citations
        try:
            states = await retrieval.verify(spans.values(), call)
        except SluiceError as error:
            # They stay UNVERIFIED, which is what is known; the answer itself is not at fault.
            log.warning("citations could not be checked", extra={"reason": error.reason_name})
            return citations
        verdicts = dict(zip(spans, states, strict=True))
        for citation in citations:
            if citation.sha256:
                citation.state = _STATES.get(verdicts[_key(citation)], CitationState.CITATION_STATE_UNVERIFIED)
        return citations

    def _citation(self, claim: CitationDelta) -> Citation:
        citation = Citation(
            passage_id=claim.passage_id,
            block_index=claim.block_index,
            answer_span=claim.answer_span,
            state=CitationState.CITATION_STATE_UNVERIFIED,
        )
        passage = self._passages.get(claim.passage_id)
        if passage is None:
            return citation
        citation.corpus, citation.path = passage.corpus, passage.path
        citation.revision, citation.symbol = passage.revision, passage.symbol
        start = claim.start_line if claim.HasField("start_line") else passage.start_line
        end = claim.end_line if claim.HasField("end_line") else passage.end_line
        # A line ends with a line feed and nothing else, as in git; `splitlines` would end it at a form feed too.
        lines = _LINE.findall(passage.text)[start - passage.start_line : end - passage.start_line + 1]
        if start < passage.start_line or end > passage.end_line or end < start or not lines:
            return citation  # lines that were never given to the model
        citation.start_line, citation.end_line = start, end
        whole = start == passage.start_line and end == passage.end_line
        citation.sha256 = passage.sha256 if whole else hashlib.sha256("".join(lines).encode()).hexdigest()
        return citation


def _key(citation: Citation) -> tuple[str, str, int, int, str]:
    return citation.corpus, citation.path, citation.start_line, citation.end_line, citation.sha256


def _span(citation: Citation) -> SpanToVerify:
    return SpanToVerify(
        corpus=citation.corpus,
        path=citation.path,
        start_line=citation.start_line,
        end_line=citation.end_line,
        revision=citation.revision,
        sha256=citation.sha256,
    )
