"""What is recorded of a run: what was asked, what the upstream sent, what clients saw, what the ledger says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Ask:
    """One answer that clients wanted, under one request id."""

    tag: str
    """Names it in its prompt and its labels, so that every record of it can be found."""
    request_id: str
    max_seconds: float
    """Its `max_duration`."""


@dataclass
class Sent:
    """What the upstream did for one request to it."""

    tag: str
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


@dataclass
class Seen:
    """One call of a client."""

    tag: str
    request_id: str = ""
    """Empty for a resume."""
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

    @property
    def last(self) -> int:
        """Number of the last event it got."""
        return self.after + len(self.events)


@dataclass
class Process:
    """What a process holds."""

    pid: int
    files: int
    kilobytes: int


@dataclass
class History:
    """All of one run. `responses` and `attempts` are the ledger's rows."""

    asks: list[Ask] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    responses: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    before: dict[str, Process] = field(default_factory=dict)
    """By service, at rest, after a first load."""
    after: dict[str, Process] = field(default_factory=dict)
    """The same at rest after the load."""
    gateway_killed: bool = False
    """A gateway without a shared log may lose what ran, and the last moments of what it wrote down."""
