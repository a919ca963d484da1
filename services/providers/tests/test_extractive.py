"""Answers without a model: the right lines, quoted exactly, with citations that point at them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sluice.chat.v1 import event_pb2, passage_pb2, usage_pb2
from sluice_providers.words import hashed_vector, split, stem, terms

from .contract.subject import Subject, asking, kinds, subject, text_of

POOL = '''"""Connections that are kept."""

class ConnectionPool:
    """Keeps idle connections."""

    def __init__(self, size: int) -> None:
        self.size = size

    def evict_idle(self, older_than: float) -> int:
        """Closes connections that were idle for too long and returns their number."""
        return 0
'''
GUIDE = """# Timeouts

The client waits 30 seconds for the first byte.
It never retries a request after content was sent.

# Colours

The fence is green.
"""


def passages() -> list[passage_pb2.Passage]:
    return [
        passage_pb2.Passage(id="p1", path="docs/guide.md", start_line=1, end_line=8, text=GUIDE, language="markdown"),
        passage_pb2.Passage(id="p2", path="src/pool.py", start_line=40, end_line=50, text=POOL, language="python"),
    ]


@pytest.fixture
async def quoting(tmp_path: Path) -> AsyncIterator[Subject]:
    async with subject("colocated", "q", {"adapter": "extractive"}, tmp_path) as running:
        yield running


def claims(events: list[event_pb2.Event]) -> list[tuple[str, str, int, int]]:
    """Returns each citation: passage, the text it spans, first and last line."""
    data = text_of(events).encode()
    found = [event.citation_delta for event in events if event.HasField("citation_delta")]
    return [
        (
            claim.passage_id,
            data[claim.answer_span.start : claim.answer_span.end].decode(),
            claim.start_line,
            claim.end_line,
        )
        for claim in found
    ]


@pytest.mark.parametrize(
    ("question", "passage", "holds"),
    [
        ("When are idle connections evicted?", "p2", "def evict_idle"),
        ("what does evictIdle return", "p2", "returns their number"),
        ("Does it retry requests?", "p1", "never retries"),
        ("What colour is the fence?", "p1", "green"),
        ("How long is the timeout for the first byte?", "p1", "30 seconds"),
    ],
)
async def test_the_best_lines_come_first(question: str, passage: str, holds: str, quoting: Subject) -> None:
    events = await quoting.generate(asking("q", "quote", question, passages=passages()))
    first = claims(events)[0]
    assert first[0] == passage
    assert holds in first[1]


async def test_quotes_are_the_cited_lines_exactly(quoting: Subject) -> None:
    given = {passage.id: passage for passage in passages()}
    events = await quoting.generate(asking("q", "quote", "idle connections and retries", passages=passages()))
    assert claims(events)
    for passage_id, text, start, end in claims(events):
        passage = given[passage_id]
        rows = passage.text.splitlines()
        assert text == "\n".join(rows[start - passage.start_line : end - passage.start_line + 1])
        assert passage.path in text_of(events)


async def test_the_stream_says_that_no_model_was_used(quoting: Subject) -> None:
    events = await quoting.generate(asking("q", "quote", "idle connections", passages=passages()))
    assert kinds(events)[:3] == ["started", "notice", "text_delta"]
    assert events[1].notice.code == event_pb2.NOTICE_CODE_NO_MODEL
    completed = events[-1].completed
    assert completed.finish_reason == usage_pb2.FINISH_REASON_STOP
    assert completed.usage.source == usage_pb2.USAGE_SOURCE_ESTIMATED
    assert len(quoting.batches) >= 4


async def test_without_passages_it_says_so(quoting: Subject) -> None:
    events = await quoting.generate(asking("q", "quote", "idle connections"))
    assert "nothing to quote" in text_of(events)
    assert claims(events) == []
    assert events[-1].completed.finish_reason == usage_pb2.FINISH_REASON_STOP


async def test_without_a_common_word_the_first_passage_is_quoted_as_such(quoting: Subject) -> None:
    events = await quoting.generate(asking("q", "quote", "xyzzy", passages=passages()))
    assert "shares a word" in text_of(events)
    assert [claim[0] for claim in claims(events)] == ["p1"]


async def test_blank_passages_and_odd_text_do_no_harm(quoting: Subject) -> None:
    odd = [
        passage_pb2.Passage(id="p1", path="empty", start_line=1, end_line=2, text=" \n\n"),
        passage_pb2.Passage(id="p2", path="æ.md", start_line=3, end_line=3, text="```\nÆrø 🙂 pool\n```"),
    ]
    events = await quoting.generate(asking("q", "quote", "Ærø pool", passages=odd))
    assert claims(events)[0][0] == "p2"
    assert "````\n" in text_of(events), "the fence is longer than any in the text"
    assert claims(await quoting.generate(asking("q", "quote", "x", passages=odd[:1]))) == []


async def test_overlapping_passages_are_quoted_once(quoting: Subject) -> None:
    double = passages()[1:] * 2
    events = await quoting.generate(asking("q", "quote", "evict idle connections", passages=double))
    spans = [(start, end) for _, _, start, end in claims(events)]
    assert len(spans) == 1


async def test_a_limit_of_tokens_ends_the_answer_between_quotes(quoting: Subject) -> None:
    request = asking("q", "quote", "idle connections retries fence", passages=passages())
    request.parameters.max_output_tokens = 60
    limited = await quoting.generate(request)
    assert limited[-1].completed.finish_reason == usage_pb2.FINISH_REASON_LENGTH
    request.parameters.ClearField("max_output_tokens")
    whole = text_of(await quoting.generate(request))
    assert whole.startswith(text_of(limited))
    assert len(whole) > len(text_of(limited))


def test_words() -> None:
    assert list(split("getHTTPName snake_case v2 Ærø")) == ["get", "http", "name", "snake", "case", "v", "2", "ærø"]
    assert {stem(word) for word in ("retry", "retries", "retrying", "retried")} == {"retry"}
    assert {stem(word) for word in ("close", "closes", "closing", "closed")} == {"clos"}
    assert stem("class") == "class"
    assert terms("How do I use the pool?") == ["pool"]
    assert hashed_vector("", 8) == hashed_vector("?!", 8)
