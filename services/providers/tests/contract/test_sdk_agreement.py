"""The fast path sends what the vendor's SDK would send; docs/adr/0010-token-path.md says why both exist."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from sluice_kit.call import Call
from sluice_kit.config import load
from sluice_providers.colocate import make
from sluice_providers.vendor import VendorAdapter

from .asked import full_request
from .format_anthropic import ANTHROPIC
from .format_openai import OPENAI
from .upstream import Upstream
from .wire_format import KEY, Format


@pytest.mark.parametrize("wire", [ANTHROPIC, OPENAI], ids=lambda wire: wire.name)
@pytest.mark.parametrize("whole", [False, True])
async def test_the_sdk_sends_the_same(whole: bool, wire: Format, upstream: Upstream) -> None:
    """The fast path and the vendor's SDK differ in nothing that the vendor acts upon; see ADR 0010."""
    reply = wire.reply(wire.whole) if whole else wire.stream(wire.text("Hello"))
    upstream.answer(reply)
    base = wire.settings(upstream.url)["base_url"]
    settings = {"adapter": wire.adapter, "api_key": KEY, "base_url": base}
    words = [f"providers.vendor.{name}={value}" for name, value in settings.items()]
    words.append('providers.vendor.headers={"X-Team": "blue"}')
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
        ](api_key=KEY, base_url=base, max_retries=0, default_headers={"X-Team": "blue"})
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
