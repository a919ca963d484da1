"""Whatever a vendor or the network does wrong: the right reason, never a false `Completed`, nothing of its words."""

from __future__ import annotations

import datetime
import email.utils
import gzip
from pathlib import Path

import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as pb

from .conftest import Start, wires_with
from .formats import FORMATS
from .subject import asking, failure_of, subject, text_of
from .upstream import Connection, Request, Upstream, plain
from .wire_format import KEY, Format

STATUSES = [(wire.name, *row) for wire in FORMATS.values() for row in wire.statuses]
PROTOCOL_ERROR = ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR


@pytest.mark.parametrize(("name", "status", "kind", "code", "reason"), STATUSES)
async def test_status_table(
    name: str,
    status: int,
    kind: str,
    code: str | None,
    reason: str,
    transport: str,
    upstream: Upstream,
    tmp_path: Path,
) -> None:
    wire = FORMATS[name]
    upstream.answer(wire.refusal(status, kind, code))
    settings = {"adapter": wire.adapter, **wire.settings(upstream.url)}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        for whole in (False, True):
            error = await failure_of(running, asking("vendor", wire.model, whole=whole))
            assert error.reason_name == reason
            assert running.batches == []
    assert len(upstream.requests) == 2, "nothing is retried here"


async def test_a_status_without_a_body_is_enough(start: Start, wire: Format, upstream: Upstream) -> None:
    async with start() as subject:
        for status, reason in (
            (429, "UPSTREAM_RATE_LIMITED"),
            (500, "UPSTREAM_UNAVAILABLE"),
            (418, "UPSTREAM_INVALID_ARGUMENT"),
        ):
            upstream.answer(plain(b"<html>no</html>", status, "text/html"))
            assert (await failure_of(subject, asking("vendor", wire.model))).reason_name == reason


async def test_retry_after(start: Start, wire: Format, upstream: Upstream) -> None:
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
    async with start() as subject:
        for header, low, high in (
            ("7", 7, 7),
            ("1.5", 1.5, 1.5),
            (email.utils.format_datetime(at, usegmt=True), 60, 90),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0),
            ("99999999", 86400, 86400),
        ):
            upstream.answer(wire.refusal(429, retry_after=header))
            error = await failure_of(subject, asking("vendor", wire.model))
            assert error.retry_after is not None
            assert low <= error.retry_after <= high
        for header in ("soon", "nan"):
            upstream.answer(wire.refusal(429, retry_after=header))
            assert (await failure_of(subject, asking("vendor", wire.model))).retry_after is None


async def test_a_prompt_that_is_too_long(start: Start, wire: Format, upstream: Upstream) -> None:
    upstream.answer(wire.too_long)
    async with start() as subject:
        assert (await failure_of(subject, asking("vendor", wire.model))).reason_name == "CONTEXT_TOO_LONG"


async def test_an_error_inside_a_stream(start: Start, wire: Format, upstream: Upstream) -> None:
    async with start() as subject:
        for before in ([], wire.unfinished):
            upstream.answer(wire.stream([*before, wire.error_frame()]))
            assert (await failure_of(subject, asking("vendor", wire.model))).reason_name == "UPSTREAM_UNAVAILABLE"


@wires_with(lambda wire: wire.telling_error)
async def test_a_telling_error_inside_a_stream(start: Start, wire: Format, upstream: Upstream) -> None:
    assert wire.telling_error is not None
    frame, reason = wire.telling_error
    upstream.answer(wire.stream([*wire.unfinished, frame]))
    async with start() as subject:
        assert (await failure_of(subject, asking("vendor", wire.model))).reason_name == reason


async def test_an_error_with_status_200_and_no_stream(start: Start, wire: Format, upstream: Upstream) -> None:
    upstream.answer(wire.refusal(200))
    async with start() as subject:
        for whole in (False, True):
            error = await failure_of(subject, asking("vendor", wire.model, whole=whole))
            assert error.reason_name in ("UPSTREAM_UNAVAILABLE", "UPSTREAM_PROTOCOL_ERROR")


async def test_truncation_at_every_event(start: Start, wire: Format, upstream: Upstream) -> None:
    """Neither a proper end of the body nor a closed connection stands for the terminal marker."""
    events = wire.text("Hello ", "there", "!")
    async with start() as subject:
        for count in wire.truncated:
            upstream.answer(wire.stream(events[:count]))
            assert (await failure_of(subject, asking("vendor", wire.model))).reason == PROTOCOL_ERROR

            async def cut(connection: Connection, _: Request, count: int = count) -> None:
                await connection.head(wire.media_type)
                for event in events[:count]:
                    await connection.chunk(event)
                connection.writer.close()

            upstream.answer(cut)
            assert (await failure_of(subject, asking("vendor", wire.model))).reason == PROTOCOL_ERROR


async def test_truncation_inside_the_last_event(start: Start, wire: Format, upstream: Upstream) -> None:
    frames = wire.text("Hello")
    *events, last = frames[: len(frames) - wire.after_marker]
    async with start() as subject:
        for size in (1, len(last) - 2, len(last) - 1):
            upstream.answer(wire.stream([*events, last[:size]]))
            assert (await failure_of(subject, asking("vendor", wire.model))).reason == PROTOCOL_ERROR


async def test_wrong_content_type(start: Start, wire: Format, upstream: Upstream) -> None:
    async with start() as subject:
        for kind, body in (("text/html", b"<html>"), ("application/json", b"{}"), ("application/json", b"[1]")):
            upstream.answer(plain(body, 200, kind))
            assert (await failure_of(subject, asking("vendor", wire.model))).reason == PROTOCOL_ERROR
        upstream.answer(wire.stream(wire.text("Hello")))
        assert (await failure_of(subject, asking("vendor", wire.model, whole=True))).reason == PROTOCOL_ERROR


async def test_gzip(start: Start, wire: Format, upstream: Upstream) -> None:
    data = b"".join(wire.text("Hello ", "there"))
    async with start() as subject:
        upstream.answer(plain(gzip.compress(data), 200, wire.media_type, content_encoding="gzip"))
        assert text_of(await subject.generate(asking("vendor", wire.model))) == "Hello there"
        upstream.answer(plain(data, 200, wire.media_type, content_encoding="gzip"))
        assert (await failure_of(subject, asking("vendor", wire.model))).reason == PROTOCOL_ERROR
        upstream.answer(plain(gzip.compress(data)[:-20], 200, wire.media_type, content_encoding="gzip"))
        assert (await failure_of(subject, asking("vendor", wire.model))).reason == PROTOCOL_ERROR


async def test_frames_that_break_the_format(start: Start, wire: Format, upstream: Upstream) -> None:
    async with start() as subject:
        for what, frame in wire.garbled.items():
            upstream.answer(wire.stream([wire.opening, frame]))
            assert (await failure_of(subject, asking("vendor", wire.model))).reason == PROTOCOL_ERROR, what


async def test_invalid_utf8(start: Start, wire: Format, upstream: Upstream) -> None:
    events = [event.replace(b"Hello", b"He\xff\xfello") for event in wire.text("Hello")]
    upstream.answer(wire.stream(events))
    async with start() as subject:
        assert (await failure_of(subject, asking("vendor", wire.model))).reason == PROTOCOL_ERROR
        upstream.answer(plain(b'{"\xff": '))
        assert (await failure_of(subject, asking("vendor", wire.model, whole=True))).reason == PROTOCOL_ERROR


async def test_no_content_at_all(start: Start, wire: Format, upstream: Upstream) -> None:
    upstream.answer(wire.stream(wire.text()))
    async with start() as subject:
        error = await failure_of(subject, asking("vendor", wire.model))
    assert error.reason_name == "EMPTY_RESPONSE"
    updates = [event.usage_update.usage for event in subject.events if event.HasField("usage_update")]
    assert updates[-1].output_tokens == wire.usage[2], "what it used still counts"


@wires_with(lambda wire: "content_filter" in wire.finish_words)
async def test_an_answer_withheld_by_policy(start: Start, wire: Format, upstream: Upstream) -> None:
    upstream.answer(wire.stream(wire.finished(wire.finish_words["content_filter"])))
    async with start() as subject:
        assert (await failure_of(subject, asking("vendor", wire.model))).reason_name == "CONTENT_FILTERED"


async def test_redirects_are_refused(start: Start, wire: Format, upstream: Upstream) -> None:
    for status in (301, 302, 307, 308):
        upstream.answer(plain(b"", status, location=upstream.url + "/elsewhere"))
        async with start() as subject:
            error = await failure_of(subject, asking("vendor", wire.model))
        assert error.reason_name == "INTEGRATION_MISCONFIGURED"
    assert all(request.path == wire.path for request in upstream.requests)


async def test_an_event_without_end_is_limited(
    start: Start, wire: Format, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = {
        "text/event-stream": "sse.SSEDecoder",
        "application/x-ndjson": "ndjson.LineDecoder",
    }.get(wire.media_type, "eventstream.EventStreamDecoder")
    monkeypatch.setattr(f"sluice_providers.{decoder}.__init__.__defaults__", (4096,))

    async def endless(connection: Connection, _: Request) -> None:
        await connection.head(wire.media_type)
        while not connection.writer.transport.is_closing():
            await connection.chunk(b"data: " + b"x" * 1024)

    upstream.answer(endless)
    async with start() as subject:
        assert (await failure_of(subject, asking("vendor", wire.model))).reason == PROTOCOL_ERROR


async def test_status_follows_what_happened(start: Start, wire: Format, upstream: Upstream) -> None:
    async with start() as subject:
        upstream.answer(wire.refusal(401))
        await failure_of(subject, asking("vendor", wire.model))
        status = await subject.call("GetStatus", pb.GetStatusRequest())
        assert not status.available
        assert status.last_error == ErrorReason.ERROR_REASON_UPSTREAM_AUTHENTICATION
        assert "credential" in status.detail
        upstream.answer(wire.refusal(400))
        await failure_of(subject, asking("vendor", wire.model))
        status = await subject.call("GetStatus", pb.GetStatusRequest())
        assert status.last_error == ErrorReason.ERROR_REASON_UPSTREAM_AUTHENTICATION, "one bad request says nothing"
        upstream.answer(wire.stream(wire.text("Hello")))
        await subject.generate(asking("vendor", wire.model))
        status = await subject.call("GetStatus", pb.GetStatusRequest())
        assert status.available
        assert status.last_error == ErrorReason.ERROR_REASON_UNSPECIFIED


@wires_with(lambda wire: wire.key_variable)
async def test_a_missing_key_is_named_and_the_rest_works(
    transport: str, wire: Format, upstream: Upstream, tmp_path: Path
) -> None:
    assert wire.key_variable is not None
    settings = {"adapter": wire.adapter, **wire.settings(upstream.url)}
    settings = {name: value for name, value in settings.items() if value != KEY}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        status = await running.call("GetStatus", pb.GetStatusRequest(probe=True))
        assert not status.available
        assert list(status.missing_settings) == [wire.key_variable]
        assert status.last_error == ErrorReason.ERROR_REASON_INTEGRATION_MISCONFIGURED
        assert wire.key_variable in status.detail
        error = await failure_of(running, asking("vendor", wire.model))
        assert error.reason_name == "INTEGRATION_MISCONFIGURED"
        assert error.metadata["setting"] == wire.key_variable
        request = asking("vendor", wire.model)
        counted = await running.call(
            "CountTokens", pb.CountTokensRequest(target=request.target, messages=request.messages)
        )
        assert counted.kind == pb.TOKEN_COUNT_KIND_ESTIMATED
    assert upstream.requests == []
