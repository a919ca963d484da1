"""Clients that ask, leave, come back and repeat, and the record of what each saw."""

from __future__ import annotations

import asyncio
import hashlib
import random
import uuid
from dataclasses import dataclass
from typing import Any, Final

import grpc

from sluice.chat.v1.event_pb2 import Event
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.gateway.v1 import chat_service_pb2_grpc as pb_grpc
from sluice_client import question
from sluice_client.failures import read_failure

from .history import Ask, Seen, SeenEvent
from .upstream import Behaviour

MAX_SECONDS: Final = 8.0
FAULTS: Final = ("", "", "", "", "", "", "cut", "stall", "slow", "limited", "broken")
MANNERS: Final = ("stay", "stay", "leave", "resume", "resume", "two", "repeat", "reuse", "cancel")
_RETRIES: Final = 60


@dataclass
class Plan:
    """What will happen to one answer, drawn from the seed."""

    tag: str
    behaviours: list[Behaviour]
    manner: str
    at: int
    """After how many events the client does what its manner says."""
    patient: bool
    """Does not begin while a service is down, so that not all that remains meets one fault."""
    grace: float
    background: bool
    grounded: bool


def draw(rng: random.Random, tag: str, *, grounded: bool) -> Plan:
    """Draws one."""
    words = rng.choice((3, 10, 40))
    behaviours = [
        Behaviour(words, rng.choice((0.0, 0.003, 0.01)), rng.choice(FAULTS), rng.randrange(words)) for _ in range(3)
    ]
    manner = rng.choice(MANNERS)
    grace = 0.0 if manner == "leave" else rng.choice((5.0, 20.0)) if manner == "resume" else rng.choice((0.0, 5.0))
    at = rng.randrange(1, words + 3)
    patient = rng.random() < 0.8
    return Plan(tag, behaviours, manner, at, patient, grace, rng.random() < 0.1, grounded and rng.random() < 0.3)


class Clients:
    """Everybody who asks. `count` grows with every event that anybody gets."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._chat: Any = pb_grpc.ChatServiceStub(channel)
        self.asks: list[Ask] = []
        self.seen: list[Seen] = []
        self.count = 0
        self.ended = False
        self.moved = asyncio.Condition()
        self.calm = asyncio.Event()
        """Set while every service is up."""
        self.calm.set()

    async def run(self, plan: Plan) -> None:
        """Plays one plan to its end."""
        ask = Ask(plan.tag, str(uuid.uuid4()), MAX_SECONDS)
        self.asks.append(ask)
        spec = self._spec(plan)
        if plan.patient:
            await self.calm.wait()
        if plan.manner == "two":
            await asyncio.gather(self._ask(plan, ask, spec), self._ask(plan, ask, spec))
            return
        stop = plan.at if plan.manner in ("leave", "resume", "cancel") else None
        first = await self._ask(plan, ask, spec, stop)
        if plan.manner == "cancel" and first.response:
            try:
                await self._chat.CancelChat(pb.CancelChatRequest(response=first.response))
            except grpc.aio.AioRpcError as error:
                # It is a wish; how the response ended is seen below.
                read_failure(error)
        if plan.manner == "repeat":
            await self._ask(plan, ask, spec)
        if plan.manner == "reuse":
            spec.messages[0].parts[0].text += " once more"
            await self._ask(plan, ask, spec)
        if first.response and (plan.manner in ("resume", "cancel") or first.broken):
            await self._resume(plan, first.response, first.last)
            await self._resume(plan, first.response, min(1, first.last))

    def _spec(self, plan: Plan) -> pb.ChatSpec:
        spec = question(f"say chaos-{plan.tag}", model="vendor/any")
        spec.labels.update({"tag": plan.tag})
        spec.max_duration.FromMilliseconds(int(MAX_SECONDS * 1000))
        spec.detach_grace.FromMilliseconds(int(plan.grace * 1000))
        spec.background = plan.background
        if plan.grounded:
            spec.grounding.corpora.append("corpora/chaos")
            spec.grounding.policy = pb.GroundingPolicy.GROUNDING_POLICY_BEST_EFFORT
        return spec

    async def _ask(self, plan: Plan, ask: Ask, spec: pb.ChatSpec, stop: int | None = None) -> Seen:
        """Asks; while the gateway cannot be reached, asks again under the same id, as a client does."""
        request = pb.StreamChatRequest(spec=spec, request_id=ask.request_id)
        contents = hashlib.sha256(spec.SerializeToString(deterministic=True)).hexdigest()
        for _ in range(_RETRIES):
            seen = Seen(plan.tag, ask.request_id, contents)
            await self._read(self._chat.StreamChat(request, wait_for_ready=True), seen, stop)
            if not seen.broken or seen.response:
                break
            await asyncio.sleep(0.1)
        return seen

    async def _resume(self, plan: Plan, response: str, after: int) -> None:
        request = pb.ResumeChatRequest(response=response, after_sequence=after)
        for _ in range(_RETRIES):
            seen = Seen(plan.tag, response=response, after=after)
            await self._read(self._chat.ResumeChat(request, wait_for_ready=True), seen, None)
            if not seen.broken:
                break
            request.after_sequence = after = seen.last
            await asyncio.sleep(0.1)

    async def _read(self, call: Any, seen: Seen, stop: int | None) -> None:
        self.seen.append(seen)
        try:
            while (batch := await call.read()) is not grpc.aio.EOF:
                for number, event in enumerate(batch.events, batch.first_sequence):
                    seen.events.append(_seen(number, event))
                    if event.WhichOneof("kind") == "accepted":
                        seen.response = event.accepted.response
                if batch.events:
                    await self._note(len(batch.events))
                if stop is not None and seen.last >= stop:
                    call.cancel()
                    seen.end = "LEFT"
                    return
            seen.end = "OK"
        except grpc.aio.AioRpcError as error:
            failure, seen.broken = read_failure(error)
            seen.end = failure.reason_name

    async def end(self) -> None:
        """Says that there will be no more events."""
        self.ended = True
        await self._note(0)

    async def _note(self, events: int) -> None:
        self.count += events
        async with self.moved:
            self.moved.notify_all()


def _seen(number: int, event: Event) -> SeenEvent:
    digest = hashlib.sha256(event.SerializeToString(deterministic=True)).hexdigest()[:16]
    attempts = {attempt.attempt_id: attempt.usage.output_tokens for attempt in event.completed.attempts}
    return SeenEvent(number, str(event.WhichOneof("kind")), digest, event.text_delta.text, attempts)
