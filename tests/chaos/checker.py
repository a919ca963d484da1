"""Decides from a recorded history whether invariants 1 to 4, 6 and 8 held. See docs/architecture.md."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final, NamedTuple

from .costs import costs, estimates
from .history import Ask, History, Seen, SeenEvent, Sent, Turn

SLACK_SECONDS: Final = 5.0
"""On a busy machine a timer may be late; a retry that overruns a limit is late by whole attempts."""
SPARE_FILES: Final = 16
SPARE_KILOBYTES: Final = 48 * 1024
SPARE_THREADS: Final = 8
_OF_THE_WATCHER: Final = frozenset({"", "LEFT", "WATCHER_STALLED", "RESUME_WINDOW_EXPIRED"})
_LOST: Final = frozenset({"RESPONSE_LOST", "NOT_FOUND"})
_REFUSED: Final = frozenset(
    {"STORE_UNAVAILABLE", "TOO_MANY_IN_FLIGHT", "CIRCUIT_OPEN", "CONVERSATION_BUSY", "DRAINING", "NOT_FOUND"}
)
"""What a request may be refused with before it is accepted; the next one under its id is a new one."""
_NOT_ANSWERED: Final = _REFUSED | {"REQUEST_ID_REUSED", "LEFT"}


class Violation(NamedTuple):
    """An invariant that did not hold."""

    invariant: str
    tag: str
    """Of the answer, or the name of a process."""
    said: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.tag}: {self.said}"


def check(history: History) -> list[Violation]:
    """Returns every violation found."""
    found: list[Violation] = []
    groups = _by_tag(history)
    for tag, group in sorted(groups.items()):
        for invariant, rule in _RULES:
            found += [Violation(invariant, tag, said) for said in rule(group)]
    for prompt, group in sorted(_by_prompt(history, groups).items()):
        found += [Violation("I1", prompt, said) for said in _asked(group)]
        found += [Violation("I4", prompt, said) for said in _reported(group)]
    found += [Violation("I1", "ledger", said) for said in _unique(history)]
    found += [Violation("I4", "ledger", said) for said in _rows(history)]
    found += [Violation("I6", name, said) for name, said in _rest(history)]
    return found


class _Group:
    """All that is recorded of one answer."""

    def __init__(self, history: History) -> None:
        self.ask: Ask | None = None
        self.sent: list[Sent] = []
        self.seen: list[Seen] = []
        self.responses: list[dict[str, object]] = []
        self.attempts: list[dict[str, object]] = []
        self.turns: list[Turn] = []
        self.killed = history.gateway_killed
        self.shared = history.shared
        self.prices = history.prices
        self._events: dict[int, SeenEvent] | None = None

    @property
    def events(self) -> dict[int, SeenEvent]:
        """The events that any client got, by their numbers."""
        if self._events is None:
            self._events = {event.number: event for seen in self.seen for event in seen.events}
        return self._events

    @property
    def completed(self) -> bool:
        return any(event.kind == "completed" for event in self.events.values())


def _by_tag(history: History) -> dict[str, _Group]:
    groups: dict[str, _Group] = defaultdict(lambda: _Group(history))
    for ask in history.asks:
        groups[ask.tag].ask = ask
    by_prompt: dict[str, list[Sent]] = defaultdict(list)
    for sent in history.sent:
        by_prompt[sent.tag].append(sent)
    for ask in history.asks:
        groups[ask.tag].sent = by_prompt[ask.prompt or ask.tag]
    for prompt in by_prompt.keys() - {ask.prompt or ask.tag for ask in history.asks}:
        groups[f"{prompt}, which nobody asked"].sent = by_prompt[prompt]
    for seen in history.seen:
        groups[seen.tag].seen.append(seen)
    for turn in history.turns:
        groups[turn.tag].turns.append(turn)
    tags = {}
    for row in history.responses:
        tag = json.loads(row["labels"]).get("tag", "")
        tags[row["key"]] = tag
        groups[tag].responses.append(row)
    for row in history.attempts:
        groups[tags.get(row["response_key"], "")].attempts.append(row)
    return groups


def _by_prompt(history: History, groups: dict[str, _Group]) -> dict[str, _Group]:
    """What was asked of the upstream, together with all attempts that may have asked it."""
    together: dict[str, _Group] = {}
    for tag, group in groups.items():
        prompt = tag if group.ask is None else group.ask.prompt or tag
        whole = together.setdefault(prompt, _Group(history))
        whole.sent = group.sent or whole.sent
        whole.attempts += group.attempts
    return together


def _asked(group: _Group) -> Iterator[str]:
    attempts = [row for row in group.attempts if row["outcome"] != "cached"]
    if len(group.sent) > len(attempts):
        yield f"the upstream was asked {len(group.sent)} times, with {len(attempts)} attempts on record"


def _reported(group: _Group) -> Iterator[str]:
    reported = Counter(sent.output_tokens for sent in group.sent if sent.output_tokens is not None)
    for row in group.attempts:
        if row["usage_source"] == "provider":
            reported[int(str(row["output_tokens"]))] -= 1
            if reported[int(str(row["output_tokens"]))] < 0:
                yield f"{row['output_tokens']} tokens on record, which the upstream did not report"


def _one(group: _Group) -> Iterator[str]:
    """I1: at most one response for a request id; the same request attaches to it, another is refused."""
    if len(group.responses) > 1:
        yield f"{len(group.responses)} responses on record"
    names = {seen.response for seen in group.seen if seen.response}
    if len(names) > 1:
        yield f"{len(names)} responses were seen"
    asked = [seen for seen in group.seen if seen.request_id]
    accepted = next((seen for seen in asked if _was_accepted(seen)), None)
    for seen in asked:
        if accepted is None or seen.contents != accepted.contents:
            if _was_accepted(seen):
                yield "another request got an answer under the same id"
            elif accepted is not None and not seen.broken and seen.end not in _NOT_ANSWERED:
                yield f"another request under the same id ended with {seen.end}"
        elif seen.end == "REQUEST_ID_REUSED":
            yield "the same request was refused as another one"


def _was_accepted(seen: Seen) -> bool:
    return bool(seen.response) or seen.answer is not None


def _unique(history: History) -> Iterator[str]:
    ids = Counter(
        (row["tenant"], row["method"], row["request_id"]) for row in history.responses if row["request_id"] is not None
    )
    for key, count in ids.items():
        if count > 1:
            yield f"{count} rows for the request id {key[2]}"


def _numbers(group: _Group) -> Iterator[str]:
    """I2: from 1 without a gap, the same for every reader, and nothing that the upstream did not send."""
    digests: dict[int, str] = {}
    for seen in group.seen:
        numbers = [event.number for event in seen.events]
        if numbers != list(range(seen.after + 1, seen.last + 1)):
            yield f"after {seen.after} came {numbers[:8]}…"
        for event in seen.events:
            if digests.setdefault(event.number, event.digest) != event.digest:
                yield f"event {event.number} was not the same for every reader"
            if (event.kind == "accepted") != (event.number == 1):
                yield f"event {event.number} is {event.kind}"
    continues = group.ask is not None and group.ask.continues
    text, whole = _text(group.events)
    made = _made_of(text, group.sent, continues=continues)
    if made is None:
        yield f"the text is not what {'attempts' if continues else 'one attempt'} at the upstream was sent"
    elif group.completed and whole and not made:
        # All of it was seen, so it must be all that was sent.
        yield "the completed text is not the whole of a completed stream of the upstream"
    for seen in group.seen:
        if seen.answer is None:
            continue
        made = _made_of(seen.answer, group.sent, continues=continues)
        if made is None or (seen.end == "OK" and not made):
            yield "the answer in one piece is not what the upstream was sent"
        if seen.end == "OK" and group.completed and whole and seen.answer != text:
            yield "the answer in one piece is not the text of the events"


def _text(events: dict[int, SeenEvent]) -> tuple[str, bool]:
    """Returns the text without what was made void, and whether it is known from the first event to the last."""
    kept: list[SeenEvent] = []
    number = 1
    while number in events:
        event = events[number]
        if event.kind == "restarted":
            kept = [one for one in kept if one.number < event.discard_from]
        kept.append(event)
        number += 1
    return "".join(event.text for event in kept), number == len(events) + 1


def _made_of(text: str, sent: list[Sent], *, continues: bool) -> bool | None:
    """Returns whether a text is the whole of what a completed stream of the upstream sent; None: it is not of it at all.

    With `continues`, beginnings of streams may come before, whole words each.
    """
    if not text:
        return any(one.completed and not one.text for one in sent)
    if any(one.text.startswith(text) for one in sent):
        return any(one.completed and one.text == text for one in sent)
    if not continues:
        return None
    left = list(sent)
    while True:
        if any(one.text.startswith(text) for one in left):
            return any(one.completed and one.text == text for one in left)
        best = max(left, key=lambda one: _common(one.text, text), default=None)
        length = 0 if best is None else _common(best.text, text)
        if best is None or not length:
            return None
        left.remove(best)
        text = text[length:]


def _common(one: str, other: str) -> int:
    """Returns the length of the words that two texts begin with together."""
    length = 0
    for left, right in zip(one.split(" "), other.split(" "), strict=False):
        if left != right:
            break
        length += len(left) + 1
    return min(length, len(one), len(other))


def _ends(group: _Group) -> Iterator[str]:
    """I3: OK if and only if the last event was the only Completed; one end for every reader."""
    events = group.events
    completed = [number for number, event in events.items() if event.kind == "completed"]
    if len(completed) > 1:
        yield f"{len(completed)} events are Completed"
    if completed and max(completed) != max(events):
        yield "events came after Completed"
    ends = set()
    for seen in group.seen:
        if seen.end == "OK":
            if seen.answer is None and (not completed or seen.last != completed[0]):
                yield f"status OK after event {seen.last}, which is not Completed"
        elif seen.events and seen.events[-1].kind == "completed" and not seen.broken and seen.end != "LEFT":
            yield f"{seen.end} after Completed"
        if not seen.end:
            yield "a call has no end"
        refused = not _was_accepted(seen) and seen.end in _REFUSED
        if not seen.broken and seen.end not in _OF_THE_WATCHER and seen.end != "REQUEST_ID_REUSED" and not refused:
            ends.add(seen.end)
    if group.killed and not group.shared:
        ends -= _LOST
    if len(ends) > 1:
        yield f"it ended as {' and as '.join(sorted(ends))}"
    for row in group.responses:
        state, reason = row["state"], row["reason"]
        if group.killed and reason == "RESPONSE_LOST":
            continue
        if "OK" in ends and state != "completed":
            yield f"it was completed, but is on record as {state}"
        if ends and "OK" not in ends and reason not in ends:
            yield f"it ended as {ends}, but is on record as {state} {reason}"


def _turns(group: _Group) -> Iterator[str]:
    """I3, of what is kept of it in its conversation: there before anybody sees its end, once, and with its text."""
    if len(group.turns) > 1:
        yield f"it has {len(group.turns)} turns in its conversation"
    done = [turn for turn in group.turns if turn.state == "completed"]
    if any(turn.state == "running" for turn in group.turns):
        yield "its turn was left open"
    if any(not _made_of(turn.text, group.sent, continues=False) for turn in done):
        yield "its turn is not what the upstream was sent"
    if group.ask is not None and group.ask.talks and any(seen.end == "OK" for seen in group.seen) and not done:
        yield "it was completed, but its turn is not"


def _ledger(group: _Group) -> Iterator[str]:
    """I4: each attempt on record once, with what the upstream says it used."""
    numbers = sorted(int(str(row["number"])) for row in group.attempts)
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"its attempts are {numbers}"
    for row in group.attempts:
        source, outcome = row["usage_source"], row["outcome"]
        if outcome == "running":
            yield "an attempt was left open"
        elif outcome != "cached" and source not in ("provider", "estimated", "partial"):
            yield f"an attempt that is {outcome} has usage of no source"
        if outcome == "completed" and source != "provider" and any(sent.completed for sent in group.sent):
            yield f"a completed attempt has usage that is {source}, although the upstream reported it"
        if outcome == "cached" and row["output_tokens"]:
            yield f"an answer from the cache has {row['output_tokens']} tokens on record"
    if not group.responses and any(_was_accepted(seen) for seen in group.seen):
        yield "it was accepted, but is not on record"
    if group.completed and not group.attempts and not group.killed:
        # After a kill only a hit of the cache may be missing: any other is missed below.
        yield "a completed answer has no attempt on record"
    rows = {str(row["id"]): row["output_tokens"] for row in group.attempts if row["outcome"] != "cached"}
    said = [event.attempts for event in group.events.values() if event.kind == "completed"]
    said += [seen.attempts for seen in group.seen if seen.attempts is not None and seen.end == "OK"]
    for attempts in said:
        # What was used is written down a moment after the end, and a kill may fall into it.
        same = attempts.keys() == rows.keys() if group.killed else attempts == rows
        if not same:
            yield "Completed and the ledger differ"


def _costs(group: _Group) -> Iterator[str]:
    """I4: what delivered, and what may have, has tokens and costs what they cost, whoever ended it."""
    if group.prices is not None:
        yield from costs(group.attempts, group.prices)
    if group.shared:
        yield from estimates(group.attempts, sum(len(event.text) for event in group.events.values()))


def _rows(history: History) -> Iterator[str]:
    ids = Counter(row["id"] for row in history.attempts)
    for attempt, count in ids.items():
        if count > 1:
            yield f"{count} rows for the attempt {attempt}"
    keys = {row["key"] for row in history.responses}
    for row in history.attempts:
        if row["response_key"] not in keys:
            yield f"the attempt {row['id']} belongs to no response"


def _times(group: _Group) -> Iterator[str]:
    """I8: the limit bounds the whole, and nothing starts after it."""
    if group.ask is None:
        return
    limit = group.ask.max_seconds
    for row in group.responses:
        accepted, ended = int(str(row["accept_ns"])), row["end_ns"]
        if ended is None:
            yield "the response was left open"
        elif row["reason"] != "RESPONSE_LOST" and (int(str(ended)) - accepted) / 1e9 > limit + SLACK_SECONDS:
            yield f"it took {(int(str(ended)) - accepted) / 1e9:.1f} s, with a limit of {limit:g} s"
        for attempt in group.attempts:
            started = (int(str(attempt["start_ns"])) - accepted) / 1e9
            if started > limit:
                yield f"an attempt began after {started:.1f} s, with a limit of {limit:g} s"


_RULES: Final = (
    ("I1", _one),
    ("I2", _numbers),
    ("I3", _ends),
    ("I3", _turns),
    ("I4", _ledger),
    ("I4", _costs),
    ("I8", _times),
)


def _rest(history: History) -> Iterator[tuple[str, str]]:
    """I6: what was started has ended, and what was taken was given back."""
    for sent in history.sent:
        if sent.open:
            yield sent.tag, "the upstream still streams"
    for rest in history.rests:
        for name, after in rest.items():
            before = history.before[name]
            if after.in_flight:
                yield name, f"{after.in_flight} calls are in flight at rest"
            # One that was killed has a successor, which has no right to more.
            if after.files > before.files + SPARE_FILES:
                yield name, f"{before.files} open files became {after.files}"
            if after.threads > before.threads + SPARE_THREADS:
                yield name, f"{before.threads} threads became {after.threads}"
            if after.kilobytes > before.kilobytes + SPARE_KILOBYTES:
                yield name, f"{before.kilobytes} KiB became {after.kilobytes}"
