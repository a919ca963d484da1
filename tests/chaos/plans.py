"""What will happen to each answer: drawn from the seed before anything runs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from .upstream import Behaviour

FAULTS: Final = ("", "", "", "", "", "", "cut", "stall", "slow", "limited", "broken", "late")
KINDS: Final = ("stream",) * 9 + ("restart", "restart", "continue", "hedge", "background", "cached", "cached", "json")
KINDS_TOO: Final = ("unary", "unary", "talk", "talk")
MANNERS: Final = ("stay", "stay", "leave", "resume", "resume", "two", "repeat", "reuse", "cancel")
CONVERSATIONS: Final = 6
_PROMPTS: Final = 4
"""Answers that may come from the cache share so many prompts."""


@dataclass
class Plan:
    """What will happen to one answer."""

    tag: str
    kind: str
    """How it is asked for: one of KINDS and KINDS_TOO."""
    prompt: str
    """What is asked, by the tag of the first that asks it."""
    behaviours: list[Behaviour]
    manner: str
    """What the client does with it."""
    at: int
    """After how many events it does that."""
    patient: bool
    """Does not begin while a service is down, so that not all that remains meets one fault."""
    grace: float
    grounded: bool
    conversation: str = ""
    queues: bool = False
    """Waits for its turn in its conversation, instead of being refused."""
    elsewhere: bool = False
    """Comes back at another gateway, where there is one."""


def draw(rng: random.Random, count: int) -> list[Plan]:
    """Draws the plans of a run."""
    plans: list[Plan] = []
    cached: list[Plan] = []
    for number in range(1, count + 1):
        plan = _one(rng, str(number))
        if plan.kind == "cached":
            if len(cached) < _PROMPTS:
                cached.append(plan)
            plan.prompt = rng.choice(cached).prompt
        plans.append(plan)
    return plans


def _one(rng: random.Random, tag: str) -> Plan:
    kind = rng.choice(KINDS + KINDS_TOO)
    words = rng.choice((3, 10, 40))
    faults: tuple[str, ...] = (*FAULTS, "wrong", "wrong") if kind == "json" else FAULTS
    if kind == "cached":
        faults = ("",)  # what fails is not kept
    if kind in ("restart", "continue"):
        faults = (*FAULTS, "cut", "cut", "cut", "stall")
    behaviours = [
        Behaviour(words, rng.choice((0.0, 0.003, 0.01)), rng.choice(faults), rng.randrange(words)) for _ in range(3)
    ]
    if kind == "hedge" and rng.random() < 0.6:
        behaviours[0] = Behaviour(words, 0.003, "late")
    manner = rng.choice(MANNERS)
    if kind == "unary" and manner in ("resume", "cancel"):
        manner = "stay"
    grace = 0.0 if manner == "leave" else rng.choice((5.0, 20.0)) if manner == "resume" else rng.choice((0.0, 5.0))
    return Plan(
        tag,
        kind,
        tag,
        behaviours,
        manner,
        at=rng.randrange(1, words + 3),
        patient=rng.random() < 0.8,
        grace=grace,
        grounded=kind in ("stream", "talk", "unary") and rng.random() < 0.3,
        conversation=f"conversations/chaos-{rng.randrange(CONVERSATIONS)}" if kind == "talk" else "",
        queues=rng.random() < 0.7,
        elsewhere=rng.random() < 0.7,
    )
