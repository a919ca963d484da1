"""The checker finds each violation, and none where there is none."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from .checker import check
from .histories import SECOND, continued, from_cache, good, restarted, survived
from .history import History, Seen, SeenEvent, Sent


@pytest.mark.parametrize("history", [good, restarted, continued, from_cache, survived])
def test_what_is_right_passes(history: Callable[[], History]) -> None:
    assert check(history()) == []


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


def _costs_nothing(history: History) -> None:
    history.attempts[0]["cost_nano_usd"] = 0


def _has_no_cost(history: History) -> None:
    history.attempts[0]["cost_nano_usd"] = None


def _of_tokens(history: History, read: int, made: int) -> None:
    history.attempts[-1].update(input_tokens=read, output_tokens=made, cost_nano_usd=read * 3 + made * 15)


def _read_nothing(history: History) -> None:
    _of_tokens(history, 0, 2)


def _made_nothing(history: History) -> None:
    _of_tokens(history, 9, 0)


def _made_less_than_was_seen(history: History) -> None:
    _of_tokens(history, 9, 1)


def _numbered_wrongly(history: History) -> None:
    history.attempts[1]["number"] = 2


def _twice_on_record(history: History) -> None:
    history.attempts[1]["id"] = "a1"


def _orphan(history: History) -> None:
    history.attempts[1]["response_key"] = 9


def _still_streaming(history: History) -> None:
    history.sent[1].open = True


def _files(history: History) -> None:
    history.rests[0]["gateway"].files = 90


def _memory(history: History) -> None:
    history.rests[0]["gateway"].kilobytes = 600_000


def _threads(history: History) -> None:
    history.rests[0]["gateway"].threads = 60


def _two_turns(history: History) -> None:
    history.turns.append(history.turns[0])


def _no_turn(history: History) -> None:
    del history.turns[0]


def _open_turn(history: History) -> None:
    history.turns[1].state = "running"


def _another_turn(history: History) -> None:
    history.turns[0].text = "w0 w1 "


def _in_flight(history: History) -> None:
    history.rests[0]["gateway"].in_flight = 1


def _resumed_with_a_gap(history: History) -> None:
    del history.seen[2].events[0]


def _resumed_with_a_repeat(history: History) -> None:
    history.seen[2].after = 2
    history.seen[2].events.insert(0, history.seen[0].events[3])


def _resumed_otherwise_elsewhere(history: History) -> None:
    history.shared = True
    history.seen[2].where = 1
    history.seen[2].events[1] = SeenEvent(5, "text_delta", "other", "w2 ")


def _ended_otherwise_elsewhere(history: History) -> None:
    history.shared = history.gateway_killed = True
    history.seen[2] = Seen("1", "", "", "responses/r", 3, history.seen[0].events[3:5], "RESPONSE_LOST", where=1)


def _begun_in_the_middle(history: History) -> None:
    history.seen[1].events[0] = SeenEvent(1, "text_delta", "d1", "w0 ")


def _ok_with_a_gap_at_the_end(history: History) -> None:
    history.seen[0].events = history.seen[0].events[:4]


def _events_after_completed(history: History) -> None:
    history.seen[0].events.append(SeenEvent(7, "notice", "d7"))


def _no_attempt(history: History) -> None:
    del history.attempts[0]


def _no_response(history: History) -> None:
    del history.responses[0]


def _same_id_twice(history: History) -> None:
    history.responses[1]["request_id"] = "u"


def _two_starts_of_a_prompt(history: History) -> None:
    history.asks[1].prompt = "1"
    history.sent += [Sent("1", "", None, False, False), Sent("1", "", None, False, False)]


def _completed_otherwise(history: History) -> None:
    history.seen[0].events[-1].attempts = {"a1": 6}


def _estimated_although_reported(history: History) -> None:
    history.attempts[0]["usage_source"] = "estimated"


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
        ("I1", _same_id_twice),
        ("I1", _two_starts_of_a_prompt),
        ("I2", _resumed_with_a_gap),
        ("I2", _resumed_with_a_repeat),
        ("I2", _resumed_otherwise_elsewhere),
        ("I2", _begun_in_the_middle),
        ("I3", _ok_with_a_gap_at_the_end),
        ("I3", _events_after_completed),
        ("I3", _two_turns),
        ("I3", _no_turn),
        ("I3", _open_turn),
        ("I3", _another_turn),
        ("I3", _ended_otherwise_elsewhere),
        ("I4", _no_response),
        ("I4", _no_attempt),
        ("I4", _completed_otherwise),
        ("I4", _estimated_although_reported),
        ("I6", _threads),
        ("I6", _in_flight),
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
        ("I4", _costs_nothing),
        ("I4", _has_no_cost),
        ("I4", _read_nothing),
        ("I4", _made_nothing),
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


def _not_void(history: History) -> None:
    history.seen[0].events[3].discard_from = 5


def _answered_with_what_is_void(history: History) -> None:
    history.seen[2].answer = "v0 w0 w1 "


def _answered_otherwise(history: History) -> None:
    history.seen[2].attempts = {"a1": 7}


def _not_at_its_end(history: History) -> None:
    history.seen[0].events[5].text = ""


def _void_although_it_goes_on(history: History) -> None:
    history.asks[0].continues = False


def _woven(history: History) -> None:
    texts = [event.text for event in history.seen[0].events]
    history.seen[0].events[1].text, history.seen[0].events[3].text = texts[3], texts[1]


def _another_answer(history: History) -> None:
    history.seen[-1].answer = "w0 "


def _paid_for_a_hit(history: History) -> None:
    history.attempts[-1]["output_tokens"] = 7


def _asked_for_a_hit(history: History) -> None:
    history.sent.append(Sent("1", "x0 ", 9, True, False))


@pytest.mark.parametrize(
    ("invariant", "made", "breaks"),
    [
        ("I2", restarted, _not_void),
        ("I2", restarted, _not_at_its_end),
        ("I2", restarted, _answered_with_what_is_void),
        ("I4", restarted, _answered_otherwise),
        ("I2", continued, _void_although_it_goes_on),
        ("I2", continued, _woven),
        ("I2", from_cache, _another_answer),
        ("I4", from_cache, _paid_for_a_hit),
        ("I1", from_cache, _asked_for_a_hit),
        ("I4", survived, _has_no_cost),
        ("I4", survived, _read_nothing),
        ("I4", survived, _made_nothing),
        ("I4", survived, _made_less_than_was_seen),
    ],
)
def test_so_it_is_with_several_attempts_and_with_none(
    invariant: str, made: Callable[[], History], breaks: Callable[[History], None]
) -> None:
    history = made()
    breaks(history)
    assert invariant in {violation.invariant for violation in check(history)}


def test_a_violation_comes_with_its_history() -> None:
    said = good().of("2")
    for part in ("Ask(tag='2'", "Sent(tag='2'", "UPSTREAM_PROTOCOL_ERROR", "'response_key': 2"):
        assert part in said
    assert "responses/r" not in said


def test_a_killed_gateway_may_lose_what_ran_but_not_mix_it_up() -> None:
    history = good()
    history.seen.append(Seen("1", "", "", "responses/r", 2, [], "RESPONSE_LOST"))
    assert {violation.invariant for violation in check(history)} == {"I3"}
    history.gateway_killed = True
    assert check(history) == []
    # With a shared log nothing that was seen is lost.
    history.shared = True
    assert {violation.invariant for violation in check(history)} == {"I3"}


def test_without_a_log_that_others_read_what_was_made_may_be_lost_but_not_what_was_asked() -> None:
    history = survived()
    history.shared = False
    _made_nothing(history)
    assert check(history) == []
    _read_nothing(history)
    assert {violation.invariant for violation in check(history)} == {"I4"}
