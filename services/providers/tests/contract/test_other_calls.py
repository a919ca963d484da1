"""Embeddings and token counts, by the vendors' SDKs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import SluiceError

from .asked import TOOL_ROW, full_request
from .conftest import KEY
from .formats import FORMATS
from .subject import asking, subject
from .upstream import Connection, Request, Upstream, plain


async def test_embeddings(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    async def vectors(connection: Connection, request: Request) -> None:
        texts = request.json["input"]
        rows = [
            {"object": "embedding", "index": index, "embedding": [float(len(text)), 0.5]}
            for index, text in enumerate(texts)
        ]
        reply = {
            "object": "list",
            "data": rows[::-1],
            "model": "text-embedding-3-small",
            "usage": {"prompt_tokens": 2 * len(texts), "total_tokens": 2 * len(texts)},
        }
        await plain(json.dumps(reply).encode())(connection, request)

    upstream.answer(vectors)
    settings = {"adapter": "openai", "api_key": KEY, "base_url": upstream.url + "/v1", "embed_batch": 2}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        target = asking("vendor", "text-embedding-3-small").target
        reply = await running.call("Embed", pb.EmbedRequest(target=target, texts=["a", "bb", "ccc"], dimensions=2))
        upstream.answer(plain(b'{"object":"list","data":[],"model":"m","usage":{"prompt_tokens":1,"total_tokens":1}}'))
        with pytest.raises(SluiceError) as caught:
            await running.call("Embed", pb.EmbedRequest(target=target, texts=["a"]))
        assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"
    assert [list(row.values) for row in reply.embeddings] == [[1, 0.5], [2, 0.5], [3, 0.5]]
    assert reply.usage.input_tokens == 6
    assert [len(request.json["input"]) for request in upstream.requests] == [2, 1, 1]
    assert upstream.requests[0].json["dimensions"] == 2


async def test_counting_tokens_at_anthropic(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    settings = {"adapter": "anthropic", "api_key": KEY, "base_url": upstream.url}
    request = full_request(FORMATS["anthropic"])
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
