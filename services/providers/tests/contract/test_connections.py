"""Connections that break, stall or are given up: what the caller sees, and what the vendor's side sees."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import SluiceError

from .conftest import Start, wires_with
from .formats import FORMATS
from .subject import asking, failure_of, subject, text_of
from .upstream import Connection, Request, Upstream
from .wire_format import KEY, Format


@pytest.mark.parametrize("how", ["reset", "half_close", "reset_before_headers", "close_before_headers"])
async def test_broken_connections(how: str, start: Start, wire: Format, upstream: Upstream) -> None:
    async def broken(connection: Connection, _: Request) -> None:
        if "headers" not in how:
            await connection.head(wire.media_type)
            for event in wire.unfinished:
                await connection.chunk(event)
            # What was sent must be read before the reset throws it away.
            await asyncio.wait_for(running.progress.wait(), 60)
        if how.startswith("reset"):
            connection.reset()
        elif how == "half_close":
            connection.writer.write_eof()
            await connection.hold()
        else:
            connection.writer.close()

    upstream.answer(broken)
    async with start() as running:
        error = await failure_of(running, asking("vendor", wire.model))
    assert error.reason_name == ("UPSTREAM_UNAVAILABLE" if "headers" in how else "UPSTREAM_PROTOCOL_ERROR")
    assert error.retryable
    assert bool(text_of(running.events)) == ("headers" not in how)


async def test_nobody_listens(transport: str, wire: Format, tmp_path: Path) -> None:
    settings = {"adapter": wire.adapter, **wire.settings("http://127.0.0.1:1"), "connect_seconds": 2}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        assert (await failure_of(running, asking("vendor", wire.model))).reason_name == "UPSTREAM_UNAVAILABLE"
        status = await running.call("GetStatus", pb.GetStatusRequest(probe=True))
        assert not status.available
        assert status.last_error == ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE
        assert status.HasField("latency")


async def test_the_deadline_closes_the_connection(start: Start, wire: Format, upstream: Upstream) -> None:
    async def stall(connection: Connection, _: Request) -> None:
        await connection.head(wire.media_type)
        await connection.hold()

    upstream.answer(stall)
    async with start() as subject:
        for seconds in (0.2, 2.0, 30.0):  # time enough to get there, on any machine
            error = await failure_of(subject, asking("vendor", wire.model), timeout=seconds)
            assert error.reason_name == "DEADLINE_EXCEEDED"
            if upstream.held.is_set():
                break
        await asyncio.wait_for(upstream.peer_closed.wait(), 60)


@pytest.mark.parametrize("when", ["before_headers", "in_the_stream"])
async def test_cancelling_closes_the_connection_at_once(
    when: str, start: Start, wire: Format, upstream: Upstream
) -> None:
    async def stall(connection: Connection, _: Request) -> None:
        if when == "in_the_stream":
            await connection.head(wire.media_type)
            for event in wire.unfinished:
                await connection.chunk(event)
        await connection.hold()

    upstream.answer(stall)
    delays = []
    async with start() as subject:
        # The best of a few: the machine may be slow and busy, but a close that waits for something always takes long.
        for _ in range(5):
            upstream.peer_closed.clear()
            upstream.held.clear()
            task = asyncio.create_task(subject.generate(asking("vendor", wire.model)))
            await asyncio.wait_for(upstream.held.wait(), 60)
            if when == "in_the_stream":
                await asyncio.wait_for(subject.progress.wait(), 60)
            cancelled_at = asyncio.get_running_loop().time()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(upstream.peer_closed.wait(), 60)
            delays.append(upstream.peer_closed_at - cancelled_at)
            if delays[-1] < 1.0:
                break
    assert min(delays) < 1.0


async def test_a_vendor_that_does_not_answer_a_plain_call_in_time(
    start: Start, wire: Format, upstream: Upstream
) -> None:
    async def stall(connection: Connection, _: Request) -> None:
        await connection.hold()

    upstream.answer(stall)
    async with start(call_seconds=0.3) as subject:
        with pytest.raises(SluiceError) as caught:
            await subject.call("ListModels", pb.ListModelsRequest())
        assert caught.value.reason_name == "UPSTREAM_TIMEOUT"


async def test_a_proxy_is_used_as_configured(transport: str, upstream: Upstream, tmp_path: Path) -> None:
    """And its password is sent to it alone: the vendor's name never leaves this machine in the test."""
    wire = FORMATS["openai"]
    upstream.answer(wire.stream(wire.text("Hello")))
    proxy = upstream.url.replace("http://", "http://user:hunter2@")
    settings = {"adapter": "openai", "api_key": KEY, "base_url": "http://vendor.invalid/v1", "proxy": proxy}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        assert text_of(await running.generate(asking("vendor", wire.model))) == "Hello"
    assert upstream.last.path == "http://vendor.invalid/v1/chat/completions"
    assert upstream.last.headers["proxy-authorization"].startswith("Basic ")


@wires_with(lambda wire: True)
@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_the_environments_proxies_are_not_used(
    scheme: str, start: Start, wire: Format, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for tokens nor by an SDK, some of which read them whatever they are told."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"{scheme}://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with start() as running:
        upstream.answer(wire.stream(wire.text("Hello")))
        assert text_of(await running.generate(asking("vendor", wire.model))) == "Hello"
        upstream.answer(wire.models)
        assert (await running.call("ListModels", pb.ListModelsRequest())).models
        if wire.embeddings is not None:
            upstream.answer(wire.embeddings)
            target = asking("vendor", "embedding-model").target
            assert (await running.call("Embed", pb.EmbedRequest(target=target, texts=["a"]))).embeddings
