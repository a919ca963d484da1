"""A scripted server that does everything wrong that HTTP allows: the right reason, and never a false `Completed`."""

from __future__ import annotations

import asyncio

import pytest

from .conftest import Start, wires_with
from .faults import FAULTS, FINE, GOOD_END, PROTOCOL_ERROR, UNAVAILABLE, Body, chunk
from .subject import Outcome, asking, failure_of, text_of
from .upstream import Connection, Play, Request, Upstream, head_of, plain
from .wire_format import Format

every_format = wires_with(lambda wire: True)
"""Rows of vendors share the code of these tests with the format that they speak."""


@every_format
@pytest.mark.parametrize("name", list(FAULTS))
async def test_faults_of_http(name: str, start: Start, wire: Format, upstream: Upstream) -> None:
    fault = FAULTS[name]
    async with start() as subject:
        for whole in (False, True):
            upstream.requests.clear()
            upstream.answer(fault.play(Body.of(wire, whole=whole)))
            outcome = await subject.outcome(asking("vendor", wire.model, whole=whole))
            if fault.reason == FINE:
                assert outcome.error is None
                assert (outcome.text, outcome.ends) == ("Hello there", 1)
            else:
                assert outcome.error is not None
                assert outcome.error.reason_name == fault.reason
                assert outcome.error.retryable
                assert outcome.ends == 0
            assert len(upstream.requests) == 1, "nothing is retried here"
            # A request upon a connection that is about to end would fail, and rightly so.
            await asyncio.wait_for(upstream.idle.wait(), 60)
        # Whatever happened, the next attempt is as good as the first.
        upstream.answer(wire.stream(wire.text("Fine")))
        assert text_of(await subject.generate(asking("vendor", wire.model))) == "Fine"


def chosen(plays: dict[str, Play]) -> Play:
    """Answers by the one word of `plays` that a request holds."""

    async def play(connection: Connection, request: Request) -> None:
        (name,) = (name for name in plays if f"<{name}>".encode() in request.body or name_escaped(name) in request.body)
        await plays[name](connection, request)

    return play


def name_escaped(name: str) -> bytes:
    return f"\\u003c{name}\\u003e".encode()


@every_format
async def test_a_stall_at_every_stage(start: Start, wire: Format, upstream: Upstream) -> None:
    """All at once, so that they also show that attempts of one adapter do not wait for each other."""
    head = head_of(200, {"Content-Type": wire.media_type, "Transfer-Encoding": "chunked"})
    *_, last = wire.text("Hello")[: len(wire.text("Hello")) - wire.after_marker]
    cut = b"".join(wire.unfinished)
    stages = {
        "nothing": b"",
        "in_the_status_line": head[:12],
        "in_the_headers": head[:-10],
        "before_the_body": head,
        "in_a_chunk_size": head + b"1",
        "in_a_chunk": head + b"1000\r\nx",
        "in_the_first_event": head + chunk(wire.opening[:-1]),
        "before_the_marker": head + chunk(cut),
        "in_the_marker": head + chunk(cut) + chunk(last[:-1]),
        "before_the_end_of_a_chunk": head + chunk(cut)[:-2],
    }
    with_text = {"before_the_marker", "in_the_marker", "before_the_end_of_a_chunk"}

    begun: list[str] = []
    closed: list[str] = []
    all_closed = asyncio.Event()

    def stall(name: str, data: bytes) -> Play:
        async def play(connection: Connection, _: Request) -> None:
            begun.append(name)
            await connection.send(data)
            await connection.hold()
            closed.append(name)
            if len(closed) == len(stages):
                all_closed.set()

        return play

    upstream.answer(chosen({name: stall(name, data) for name, data in stages.items()}))
    for ttft, idle in ((0.6, 0.3), (6.0, 3.0), (36.0, 18.0)):  # time enough to come to each stage, on any machine
        begun.clear()
        closed.clear()
        async with start(ttft_seconds=ttft, idle_seconds=idle) as subject:
            outcomes = await asyncio.gather(
                *(subject.outcome(asking("vendor", wire.model, f"<{name}>")) for name in stages)
            )
            if len(begun) < len(stages):
                continue
            await asyncio.wait_for(all_closed.wait(), 60)
        if all(outcome.text for name, outcome in zip(stages, outcomes, strict=True) if name in with_text):
            break
        all_closed.clear()
    assert sorted(closed) == sorted(stages)
    for name, outcome in zip(stages, outcomes, strict=True):
        assert outcome.error is not None, name
        assert outcome.error.reason_name == "UPSTREAM_TIMEOUT", name
        assert outcome.error.metadata["limit"] == ("idle" if name in with_text else "ttft"), name
        assert bool(outcome.text) == (name in with_text), name
        assert outcome.ends == 0


@every_format
async def test_one_of_many_is_cancelled(start: Start, wire: Format, upstream: Upstream) -> None:
    go = asyncio.Event()
    closed = asyncio.Event()

    async def play(connection: Connection, request: Request) -> None:
        await connection.head(wire.media_type)
        for frame in wire.unfinished:
            await connection.chunk(frame)
        if b"number 7." in request.body:
            await connection.hold()
            closed.set()
            return
        await go.wait()
        for frame in wire.text("Hello ", "there")[len(wire.unfinished) :]:
            await connection.chunk(frame)
        await connection.end()

    upstream.answer(play)
    outcomes = [Outcome() for _ in range(16)]
    async with start() as subject:
        tasks = [
            asyncio.create_task(subject.outcome(asking("vendor", wire.model, f"number {n}."), 60.0, outcome))
            for n, outcome in enumerate(outcomes)
        ]
        for outcome in outcomes:
            await asyncio.wait_for(outcome.progress.wait(), 60)
        tasks[7].cancel()
        await asyncio.wait_for(closed.wait(), 60)
        go.set()
        await asyncio.wait(tasks)
    assert tasks[7].cancelled()
    for n, outcome in enumerate(outcomes):
        assert outcome.error is None
        assert (outcome.text, outcome.ends) == (("Hello there", 1) if n != 7 else (outcome.text, 0))
    assert upstream.connections == 16


@wires_with(lambda wire: not wire.after_marker)
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("what", ["marker_again", "error", "another_answer", "garbage"])
async def test_what_stands_behind_the_marker_is_not_read(
    what: str, at_once: bool, start: Start, wire: Format, upstream: Upstream
) -> None:
    frames = wire.text("Hello ", "there")
    behind = {
        "marker_again": [frames[-1]],
        "error": [wire.error_frame()],
        "another_answer": wire.text("Not this"),
        "garbage": [*wire.garbled.values(), b"\xff\x00"],
    }[what]

    async def play(connection: Connection, _: Request) -> None:
        await connection.head(wire.media_type)
        for data in [b"".join([*frames, *behind])] if at_once else [*frames, *behind]:
            await connection.chunk(data)
        await connection.end()

    upstream.answer(play)
    async with start() as subject:
        for _ in range(2):
            outcome = await subject.outcome(asking("vendor", wire.model))
            assert outcome.error is None
            assert (outcome.text, outcome.ends) == ("Hello there", 1)


@every_format
@pytest.mark.parametrize("when", ["with_the_reply", "later"])
async def test_a_reply_that_nobody_asked_for_is_never_an_answer(
    when: str, start: Start, wire: Format, upstream: Upstream
) -> None:
    """Bytes behind a reply would else answer whoever uses the connection next."""
    stale = Body.of(wire, whole=False)
    unasked = (
        head_of(200, {"Content-Type": stale.kind, "Transfer-Encoding": "chunked"})
        + chunk(b"".join(wire.text("Not this")))
        + GOOD_END
    )
    sent = asyncio.Event()

    async def play(connection: Connection, _: Request) -> None:
        reply = (
            head_of(200, {"Content-Type": stale.kind, "Transfer-Encoding": "chunked"}) + chunk(stale.data) + GOOD_END
        )
        if when == "with_the_reply":
            await connection.send(reply + unasked)
        else:
            await connection.send(reply)
            await asyncio.wait_for(outcome.progress.wait(), 60)
            await connection.send(unasked)
        sent.set()

    upstream.answer(play)
    async with start() as subject:
        for _ in range(3):
            outcome = Outcome()
            sent.clear()
            await subject.outcome(asking("vendor", wire.model), 60.0, outcome)
            await asyncio.wait_for(sent.wait(), 60)
            assert outcome.error is None
            assert (outcome.text, outcome.ends) == ("Hello there", 1)


@every_format
@pytest.mark.parametrize("how", ["closed_while_idle", "closed_upon_the_request", "reset_upon_the_request"])
async def test_a_kept_connection_that_the_server_gives_up(
    how: str, start: Start, wire: Format, upstream: Upstream
) -> None:
    gone = asyncio.Event()

    async def play(connection: Connection, request: Request) -> None:
        first = request.connection == 0 and sum(r.connection == 0 for r in upstream.requests) == 1
        if first or request.connection:
            await wire.stream(wire.text("Hello"))(connection, request)
            if first and how == "closed_while_idle":
                await connection.finish()
                gone.set()
        elif how == "reset_upon_the_request":
            connection.reset()
        else:
            connection.writer.close()

    upstream.answer(play)
    async with start() as subject:
        assert text_of(await subject.generate(asking("vendor", wire.model))) == "Hello"
        if how == "closed_while_idle":
            await asyncio.wait_for(gone.wait(), 60)
            assert text_of(await subject.generate(asking("vendor", wire.model))) == "Hello"
            assert [request.connection for request in upstream.requests] == [0, 1]
            return
        # The vendor may have read and billed it: whether to try again is for the gateway to say.
        error = await failure_of(subject, asking("vendor", wire.model))
        assert error.reason_name == UNAVAILABLE
        assert error.retryable
        assert len(upstream.requests) == 2
        assert text_of(await subject.generate(asking("vendor", wire.model))) == "Hello"


@every_format
async def test_an_answer_before_the_request_was_read(start: Start, wire: Format, upstream: Upstream) -> None:
    async def refuse(connection: Connection, request: Request) -> None:
        await wire.refusal(413, "request_too_large")(connection, request)
        await connection.finish()

    async def hang_up(connection: Connection, request: Request) -> None:
        await wire.refusal(413, "request_too_large")(connection, request)
        connection.reset()

    request = asking("vendor", wire.model, "word " * 400_000)
    async with start() as subject:
        upstream.early = refuse
        assert (await failure_of(subject, request)).reason_name == "CONTEXT_TOO_LONG"
        upstream.early = hang_up
        assert (await failure_of(subject, request)).reason_name in ("CONTEXT_TOO_LONG", UNAVAILABLE)
        upstream.early = None
        upstream.answer(wire.stream(wire.text("Hello")))
        assert text_of(await subject.generate(asking("vendor", wire.model))) == "Hello"


@every_format
async def test_a_whole_reply_is_limited(
    start: Start, wire: Format, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice_providers.http._MAX_REPLY_BYTES", 100_000)
    async with start() as subject:
        upstream.answer(plain(wire.whole + b" " * 200_000))
        error = await failure_of(subject, asking("vendor", wire.model, whole=True))
        assert error.reason_name == PROTOCOL_ERROR
        # An error body that is too long is not read: its status tells.
        monkeypatch.setattr("sluice_providers.http._MAX_ERROR_BYTES", 1000)
        upstream.answer(plain(b"x" * 100_000, 429, "text/plain"))
        assert (await failure_of(subject, asking("vendor", wire.model))).reason_name == "UPSTREAM_RATE_LIMITED"


@every_format
@pytest.mark.parametrize("stalls", [False, True])
async def test_a_broken_error_body_does_not_hide_the_status(
    stalls: bool, start: Start, wire: Format, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(connection: Connection, _: Request) -> None:
        await connection.send(head_of(429, {"Content-Type": "application/json", "Content-Length": "100"}) + b'{"err')
        await (connection.hold() if stalls else connection.finish())

    monkeypatch.setattr("sluice_providers.http._ERROR_SECONDS", 0.1 if stalls else 10)
    upstream.answer(play)
    async with start() as subject:
        assert (await failure_of(subject, asking("vendor", wire.model))).reason_name == "UPSTREAM_RATE_LIMITED"


@every_format
async def test_cancelling_while_the_request_is_written(start: Start, wire: Format, upstream: Upstream) -> None:
    go = asyncio.Event()

    async def stall(connection: Connection, _: Request) -> None:
        upstream.held.set()  # and reads no more of it, so that what does not fit the buffers stays with the adapter
        await go.wait()
        await connection.hold()

    upstream.early = stall
    async with start() as subject:
        task = asyncio.create_task(subject.outcome(asking("vendor", wire.model, "word " * 600_000)))
        await asyncio.wait_for(upstream.held.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        await asyncio.wait_for(upstream.peer_closed.wait(), 60)
