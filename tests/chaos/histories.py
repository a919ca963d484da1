"""Histories in which every invariant holds, for tests that break one."""

from __future__ import annotations

from .history import Ask, History, Process, Seen, SeenEvent, Sent, Turn

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
    attempt = {"id": "a1", "response_key": 1, "number": 1, "outcome": "completed", "reason": "", "ttft_us": 5}
    attempt |= {"input_tokens": 9, "output_tokens": 7, "cost_nano_usd": 9 * 3 + 7 * 15}
    return History(
        asks=[Ask("1", "u", 10.0, talks=True), Ask("2", "v", 10.0, talks=True)],
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
            {**attempt, "id": "a2", "response_key": 2, "outcome": "failed", "usage_source": "estimated", "start_ns": 1}
            | {"reason": "UPSTREAM_PROTOCOL_ERROR"},
        ],
        before={"gateway": Process(5, 20, 60_000, 12)},
        turns=[Turn("1", "responses/r", "completed", "w0 w1 w2 "), Turn("2", "responses/f", "failed", "w0 ")],
        prices=(3, 15),
        # Of another process: the first one was killed.
        rests=[{"gateway": Process(6, 22, 70_000, 13)}],
    )


def restarted() -> History:
    """An answer that broke off and was made anew by a second attempt."""
    history = good()
    events = [
        SeenEvent(1, "accepted", "d1"),
        SeenEvent(2, "text_delta", "d2", "v0 "),
        SeenEvent(3, "route_changed", "d3"),
        SeenEvent(4, "restarted", "d4", discard_from=2),
        SeenEvent(5, "text_delta", "d5", "w0 "),
        SeenEvent(6, "text_delta", "d6", "w1 "),
        SeenEvent(7, "completed", "d7", attempts={"a0": 2, "a1": 7}),
    ]
    history.turns = []
    history.asks, history.sent = [Ask("1", "u", 10.0)], [Sent("1", "v0 v1 ", None, False, False)]
    history.sent.append(Sent("1", "w0 w1 ", 7, True, False))
    history.seen = [
        Seen("1", "u", "c", "responses/r", 0, events, "OK"),
        Seen("1", "", "", "responses/r", 4, events[4:], "OK"),
        Seen("1", response="responses/r", answer="w0 w1 ", attempts={"a0": 2, "a1": 7}, end="OK"),
    ]
    [completed, left] = history.attempts
    completed["number"] = 2
    left.update(id="a0", response_key=1, output_tokens=2, cost_nano_usd=9 * 3 + 2 * 15)
    history.responses = history.responses[:1]
    return history


def continued() -> History:
    """The same, but the second attempt went on where the first one broke off."""
    history = restarted()
    history.asks[0].continues = True
    del history.seen[0].events[3]
    for number, event in enumerate(history.seen[0].events, 1):
        event.number = number
    history.seen[1] = Seen("1", "", "", "responses/r", 3, history.seen[0].events[3:], "OK")
    history.seen[2].answer = "v0 w0 w1 "
    return history


def from_cache() -> History:
    """An answer in one piece, and another one like it from the cache."""
    history = good()
    asked = Ask("3", "x", 10.0, prompt="1")
    history.asks.append(asked)
    history.seen.append(Seen("3", "x", "c", "responses/x", answer="w0 w1 w2 ", attempts={}, end="OK"))
    row = {**history.responses[0], "key": 3, "id": "x", "request_id": "x", "labels": '{"tag": "3"}', "method": "Chat"}
    history.responses.append(row)
    cached = {**history.attempts[0], "id": "a3", "response_key": 3, "outcome": "cached", "ttft_us": None}
    free = {"usage_source": "", "input_tokens": 0, "output_tokens": 0, "cost_nano_usd": 0}
    history.attempts.append(cached | free)
    return history


def survived() -> History:
    """An answer whose gateway was killed in the midst of it, read on and ended at another."""
    history = good()
    history.shared = history.gateway_killed = True
    history.asks, history.sent = [Ask("1", "u", 10.0)], [Sent("1", "w0 w1 w2 ", None, False, False)]
    events = _events()[:4]
    lost = "RESPONSE_LOST"
    history.seen = [
        Seen("1", "u", "c", "responses/r", 0, events, "SERVICE_UNREACHABLE", broken=True),
        Seen("1", "", "", "responses/r", 1, events[1:], lost, where=1),
    ]
    history.turns = []
    history.responses = [{**history.responses[0], "state": "failed", "reason": lost}]
    left = {"outcome": "failed", "usage_source": "estimated", "output_tokens": 2, "ttft_us": None}
    history.attempts = [history.attempts[0] | left | {"cost_nano_usd": 9 * 3 + 2 * 15}]
    return history
