"""The cases that every client passes, whatever its language. Each asserts on facts; the client judges nothing."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_kit.errors import TABLE, make_error, reason_name

from .conduct import Stage
from .doubles import ACCEPTED, COMPLETED, RESPONSE, UNKNOWN, Line, Script, text

_DETAILED: Final = "x" * 2000
"""A system instruction that makes a request long enough for a `Line` to know that it has passed."""


@dataclass(frozen=True)
class Case:
    """One thing that a client has to get right."""

    name: str
    shows: str
    play: Callable[[Stage], Awaitable[None]]


CASES: Final[dict[str, Case]] = {}


def case(shows: str) -> Callable[[Callable[[Stage], Awaitable[None]]], Callable[[Stage], Awaitable[None]]]:
    """Adds a function to the cases, under its own name."""

    def add(play: Callable[[Stage], Awaitable[None]]) -> Callable[[Stage], Awaitable[None]]:
        CASES[play.__name__] = Case(play.__name__, shows, play)
        return play

    return add


def asking(model: str, words: str = "hello", **more: Any) -> dict[str, Any]:
    """Returns a ChatSpec as JSON."""
    return {"model": model, "messages": [{"role": "MESSAGE_ROLE_USER", "parts": [{"text": words}]}], **more}


def same_text(done: dict[str, Any], words: str) -> None:
    """The client has this text, byte for byte."""
    data = words.encode()
    assert (done["bytes"], done["sha256"]) == (len(data), hashlib.sha256(data).hexdigest()), done


def has(done: dict[str, Any], **wanted: Any) -> None:
    """These fields are so."""
    assert {name: done[name] for name in wanted} == wanted, done


def ended_well(done: dict[str, Any]) -> None:
    """The stream ended with its only `Completed`, and no number was left out or came twice."""
    has(done, error=None, finish="STOP", left=False)
    without_gap(done, "accepted", "completed")


def without_gap(done: dict[str, Any], first: str | None, last: str) -> None:
    """The numbers begin with 1 and follow on, from an event of one kind (None: any) to one of another."""
    runs = done["events"]
    assert (runs[0][1], runs[-1][0]) == (1, last), done
    assert first in (None, runs[0][0]), done
    assert [run[1] for run in runs[1:]] == [run[2] + 1 for run in runs[:-1]], done


@case("an answer in one piece")
async def unary(stage: Stage) -> None:
    done = await stage.client.ask("chat", stage.mesh, spec=asking("scripted/echo", "grüße, 世界"))
    has(done, error=None, finish="STOP")
    assert done["response"].startswith("responses/"), done
    same_text(done, "grüße, 世界")


@case("every event once, numbered from 1, and one `Completed`")
async def stream(stage: Stage) -> None:
    done = await stage.client.ask("stream", stage.mesh, spec=asking("scripted/text?tokens=50&batch=7&reasoning=3"))
    ended_well(done)
    assert done["reconnects"] == 0, done
    assert {"accepted", "started", "reasoning_delta", "text_delta", "completed"} <= {row[0] for row in done["events"]}


@case("who leaves before the response has a name cancels it all the same")
async def cancel_before_first(stage: Stage) -> None:
    spec = asking("scripted/text?ttft_ms=60000", system_instruction=_DETAILED)
    async with Line(stage.mesh, hold=True).open() as line:
        await stage.client.tell("stream", line.address, spec=spec, leave_told=True)
        await line.answered.wait()
        await stage.client.write({})
        assert await stage.client.read() == {"leaving": True}
        line.release.set()
        done = await stage.client.read()
    has(done, left=True, error=None, events=[])
    assert await stage.state_of(done["response"]) == pb.RESPONSE_STATE_CANCELLED, done


@case("who leaves in the middle cancels the response")
async def cancel_after_first(stage: Stage) -> None:
    spec = asking("scripted/text?tokens=1000&delay_ms=20")
    done = await stage.client.ask("stream", stage.mesh, spec=spec, leave_after=4)
    has(done, left=True, error=None)
    assert done["events"][-1][2] == 4, done
    assert await stage.state_of(done["response"]) == pb.RESPONSE_STATE_CANCELLED, done


@case("a time limit ends the stream typed, and the response with it")
async def deadline(stage: Stage) -> None:
    for milliseconds in (700, 7000, 40_000):  # time enough to be accepted, on any machine
        spec = asking("scripted/text?ttft_ms=60000")
        done = await stage.client.ask("stream", stage.mesh, spec=spec, timeout_ms=milliseconds)
        if done.get("response"):
            break
    has(done["error"], reason="DEADLINE_EXCEEDED", code="DEADLINE_EXCEEDED", retryable=False)
    assert await stage.state_of(done["response"]) in (pb.RESPONSE_STATE_FAILED, pb.RESPONSE_STATE_CANCELLED), done


@case("a status whose message is not ASCII")
async def unicode_status(stage: Stage) -> None:
    error = make_error(
        ErrorReason.ERROR_REASON_MODEL_NOT_FOUND, "kein Modell „größe“: 模型 🌊", metadata={"model": "größe/🌊"}
    )
    async with Script([error]).serve() as address:
        done = await stage.client.ask("stream", address, spec=asking("größe/🌊"))
    assert done["error"]["message"] == error.message, done
    assert done["error"]["metadata"] == error.metadata, done


@case("reason, metadata and RetryInfo of a failure")
async def rich_error(stage: Stage) -> None:
    spec = asking("scripted/text?fault=UPSTREAM_RATE_LIMITED&retry_after_s=3.5")
    for do in ("stream", "chat"):
        error = (await stage.client.ask(do, stage.mesh, spec=spec))["error"]
        has(error, reason="UPSTREAM_RATE_LIMITED", code="RESOURCE_EXHAUSTED", retryable=True, retry_after=3.5)
        has(error, metadata={"provider": "scripted"}, violations=[], protocol=False)


@case("the fields of a request that break a rule")
async def invalid_request(stage: Stage) -> None:
    error = (await stage.client.ask("stream", stage.mesh, spec={"model": "scripted/echo"}))["error"]
    has(error, reason="INVALID_REQUEST", code="INVALID_ARGUMENT", retryable=False, retry_after=0)
    ((field, rule),) = error["violations"]
    assert field == "spec.messages", error
    assert rule, error


@case("a wrong key is refused, and not tried again")
async def wrong_key(stage: Stage) -> None:
    async with Line(stage.mesh).open() as line:
        done = await stage.client.ask("stream", line.address, spec=asking("scripted/echo"), key="wrong")
        assert line.connections == 1
    has(done["error"], reason="UNAUTHENTICATED", code="UNAUTHENTICATED", retryable=False)


@case("which reasons are worth another try, as the contract says")
async def reasons(stage: Stage) -> None:
    done = await stage.client.ask("reasons", stage.mesh)
    assert done["retryable"] == sorted(reason_name(reason) for reason, row in TABLE.items() if row.retryable), done
    known = {reason_name(reason) for reason, row in TABLE.items() if not row.retryable} | {"UNSPECIFIED"}
    assert set(done["permanent"]) - {"UNRECOGNIZED"} == known, done


@case("6 MiB in one message, each way, as one piece and as a stream")
async def large_message(stage: Stage) -> None:
    words = "größe" * (6 * 1024 * 1024 // 7)
    for do in ("chat", "stream"):
        done = await stage.client.ask(do, stage.mesh, spec=asking("scripted/echo", words))
        has(done, error=None, finish="STOP")
        same_text(done, words)


@case("a reader that pauses holds the gateway back; ended for it, it resumes and misses nothing")
async def slow_reader(stage: Stage) -> None:
    words = " ".join(f"{number:06}" * 5000 for number in range(400))
    async with Line(stage.mesh).open() as line:
        await stage.client.tell("stream", line.address, spec=asking("scripted/echo", words), pause_after=3)
        await stage.stalled.wait()
        # What the client's windows, the sockets and one message ahead may hold, far below the 12 MB of the answer.
        assert line.received < 6 * 1024 * 1024, f"{line.received} bytes were sent to a client that does not read"
        await stage.client.write({})
        done = await stage.client.read()
    ended_well(done)
    same_text(done, words)
    assert done["reconnects"] >= 1, done


@case("a connection that breaks three times in mid-answer: no gap, no repeat")
async def resume_after_cut(stage: Stage) -> None:
    async with Line(stage.mesh, cuts=(3000, 6000, 9000)).open() as line:
        done = await stage.client.ask("stream", line.address, spec=asking("scripted/text?tokens=3000"))
        assert line.connections == 4, line.connections
    ended_well(done)
    assert done["reconnects"] >= 3, done


@case("a connection that breaks before `Accepted`: the request is sent again and starts nothing new")
async def retry_before_accepted(stage: Stage) -> None:
    label = uuid.uuid4().hex
    spec = asking("scripted/text?tokens=5", system_instruction=_DETAILED, labels={"conformance": label})
    async with Line(stage.mesh, lose_first=True).open() as line:
        done = await stage.client.ask("stream", line.address, spec=spec)
        assert line.connections == 2, line.connections
    ended_well(done)
    assert done["reconnects"] == 1, done
    assert await stage.attempts(label) == 1


@case("a gateway that leaves, or ends a slow watcher, is resumed where it was")
async def moved(stage: Stage) -> None:
    draining = make_error(ErrorReason.ERROR_REASON_DRAINING, "this gateway is shutting down")
    stalled = make_error(ErrorReason.ERROR_REASON_WATCHER_STALLED, "this watcher read too slowly")
    script = Script(
        [[ACCEPTED, text("a")], [], pb.GoingAway(), draining], [[text("b")], stalled], [[text("c"), COMPLETED]]
    )
    async with script.serve() as address:
        done = await stage.client.ask("stream", address, spec=asking("any"))
    ended_well(done)
    assert (script.resumed, done["reconnects"]) == ([2, 3], 2), done
    assert script.asked[0].spec.detach_grace.seconds == 30
    assert str(uuid.UUID(script.asked[0].request_id)) == script.asked[0].request_id
    assert not script.cancelled
    same_text(done, "abc")


@case("a failure that a service decided on ends the stream, and nothing is tried again")
async def failure(stage: Stage) -> None:
    error = make_error(
        ErrorReason.ERROR_REASON_UPSTREAM_OVERLOADED, "the vendor is overloaded", metadata={"provider": "any"}
    )
    script = Script([[ACCEPTED, text("a")], error])
    async with script.serve() as address:
        done = await stage.client.ask("stream", address, spec=asking("any"))
    has(done["error"], reason="UPSTREAM_OVERLOADED", message=error.message, retryable=True, protocol=False)
    has(done, events=[["accepted", 1, 1], ["text_delta", 2, 2]], finish="")
    assert (script.resumed, script.cancelled) == ([], [])


@case("an event of a kind from the future is skipped, and counted")
async def unknown_event(stage: Stage) -> None:
    async with Script([[ACCEPTED, UNKNOWN, text("a")], [UNKNOWN], [COMPLETED]]).serve() as address:
        done = await stage.client.ask("stream", address, spec=asking("any"))
    has(done, events=[["accepted", 1, 1], ["text_delta", 3, 3], ["completed", 5, 5]], error=None, finish="STOP")


@case("heartbeats do not show")
async def heartbeat(stage: Stage) -> None:
    async with Script([[], [ACCEPTED], [], [], [text("a")], [], [COMPLETED]]).serve() as address:
        done = await stage.client.ask("stream", address, spec=asking("any"))
    ended_well(done)
    assert [row[0] for row in done["events"]] == ["accepted", "text_delta", "completed"], done


@case("status OK without `Completed` is a failure")
async def no_completed(stage: Stage) -> None:
    script = Script([[ACCEPTED, text("a")], None])
    async with script.serve() as address:
        done = await stage.client.ask("stream", address, spec=asking("any"))
    has(done["error"], protocol=True, reason="INTERNAL", retryable=False)
    has(done, finish="")


@case("a gap in the numbers is a failure, and the response is cancelled")
async def gap(stage: Stage) -> None:
    script = Script([[ACCEPTED], [UNKNOWN], [text("a")], [text("b"), COMPLETED]])
    script.gap_after = 3
    async with script.serve() as address:
        done = await stage.client.ask("stream", address, spec=asking("any"))
    has(done["error"], protocol=True, reason="INTERNAL", retryable=False)
    has(done, events=[["accepted", 1, 1], ["text_delta", 3, 3]], finish="")
    assert script.cancelled == [RESPONSE]


@case("a task, watched to its end over a connection that breaks")
async def task_watch(stage: Stage) -> None:
    name = await stage.task()
    async with Line(stage.mesh, cuts=(600,)).open() as line:
        done = await stage.client.ask("watch", line.address, task=name)
        assert line.connections == 2, line.connections
    has(done, error=None, finish="SUCCEEDED", reconnects=1)
    without_gap(done, None, "SUCCEEDED")
