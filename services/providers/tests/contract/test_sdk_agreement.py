"""The fast path sends what the vendor's SDK would send; docs/adr/0010-token-path.md says why both exist."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest

from sluice_kit.call import Call
from sluice_kit.config import load
from sluice_providers.colocate import make
from sluice_providers.vendor import VendorAdapter

from .asked import full_request
from .conftest import KEY
from .formats import Format
from .upstream import Upstream, plain, stream


@pytest.mark.parametrize("whole", [False, True])
async def test_the_sdk_sends_the_same(whole: bool, wire: Format, upstream: Upstream) -> None:
    """The fast path and the vendor's SDK differ in nothing that the vendor acts upon; see ADR 0010."""
    reply = plain(json.dumps(wire.whole).encode()) if whole else stream(wire.text("Hello"))
    upstream.answer(reply)
    words = [f"providers.vendor.{name}={value}" for name, value in (("adapter", wire.adapter), ("api_key", KEY))]
    words += [f"providers.vendor.base_url={upstream.url}{wire.base}", 'providers.vendor.headers={"X-Team": "blue"}']
    servicer, _ = make(load(None, words, environ={}), "vendor")
    adapter = servicer.adapter
    assert isinstance(adapter, VendorAdapter)
    await servicer.start()
    try:
        request = full_request(wire)
        request.whole = whole
        await servicer.generate(request, Call("/test"), lambda batch: None)
        ours = upstream.last
        client: Any = importlib.import_module(wire.adapter).__dict__[
            "Async" + {"openai": "OpenAI", "anthropic": "Anthropic"}[wire.adapter]
        ](api_key=KEY, base_url=upstream.url + wire.base, max_retries=0, default_headers={"X-Team": "blue"})
        create = client.chat.completions.create if wire.adapter == "openai" else client.messages.create
        async with client:
            result = await create(**ours.json)
            if not whole:
                await result.close()
        theirs = upstream.last
    finally:
        await servicer.close()
    assert theirs is not ours
    assert (theirs.method, theirs.path) == (ours.method, ours.path)
    assert theirs.json == ours.json
    # How it compresses, and the SDK's own telemetry, concern no answer.
    aside = ("x-stainless-", "connection", "accept-encoding", "content-length", "host")
    assert {name: value for name, value in theirs.headers.items() if not name.startswith(aside)} == {
        name: value for name, value in ours.headers.items() if not name.startswith(aside)
    }
    assert ours.headers["x-team"] == "blue"
