"""The checker finds each violation, and none where there is none."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from .checker import check
from .history import Ask, History, Process, Seen, SeenEvent, Sent

SECOND = 10**9


def _events(words: int = 3) -> list[SeenEvent]:
    texts = [f"w{number} " for number in range(words)]
    kinds = ["accepted", "started", *("text_delta" for _ in texts), "completed"]
    made = [SeenEvent(number, kind, f"d{number}") for number, kind in enumerate(kinds, 1)]
    for event, text in zip(made[2:], texts, strict=False):
        event.text = text
    made[-1].attempts = {"a1": 7}
    return made


def good() -> History:
    """One answer: watched to its end, left by another client and resumed; one more that the upstream cut."""
    events = _events()
    response = {"key": 1, "id": "r", "tenant": "local", "method": "StreamChat", "request_id": "u", "reason": ""}
    failed = {**response, "key": 2, "id": "f", "request_id": "v", "reason": "UPSTREAM_PROTOCOL_ERROR"}
    attempt = {"id": "a1", "response_key": 1, "number": 1, "outcome": "completed", "output_tokens": 7}
    return History(
        asks=[Ask("1", "u", 10.0), Ask("2", "v", 10.0)],
        sent=[Sent("1", "w0 w1 w2 ", 7, True, False), Sent("2", "w0 ", None, False, False)],
        seen=[
            Seen("1", "u", "c", "responses/r", 0, events, "OK"),
            Seen("1", "u", "c", "responses/r", 0, events[:3], "LEFT"),
            Seen("1", "", "", "responses/r", 3, events[3:], "OK"),
            Seen("1", "u", "other", "", 0, [], "REQUEST_ID_REUSED"),
            Seen("2", "v", "c", "responses/f", 0, events[:3], "UPSTREAM_PROTOCOL_ERROR"),
            Seen("2", "", "", "responses/f", 2, events[2:3], "UPSTREAM_PROTOCOL_ERROR"),
        ],
        responses=[
            {**response, "labels": '{"tag": "1"}', "state": "completed", "accept_ns": 0, "end_ns": SECOND},
            {**failed, "labels": '{"tag": "2"}', "state": "failed", "accept_ns": 0, "end_ns": SECOND},
        ],
        attempts=[
            {**attempt, "usage_source": "provider", "start_ns": 1},
            {**attempt, "id": "a2", "response_key": 2, "outcome": "failed", "usage_source": "estimated", "start_ns": 1},
        ],
        before={"gateway": Process(5, 20, 60_000)},
        after={"gateway": Process(5, 22, 70_000)},
    )


def test_what_is_right_passes() -> None:
    assert check(good()) == []


def _drop(history: History) -> None:
    del history.seen[0].events[3]


def _repeat(history: History) -> None:
    history.seen[2].events.insert(0, history.seen[0].events[2])


def _change(history: History) -> None:
    history.seen[2].events[0] = SeenEvent(4, "text_delta", "other", "w1 ")


def _shorten(history: History) -> None:
    history.seen[0].events[4].text = ""


def _ok_without_completed(history: History) -> None:
    history.seen[4].end = "OK"


def _completed_twice(history: History) -> None:
    history.seen[0].events.append(SeenEvent(7, "completed", "d7", attempts={"a1": 7}))


def _failed_after_completed(history: History) -> None:
    history.seen[0].end = "UPSTREAM_TIMEOUT"


def _another_end(history: History) -> None:
    history.seen[5].end = "CANCELLED"


def _recorded_otherwise(history: History) -> None:
    history.responses[0]["state"] = "cancelled"


def _no_end(history: History) -> None:
    history.seen[4].end = ""


def _two_responses(history: History) -> None:
    history.responses.append({**history.responses[0], "key": 3})


def _two_names(history: History) -> None:
    history.seen[1].response = "responses/x"


def _accepted_another(history: History) -> None:
    history.seen[3].end = "OK"


def _refused_the_same(history: History) -> None:
    history.seen[3].contents = "c"


def _asked_twice(history: History) -> None:
    history.sent.append(Sent("1", "", None, False, False))


def _left_running(history: History) -> None:
    history.attempts[1]["outcome"] = "running"


def _wrong_tokens(history: History) -> None:
    history.attempts[0]["output_tokens"] = 8


def _no_source(history: History) -> None:
    history.attempts[1]["usage_source"] = ""


def _numbered_wrongly(history: History) -> None:
    history.attempts[1]["number"] = 2


def _twice_on_record(history: History) -> None:
    history.attempts[1]["id"] = "a1"


def _orphan(history: History) -> None:
    history.attempts[1]["response_key"] = 9


def _still_streaming(history: History) -> None:
    history.sent[1].open = True


def _files(history: History) -> None:
    history.after["gateway"].files = 90


def _memory(history: History) -> None:
    history.after["gateway"].kilobytes = 600_000


def _too_long(history: History) -> None:
    history.responses[0]["end_ns"] = 60 * SECOND


def _never_ended(history: History) -> None:
    history.responses[1]["end_ns"] = None


def _started_late(history: History) -> None:
    history.attempts[0]["start_ns"] = 11 * SECOND


@pytest.mark.parametrize(
    ("invariant", "breaks"),
    [
        ("I1", _two_responses),
        ("I1", _two_names),
        ("I1", _accepted_another),
        ("I1", _refused_the_same),
        ("I1", _asked_twice),
        ("I2", _drop),
        ("I2", _repeat),
        ("I2", _change),
        ("I2", _shorten),
        ("I3", _ok_without_completed),
        ("I3", _completed_twice),
        ("I3", _failed_after_completed),
        ("I3", _another_end),
        ("I3", _recorded_otherwise),
        ("I3", _no_end),
        ("I4", _left_running),
        ("I4", _wrong_tokens),
        ("I4", _no_source),
        ("I4", _numbered_wrongly),
        ("I4", _twice_on_record),
        ("I4", _orphan),
        ("I6", _still_streaming),
        ("I6", _files),
        ("I6", _memory),
        ("I8", _too_long),
        ("I8", _never_ended),
        ("I8", _started_late),
    ],
)
def test_each_violation_is_found(invariant: str, breaks: Callable[[History], None]) -> None:
    history = copy.deepcopy(good())
    breaks(history)
    assert invariant in {violation.invariant for violation in check(history)}


def test_a_killed_gateway_may_lose_what_ran_but_not_mix_it_up() -> None:
    history = good()
    history.seen.append(Seen("1", "", "", "responses/r", 2, [], "RESPONSE_LOST"))
    assert {violation.invariant for violation in check(history)} == {"I3"}
    history.gateway_killed = True
    assert check(history) == []
