"""Grounded answers in a whole mesh in one process: citations, dense search behind keys, prompts too long."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sluice.chat.v1.event_pb2 import NoticeCode
from sluice.chat.v1.passage_pb2 import CitationState, MatchKind
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1.corpus_pb2 import LocalSource, Source
from sluice.retrieval.v1.search_service_pb2 import SearchMode
from sluice.task.v1.task_service_pb2 import TaskState
from sluice_client import SluiceClient, question
from sluice_kit.errors import NotFoundError, SluiceError
from sluice_kit.testing import mesh

SOURCE = '''"""Where the valve lives."""


class Valve:
    """Opens and closes the sluice."""

    def __init__(self, width: float) -> None:
        self.width = width

    def open(self) -> float:
        """Opens the valve and returns the flow in litres a second."""
        return self.width * 12.5
'''
OTHER = '''"""Where the pump lives."""


def prime(pump: str) -> str:
    """Fills the pump with water before it starts."""
    return f"primed {pump}"
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "valve.py").write_text(SOURCE)
    (source / "pump.py").write_text(OTHER)
    return source


async def index(client: SluiceClient, folder: Path) -> None:
    await client.create_corpus("works")
    task = await client.index_corpus("works", Source(local=LocalSource(path=str(folder))))
    async for event in client.watch_task(task.name):
        last = event
    assert last.task.state == TaskState.TASK_STATE_SUCCEEDED, last.task.error.message


@pytest.fixture
async def client(folder: Path) -> AsyncIterator[SluiceClient]:
    settings = {
        "providers": {"scripted": {"adapter": "scripted"}, "extractive": {"adapter": "extractive"}},
        "retrieval": {"allowed_roots": [str(folder)]},
    }
    async with mesh(settings, retrieval=True) as running, SluiceClient(running.address) as client:
        await index(client, folder)
        yield client


async def test_an_answer_cites_lines_that_are_checked(client: SluiceClient, folder: Path) -> None:
    spec = question("How does the valve compute the flow?", model="extractive/quote", corpora=["works"])
    answer = await client.chat(spec)
    assert answer.citations
    first = answer.citations[0]
    assert (first.path, first.state) == ("valve.py", CitationState.CITATION_STATE_VERIFIED)
    assert "Valve" in first.symbol
    cited = answer.text.encode()[first.answer_span.start : first.answer_span.end].decode()
    assert "12.5" in cited or "flow" in cited
    # One line changes on disk: what was quoted from the index no longer reads so.
    changed = SOURCE.replace("12.5", "13.5").replace("litres a second", "gallons a minute")
    (folder / "valve.py").write_text(changed)
    again = await client.chat(spec)
    assert {citation.state for citation in again.citations if citation.path == "valve.py"} == {
        CitationState.CITATION_STATE_STALE
    }


async def test_markers_in_a_models_text_are_checked_too(client: SluiceClient) -> None:
    answer = await client.chat(question("valve flow", model="scripted/cite", corpora=["works"]))
    assert {citation.state for citation in answer.citations} == {CitationState.CITATION_STATE_VERIFIED}
    invented = await client.chat(question("valve flow", model="scripted/text?say=So+it+is+[p77].", corpora=["works"]))
    assert [citation.state for citation in invented.citations] == [CitationState.CITATION_STATE_UNVERIFIED]
    assert invented.text == "So it is [p77]."  # the text is never altered


async def test_a_prompt_that_is_too_long_goes_once_more_without_passages(client: SluiceClient) -> None:
    model = "scripted/text?fault=CONTEXT_TOO_LONG&times=1&tokens=4"
    answer = await client.chat(question("valve flow", model=model, corpora=["works"]))
    assert [notice.code for notice in answer.notices] == [NoticeCode.NOTICE_CODE_PASSAGES_DROPPED]
    assert [attempt.error_reason for attempt in answer.completed.attempts] == [
        ErrorReason.ERROR_REASON_CONTEXT_TOO_LONG,
        ErrorReason.ERROR_REASON_UNSPECIFIED,
    ]
    with pytest.raises(SluiceError) as caught:
        await client.chat(question("valve flow", model="scripted/text?fault=CONTEXT_TOO_LONG", corpora=["works"]))
    assert caught.value.reason == ErrorReason.ERROR_REASON_CONTEXT_TOO_LONG


async def test_a_corpus_that_does_not_exist(client: SluiceClient) -> None:
    with pytest.raises(NotFoundError) as caught:
        await client.chat(question("anything", model="extractive/quote", corpora=["absent"]))
    assert caught.value.metadata["resource"] == "corpora/absent"


async def test_dense_search_behind_keys(folder: Path, tmp_path: Path) -> None:
    """Vectors come from the gateway's own embeddings, for the tenant whose corpus it is, without a key of its own."""
    keys = tmp_path / "keys.yaml"
    digest = hashlib.sha256(b"key-of-acme").hexdigest()
    keys.write_text(f"keys:\n  - {{id: k, sha256: {digest}, tenant: acme, roles: [editor]}}\n")
    settings = {
        "auth": {"mode": "keys", "keys_file": str(keys)},
        "providers": {"scripted": {"adapter": "scripted"}},
        "retrieval": {"allowed_roots": [str(folder)], "embedder": {"model": "scripted/embed", "dimensions": 256}},
    }
    async with (
        mesh(settings, retrieval=True) as running,
        SluiceClient(running.address, key="key-of-acme") as client,
    ):
        await index(client, folder)
        found = await client.search("fill the pump with water", ["works"], mode=SearchMode.SEARCH_MODE_DENSE)
        fused = await client.search("fill the pump with water", ["works"])
    assert found[0].path == "pump.py"
    assert found[0].match == MatchKind.MATCH_KIND_DENSE
    assert fused[0].path == "pump.py"
    assert fused[0].match == MatchKind.MATCH_KIND_HYBRID
