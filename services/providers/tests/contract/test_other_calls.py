"""Embeddings and token counts, by the vendors' SDKs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import SluiceError

from .asked import TOOL_ROW, full_request
from .conftest import Start, wires_with
from .format_anthropic import ANTHROPIC
from .format_openai import OPENAI
from .subject import asking, subject
from .upstream import Upstream, plain
from .wire_format import Format


@wires_with(lambda wire: not wire.embeddings)
async def test_embeddings_that_a_vendor_does_not_have(start: Start, wire: Format, upstream: Upstream) -> None:
    async with start() as subject:
        with pytest.raises(SluiceError) as caught:
            await subject.call("Embed", pb.EmbedRequest(target=asking("vendor", "m").target, texts=["a"]))
    assert caught.value.reason_name == "UNSUPPORTED_OPERATION"
    assert upstream.requests == []


@wires_with(lambda wire: wire.embeddings)
async def test_embeddings(start: Start, wire: Format, upstream: Upstream) -> None:
    assert wire.embeddings is not None
    upstream.answer(wire.embeddings)
    async with start() as subject:
        reply = await subject.call("Embed", embedding(wire, "a", "bb", "ccc"))
    assert [list(row.values) for row in reply.embeddings] == [[1, 0.5], [2, 0.5], [3, 0.5]]
    assert reply.model


def embedding(wire: Format, *texts: str) -> pb.EmbedRequest:
    """Returns a request for vectors."""
    return pb.EmbedRequest(target=asking("vendor", "embedding-model").target, texts=texts)


@wires_with(lambda wire: wire.embeddings)
async def test_embeddings_that_do_not_match_the_texts(start: Start, wire: Format, upstream: Upstream) -> None:
    async with start() as subject:
        for body in (b"{}", b"[]", b"{not json"):
            upstream.answer(plain(body))
            with pytest.raises(SluiceError) as caught:
                await subject.call("Embed", embedding(wire, "a"))
            assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"


async def test_embeddings_in_batches_of_openai(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    upstream.answer(OPENAI.embeddings or plain(b""))
    settings = {"adapter": "openai", **OPENAI.settings(upstream.url), "embed_batch": 2}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        request = embedding(OPENAI, "a", "bb", "ccc")
        request.dimensions = 2
        reply = await running.call("Embed", request)
        upstream.answer(plain(b'{"object":"list","data":[],"model":"m","usage":{"prompt_tokens":1,"total_tokens":1}}'))
        with pytest.raises(SluiceError) as caught:
            await running.call("Embed", embedding(OPENAI, "a"))
        assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"
    assert reply.usage.input_tokens == 6
    assert [len(request.json["input"]) for request in upstream.requests] == [2, 1, 1]
    assert upstream.requests[0].json["dimensions"] == 2


async def test_counting_tokens_at_anthropic(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    settings = {"adapter": "anthropic", **ANTHROPIC.settings(upstream.url)}
    request = full_request(ANTHROPIC)
    counting = pb.CountTokensRequest(
        target=request.target, messages=request.messages, system_instruction="Be brief.", tools=[TOOL_ROW]
    )
    async with subject(transport, "vendor", settings, tmp_path) as running:
        upstream.answer(plain(b'{"input_tokens": 2095}'))
        counted = await running.call("CountTokens", counting)
        assert (counted.tokens, counted.kind, counted.margin) == (2095, pb.TOKEN_COUNT_KIND_EXACT, 0)
        assert upstream.last.path == "/v1/messages/count_tokens"
        assert set(upstream.last.json) == {"model", "messages", "system", "tools"}
        upstream.answer(plain(b"{}", 529))
        assert (await running.call("CountTokens", counting)).kind == pb.TOKEN_COUNT_KIND_ESTIMATED
        upstream.answer(plain(b'{"type":"error","error":{"type":"not_found_error","message":"model"}}', 404))
        with pytest.raises(SluiceError) as caught:
            await running.call("CountTokens", counting)
        assert caught.value.reason_name == "MODEL_NOT_FOUND"
