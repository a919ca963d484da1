"""Background answers: a job at the vendor is followed to its end over broken connections, and given up by name."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import openai
import pytest

from sluice.chat.v1 import parameters_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_providers import responses
from sluice_providers.wire.responses_request import Sealed, seal

from .conftest import Start
from .format_openai import refusal
from .format_responses import ID, RESPONSES, call, called, failed, frames, message, said, text, thinking, thought
from .job import Job, close, head_alone, hold, nothing, properly, state
from .responding import joined, reasoning_of, returning
from .subject import Subject, asking, failure_of, text_of
from .upstream import Connection, Request, Upstream, stream
from .wire_format import KEY, Format

OUTPUT = [
    thought("Let me think.", sealed=None),
    message("Hello there", index=1),
    call("call_1", "weather", '{"city":"Ærø"}'),
]
FRAMES = frames(
    thinking(0, ("Let me ", "think."), sealed=None)
    + said(1, "Hello ", "there")
    + called(2, OUTPUT[2], '{"city":', '"Ærø"}'),
    OUTPUT,
)


@pytest.fixture
def wire() -> Format:
    return RESPONSES


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "_FIRST_PAUSE", 0.001)


def background(**fields: Any) -> pb.GenerateRequest:
    """A request for an answer in the background."""
    return asking("vendor", RESPONSES.model, background=True, **fields)


async def unbroken(subject: Subject, upstream: Upstream) -> Any:
    """Returns what the answer amounts to where nothing breaks."""
    upstream.answer(Job(FRAMES))
    return joined(await subject.generate(background()))


async def test_a_background_answer(start: Start, upstream: Upstream) -> None:
    async with start() as subject:
        low = parameters_pb2.GenerationParameters(reasoning_effort=parameters_pb2.REASONING_EFFORT_LOW)
        upstream.answer(Job(FRAMES))
        events = await subject.generate(background(parameters=low))
    (request,) = upstream.requests
    body = request.json
    assert (body["background"], body["stream"], body["store"]) == (True, True, True)
    assert "include" not in body, "the vendor refuses sealed reasoning of what it stores"
    assert text_of(events, 1) == "Hello there"
    assert reasoning_of(events) == ("Let me think.", seal(Sealed("rs_0")))


async def test_reasoning_that_the_vendor_keeps_goes_back_by_its_id(start: Start, upstream: Upstream) -> None:
    upstream.answer(stream(text("Hello")))
    async with start() as subject:
        await subject.generate(returning("vendor", seal(Sealed("rs_0"))))
    summary = [{"type": "summary_text", "text": "Hm."}]
    assert upstream.last.json["input"][1] == {"type": "reasoning", "id": "rs_0", "summary": summary}


@pytest.mark.parametrize("how", [close, properly], ids=["closed", "ended"])
@pytest.mark.parametrize("part", [0, 1, 40])
async def test_broken_at_every_event_it_gives_the_same_answer(
    how: Callable[[Connection], Any], part: int, start: Start, upstream: Upstream
) -> None:
    async with start() as subject:
        whole = await unbroken(subject, upstream)
        for count in range(1, len(FRAMES)):
            job = Job(FRAMES, count)
            job.part = FRAMES[count][:part]
            job.breaks = how
            upstream.answer(job)
            assert joined(await subject.generate(background())) == whole
            assert job.journal == ["start", "attach"]


async def test_a_stream_that_breaks_at_each_event_is_followed_to_its_end(start: Start, upstream: Upstream) -> None:
    async with start() as subject:
        whole = await unbroken(subject, upstream)
        job = Job(FRAMES, *([1] * len(FRAMES)))
        upstream.answer(job)
        assert joined(await subject.generate(background())) == whole
    assert job.journal == ["start"] + ["attach"] * (len(FRAMES) - 1)


async def test_events_that_come_again_are_read_over(start: Start, upstream: Upstream) -> None:
    """A vendor that starts over, whatever it is asked."""
    async with start() as subject:
        whole = await unbroken(subject, upstream)
        for count in range(1, len(FRAMES)):
            job = Job(FRAMES, count)
            job.attaching = stream(FRAMES)
            upstream.answer(job)
            assert joined(await subject.generate(background())) == whole


@pytest.mark.parametrize("status", [400, 404, 429, 503])
async def test_where_no_stream_can_be_attached_to_the_state_is_asked_for(
    status: int, start: Start, upstream: Upstream
) -> None:
    async with start() as subject:
        whole = await unbroken(subject, upstream)
        for count in range(1, len(FRAMES)):
            job = Job(FRAMES, count)
            job.attaching = refusal(status)
            job.states = [state("in_progress"), state("completed", OUTPUT)]
            upstream.answer(job)
            assert joined(await subject.generate(background())) == whole
            assert job.journal == ["start", "attach", "ask", "ask"]
            assert [batch for batch in subject.batches if not batch.events], "a job that goes on is heard of"


async def test_azures_older_interface_keeps_its_version(start: Start, upstream: Upstream) -> None:
    paths: list[str] = []
    job = Job(FRAMES, 7)
    job.attaching = refusal(404)
    job.states = [state("completed", OUTPUT)]

    async def azure(connection: Connection, request: Request) -> None:
        paths.append(request.path)
        path = request.path.replace("/openai/", "/v1/").replace("?api-version=2025-04-01-preview", "")
        await job(connection, dataclasses.replace(request, path=path.replace("&", "?", 1)))

    upstream.answer(azure)
    settings = {"azure_endpoint": upstream.url, "api_version": "2025-04-01-preview", "responses": "always"}
    async with start(**settings) as subject:
        assert text_of(await subject.generate(background())) == "Hello there"
    assert paths == [
        "/openai/responses?api-version=2025-04-01-preview",
        f"/openai/responses/{ID}?api-version=2025-04-01-preview&stream=true&starting_after=6",
        f"/openai/responses/{ID}?api-version=2025-04-01-preview",
    ]


async def test_streams_that_lead_nowhere_are_given_up_for_the_state(start: Start, upstream: Upstream) -> None:
    async with start() as subject:
        whole = await unbroken(subject, upstream)
        for attaching in (nothing, head_alone, stream([])):
            job = Job(FRAMES, 7)
            job.attaching = attaching
            job.states = [state("completed", OUTPUT)]
            upstream.answer(job)
            assert joined(await subject.generate(background())) == whole
            tries = job.journal.count("attach")
            assert job.journal == ["start", *["attach"] * tries, "ask"]
            # Asking twice where nothing at all came back is the HTTP client's own doing, and changes nothing.
            assert tries == responses.ATTACHES or (attaching is nothing and tries >= responses.ATTACHES)


async def test_without_numbers_the_state_is_asked_for(start: Start, upstream: Upstream) -> None:
    bare = [frame.replace(b'"sequence_number"', b'"unnumbered"') for frame in FRAMES]
    async with start() as subject:
        whole = await unbroken(subject, upstream)
        job = Job(bare, 7)
        job.states = [state("completed", OUTPUT)]
        upstream.answer(job)
        assert joined(await subject.generate(background())) == whole
    assert job.journal == ["start", "ask"]


async def test_a_whole_answer_is_asked_for_until_it_is_there(start: Start, upstream: Upstream) -> None:
    async with start() as subject:
        whole = await unbroken(subject, upstream)
        job = Job([])
        job.states = [state("queued"), state("in_progress"), state("completed", OUTPUT)]
        upstream.answer(job)
        assert joined(await subject.generate(background(whole=True))) == whole
    assert job.journal == ["start", "ask", "ask", "ask"]
    body = upstream.requests[1].json
    assert (body["background"], body["store"]) == (True, True)
    assert "stream" not in body


async def test_questions_that_fail_are_asked_again_a_few_times(start: Start, upstream: Upstream) -> None:
    async with start() as subject:
        job = Job([])
        job.states = [
            refusal(503),
            refusal(429),
            nothing,
            state("in_progress"),
            refusal(500),
            state("completed", OUTPUT),
        ]
        upstream.answer(job)
        assert text_of(await subject.generate(background(whole=True))) == "Hello there"
        job = Job([])
        job.states = [refusal(503)] * (responses.POLLS + 1)
        upstream.answer(job)
        error = await failure_of(subject, background(whole=True))
    assert error.reason_name == "UPSTREAM_UNAVAILABLE"
    assert job.states == []
    assert job.journal[-1] == "cancel"


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "UPSTREAM_AUTHENTICATION"), (404, "UPSTREAM_UNAVAILABLE"), (302, "INTEGRATION_MISCONFIGURED")],
)
async def test_questions_that_are_refused_end_it(status: int, reason: str, start: Start, upstream: Upstream) -> None:
    async with start() as subject:
        job = Job([])
        job.states = [refusal(status)]
        upstream.answer(job)
        assert (await failure_of(subject, background(whole=True))).reason_name == reason
    assert job.journal == ["start", "ask", "cancel"]


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
async def test_a_job_that_fails_is_not_cancelled(ending: str, start: Start, upstream: Upstream) -> None:
    error = {"code": "rate_limit_exceeded", "message": "no"} if ending == "failed" else None
    reason = "UPSTREAM_RATE_LIMITED" if error else "UPSTREAM_UNAVAILABLE"
    async with start() as subject:
        job = Job([])
        job.states = [state(ending, error=error)]
        upstream.answer(job)
        assert (await failure_of(subject, background(whole=True))).reason_name == reason
        assert job.journal == ["start", "ask"]
        job = Job([*FRAMES[:5], failed("rate_limit_exceeded")])
        upstream.answer(job)
        assert (await failure_of(subject, background())).reason_name == "UPSTREAM_RATE_LIMITED"
        assert job.journal == ["start"]


async def test_a_stream_that_breaks_before_the_job_has_an_id(start: Start, upstream: Upstream) -> None:
    async with start() as subject:
        for how in (close, properly):
            job = Job(FRAMES, 0)
            job.breaks = how
            upstream.answer(job)
            assert (await failure_of(subject, background())).reason_name == "UPSTREAM_PROTOCOL_ERROR"
            assert job.journal == ["start"]


def stalled() -> Job:
    """A job that says some of its answer, and then nothing."""
    job = Job(FRAMES, 16)
    job.breaks = hold
    return job


async def test_cancelling_cancels_the_job(start: Start, upstream: Upstream) -> None:
    job = stalled()
    upstream.answer(job)
    async with start() as subject:
        task = asyncio.create_task(subject.generate(background()))
        await asyncio.wait_for(subject.progress.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(job.cancelled.wait(), 60)
        await asyncio.wait_for(upstream.peer_closed.wait(), 60)
    assert job.journal == ["start", "cancel"]


async def test_cancelling_while_its_state_is_asked_for(start: Start, upstream: Upstream) -> None:
    asked = asyncio.Event()

    async def silent(connection: Connection, _: Request) -> None:
        asked.set()
        await connection.hold()

    job = Job([])
    job.states = [silent]
    upstream.answer(job)
    async with start() as subject:
        task = asyncio.create_task(subject.generate(background(whole=True)))
        await asyncio.wait_for(asked.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(job.cancelled.wait(), 60)
    assert job.journal == ["start", "ask", "cancel"]


async def test_limits_of_time_cancel_the_job(start: Start, upstream: Upstream) -> None:
    for settings, timeout, reason in (
        ({"idle_seconds": 0.2}, 60.0, "UPSTREAM_TIMEOUT"),
        # A job may stand in a queue for as long as it shows that it is there.
        ({"ttft_seconds": 0.1, "idle_seconds": 0.4}, 60.0, "UPSTREAM_TIMEOUT"),
        ({}, 0.6, "DEADLINE_EXCEEDED"),
    ):
        for factor in (1, 10, 50):  # time enough to come to the text, on any machine
            job = stalled()
            upstream.answer(job)
            async with start(**{name: value * factor for name, value in settings.items()}) as subject:
                assert (await failure_of(subject, background(), min(timeout * factor, 60.0))).reason_name == reason
                if not subject.progress.is_set():
                    continue
                await asyncio.wait_for(job.cancelled.wait(), 60)
                break
        assert job.journal == ["start", "cancel"]


async def test_a_vendor_that_does_not_hear_the_cancelling_holds_nobody_up(
    start: Start, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(connection: Connection, _: Request) -> None:
        await connection.hold()

    for cancelling in (silent, refusal(500)):
        for factor in (1, 10, 100):  # time enough to come to the text and to cancel, on any machine
            monkeypatch.setattr(responses, "_CANCEL_SECONDS", 0.05 * factor)
            job = stalled()
            job.cancelling = cancelling
            upstream.answer(job)
            async with start(idle_seconds=0.2 * factor) as subject:
                assert (await failure_of(subject, background())).reason_name == "UPSTREAM_TIMEOUT"
            if job.journal == ["start", "cancel"]:
                break
        assert job.journal == ["start", "cancel"]


async def test_frames_that_break_the_format_end_the_job(start: Start, upstream: Upstream) -> None:
    """What cannot be read once cannot be read again."""
    async with start() as subject:
        for frame in RESPONSES.garbled.values():
            job = Job([FRAMES[0], frame])
            upstream.answer(job)
            assert (await failure_of(subject, background())).reason_name == "UPSTREAM_PROTOCOL_ERROR"
            assert job.journal == ["start", "cancel"]


async def test_the_sdk_asks_the_same_way(start: Start, upstream: Upstream) -> None:
    """For the stream behind an event, for the state, and for the end of a job."""
    job = Job(FRAMES, 7)
    job.attaching = refusal(404)
    job.states = [refusal(401), state("in_progress")]
    upstream.answer(job)
    async with start() as subject:
        assert (await failure_of(subject, background())).reason_name == "UPSTREAM_AUTHENTICATION"
    assert job.journal == ["start", "attach", "ask", "cancel"]
    ours = upstream.requests[1:]
    upstream.requests.clear()
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{upstream.url}/v1", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(ID, stream=True, starting_after=6)
        await client.responses.retrieve(ID)
        await client.responses.cancel(ID)
    for mine, theirs in zip(ours, upstream.requests, strict=True):
        assert (mine.method, urlsplit(mine.path).path) == (theirs.method, urlsplit(theirs.path).path)
        assert parse_qs(urlsplit(mine.path).query) == parse_qs(urlsplit(theirs.path).query)
        assert mine.body == theirs.body
        for name in ("authorization", "accept", "openai-organization", "openai-project"):
            assert mine.headers.get(name) == theirs.headers.get(name)
