"""What is recorded of a run: what was asked, what the upstream sent, what clients saw, what the ledger says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Ask:
    """One answer that clients wanted, under one request id."""

    tag: str
    """Names it in its labels, so that every record of it can be found."""
    request_id: str
    max_seconds: float
    """Its `max_duration`."""
    prompt: str = ""
    """Names what was asked, as the upstream sees it. Empty: the tag. The same prompt may be answered from the cache."""
    continues: bool = False
    """Whether its text may be made by several attempts, one after the other (`midstream_policy` CONTINUE)."""
    talks: bool = False
    """Whether it belongs to a conversation."""


@dataclass
class Sent:
    """What the upstream did for one request to it."""

    tag: str
    """The prompt's."""
    text: str = ""
    """Content in the order it was written."""
    output_tokens: int | None = None
    """As it was reported, if it was."""
    completed: bool = False
    """The terminal marker was written."""
    open: bool = True
    """It still streams, to somebody who still listens."""


@dataclass
class SeenEvent:
    """One event as a client got it."""

    number: int
    kind: str
    digest: str
    """Of its bytes."""
    text: str = ""
    """Of a text delta."""
    attempts: dict[str, int] = field(default_factory=dict)
    """Of `Completed`: output tokens by the attempt's id."""
    discard_from: int = 0
    """Of `Restarted`: number of the first event whose content is void."""


@dataclass
class Seen:
    """One call of a client."""

    tag: str
    request_id: str = ""
    """Empty for a resume, and for a look at the response."""
    contents: str = ""
    """Tells contents of requests apart; equal ones are the same request."""
    response: str = ""
    """As it was accepted, or as it was resumed."""
    after: int = 0
    events: list[SeenEvent] = field(default_factory=list)
    end: str = ""
    """`OK`, a reason, or `LEFT` where the client went."""
    broken: bool = False
    """Only the connection ended, or this watcher; nothing was said of the response."""
    answer: str | None = None
    """The text, where it came in one piece instead of events."""
    attempts: dict[str, int] | None = None
    """Output tokens by the attempt's id, where they came with that."""
    where: int = 0
    """Which gateway was called."""

    @property
    def last(self) -> int:
        """Number of the last event it got."""
        return self.after + len(self.events)


@dataclass
class Turn:
    """One turn of a conversation, as it is kept."""

    tag: str
    response: str
    state: str
    """`running`, `completed`, `failed` or `cancelled`."""
    text: str
    """Of its answer."""


@dataclass
class Process:
    """What a process holds."""

    pid: int
    files: int
    kilobytes: int
    threads: int = 1
    in_flight: int = 0
    """Calls that it serves, and responses and other work that it admitted, as its metrics say."""


@dataclass
class History:
    """All of one run. `responses` and `attempts` are the ledger's rows."""

    asks: list[Ask] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    responses: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    before: dict[str, Process] = field(default_factory=dict)
    """By service, at rest, after a first load."""
    rests: list[dict[str, Process]] = field(default_factory=list)
    """The same at rest after later loads; a process that was killed has a successor by then."""
    prices: tuple[int, int] | None = None
    """Of every target: nano-US-dollars for a token read, and for one generated. None: there are none."""
    gateway_killed: bool = False
    """A gateway without a shared log may lose what ran, and any the last moments of what it wrote down."""
    shared: bool = False
    """The log is shared: who reads a response at another gateway sees the same, also of one whose gateway died."""

    def of(self, tag: str) -> str:
        """Returns all that is recorded of one answer, for people."""
        ask = next((ask for ask in self.asks if ask.tag == tag), None)
        prompt = tag if ask is None else ask.prompt or tag
        keys = {row["key"] for row in self.responses if f'"tag": "{tag}"' in row["labels"]}
        lines = [f"  {ask}"]
        lines += [f"  {sent}" for sent in self.sent if sent.tag == prompt]
        lines += [f"  {_short(seen)}" for seen in self.seen if seen.tag == tag]
        lines += [f"  {turn}" for turn in self.turns if turn.tag == tag]
        lines += [f"  {row}" for row in self.responses if row["key"] in keys]
        lines += [f"  {row}" for row in self.attempts if row["response_key"] in keys]
        return "\n".join(lines)


def _short(seen: Seen) -> str:
    events = " ".join(f"{event.number}:{event.kind}" for event in seen.events if event.kind != "text_delta")
    text = "".join(event.text for event in seen.events)
    return (
        f"Seen(at {seen.where}, request {seen.request_id or '-'}, {seen.response or '-'}, after {seen.after}, "
        f"to {seen.last} [{events}] {text!r}, answer {seen.answer!r}, {seen.end}{' broken' if seen.broken else ''})"
    )
