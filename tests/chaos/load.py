"""Clients that ask, leave, come back and repeat, and the record of what each saw."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Sequence
from typing import Any, Final

import grpc

from sluice.chat.v1.event_pb2 import Completed, Event
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.gateway.v1 import chat_service_pb2_grpc as pb_grpc
from sluice_client import question
from sluice_client.failures import read_failure
from sluice_kit.errors import from_status

from .history import Ask, Seen, SeenEvent
from .plans import Plan

MAX_SECONDS: Final = 8.0
_RETRIES: Final = 120
_CHAT: Final = "/sluice.gateway.v1.ChatService/"
_SCHEMA: Final = (
    '{"type":"object","properties":{"words":{"type":"array","items":{"type":"string"}}},'
    '"required":["words"],"additionalProperties":false}'
)
_POLICIES: Final = {
    "restart": pb.MidstreamPolicy.MIDSTREAM_POLICY_RESTART,
    "continue": pb.MidstreamPolicy.MIDSTREAM_POLICY_CONTINUE,
}


class Clients:
    """Everybody who asks. `count` grows with every event that anybody gets."""

    def __init__(self, channels: Sequence[grpc.aio.Channel]) -> None:
        """`channels` are to the gateways, each to its own."""
        self._chats: list[Any] = [pb_grpc.ChatServiceStub(channel) for channel in channels]
        # Requests as bytes, because only then the order of their labels is the client's.
        self._stream = [_raw(channel.unary_stream, "StreamChat", pb.StreamChatResponse) for channel in channels]
        self._unary = [_raw(channel.unary_unary, "Chat", pb.ChatResponse) for channel in channels]
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
        ask = Ask(
            plan.tag, str(uuid.uuid4()), MAX_SECONDS, plan.prompt, plan.kind == "continue", bool(plan.conversation)
        )
        self.asks.append(ask)
        spec, here = _spec(plan), int(plan.tag) % len(self._chats)
        there = (here + 1) % len(self._chats) if plan.elsewhere else here
        if plan.patient:
            await self.calm.wait()
        if plan.manner == "two":
            await asyncio.gather(self._ask(plan, ask, spec, here), self._ask(plan, ask, spec, there))
            return
        stop = plan.at if plan.manner in ("leave", "resume", "cancel") or plan.kind == "background" else None
        first = await self._ask(plan, ask, spec, here, stop=stop)
        if plan.manner == "cancel" and first.response:
            await self._cancel(first.response, there)
        if plan.manner == "repeat":
            await self._ask(plan, ask, spec, there, turned=True)
        if plan.manner == "reuse":
            spec.messages[0].parts[0].text += " once more"
            await self._ask(plan, ask, spec, there)
        if not first.response or plan.kind == "unary":
            return
        if plan.manner in ("resume", "cancel") or plan.kind == "background" or first.broken:
            await self._resume(plan, first.response, first.last, there)
            await self._resume(plan, first.response, min(1, first.last), here)
            await self._look(plan, first.response, there)

    async def _ask(
        self, plan: Plan, ask: Ask, spec: pb.ChatSpec, where: int, *, stop: int | None = None, turned: bool = False
    ) -> Seen:
        """Asks; while the gateway cannot be reached, asks again under the same id, as a client does, and at the other."""
        contents = hashlib.sha256(spec.SerializeToString(deterministic=True)).hexdigest()
        whole = plan.kind == "unary"
        for _ in range(_RETRIES):
            request = _wire(spec, ask.request_id, turned=turned)
            seen = Seen(plan.tag, ask.request_id, contents, where=where)
            if whole:
                await self._read_whole(where, request, seen, leave=plan.manner == "leave")
            else:
                await self._read(self._stream[where](request, wait_for_ready=True), seen, stop)
            if not seen.broken or seen.response:
                break
            where, turned = (where + 1) % len(self._chats), not turned
            await asyncio.sleep(0.1)
        return seen

    async def _resume(self, plan: Plan, response: str, after: int, where: int) -> None:
        request = pb.ResumeChatRequest(response=response, after_sequence=after)
        for _ in range(_RETRIES):
            seen = Seen(plan.tag, response=response, after=after, where=where)
            await self._read(self._chats[where].ResumeChat(request, wait_for_ready=True), seen, None)
            if not seen.broken:
                break
            request.after_sequence = after = seen.last
            where = (where + 1) % len(self._chats)
            await asyncio.sleep(0.1)

    async def _cancel(self, response: str, where: int) -> None:
        try:
            await self._chats[where].CancelChat(pb.CancelChatRequest(response=response), timeout=10)
        except grpc.aio.AioRpcError as error:
            # It is a wish; how the response ended is seen below.
            read_failure(error)

    async def _look(self, plan: Plan, response: str, where: int) -> None:
        """Asks for the answer of an ended response in one piece."""
        seen = Seen(plan.tag, response=response, where=where)
        try:
            found = await self._chats[where].GetResponse(pb.GetResponseRequest(response=response), wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            failure, seen.broken = read_failure(error)
            seen.end = failure.reason_name
        else:
            seen.answer, seen.attempts = found.answer.text, _attempts(found.answer.completed)
            completed = found.state == pb.ResponseState.RESPONSE_STATE_COMPLETED
            seen.end = "OK" if completed else from_status(found.error).reason_name
        self.seen.append(seen)

    async def _read_whole(self, where: int, request: bytes, seen: Seen, *, leave: bool) -> None:
        self.seen.append(seen)
        call = self._unary[where](request, wait_for_ready=True, timeout=0.05 if leave else None)
        try:
            answer = (await call).answer
        except grpc.aio.AioRpcError as error:
            failure, seen.broken = read_failure(error)
            # Its deadline ends such a call, and so its response, like one who leaves.
            seen.end = "LEFT" if leave and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else failure.reason_name
        else:
            seen.answer, seen.attempts, seen.end = answer.text, _attempts(answer.completed), "OK"
            seen.response = answer.response
        await self._note(1)

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


def _spec(plan: Plan) -> pb.ChatSpec:
    spec = question(f"say chaos-{plan.prompt}", model="vendor/any")
    spec.labels.update({"tag": plan.tag, "kind": plan.kind, "manner": plan.manner})
    spec.max_duration.FromMilliseconds(int(MAX_SECONDS * 1000))
    spec.detach_grace.FromMilliseconds(int(plan.grace * 1000))
    spec.background = plan.kind == "background"
    spec.midstream_policy = _POLICIES.get(plan.kind, pb.MidstreamPolicy.MIDSTREAM_POLICY_UNSPECIFIED)
    if plan.kind == "hedge":
        spec.fallbacks.append("vendor/other")
        spec.hedge.delay.FromMilliseconds(200)
    if plan.kind == "cached":
        spec.cache = pb.CachePolicy.CACHE_POLICY_USE
    if plan.kind == "json":
        spec.response_format.json_schema.name = "words"
        spec.response_format.json_schema.schema_json = _SCHEMA
    if plan.conversation:
        spec.conversation = plan.conversation
        spec.when_busy = pb.WhenBusy.WHEN_BUSY_QUEUE if plan.queues else pb.WhenBusy.WHEN_BUSY_REFUSE
    if plan.grounded:
        spec.grounding.corpora.append("corpora/chaos")
        spec.grounding.policy = pb.GroundingPolicy.GROUNDING_POLICY_BEST_EFFORT
    return spec


def _raw(kind: Any, method: str, response: Any) -> Any:
    return kind(f"{_CHAT}{method}", request_serializer=None, response_deserializer=response.FromString)


def _wire(spec: pb.ChatSpec, request_id: str, *, turned: bool) -> bytes:
    """Writes a request with its labels from the first to the last, or `turned` around."""
    bare = pb.ChatSpec()
    bare.CopyFrom(spec)
    bare.labels.clear()
    labels = [pb.ChatSpec(labels={name: spec.labels[name]}) for name in sorted(spec.labels, reverse=turned)]
    body = b"".join(part.SerializeToString() for part in (bare, *labels))
    return pb.StreamChatRequest(request_id=request_id).SerializeToString() + _SPEC_KEY + _varint(len(body)) + body


_SPEC_KEY: Final = bytes([pb.StreamChatRequest.SPEC_FIELD_NUMBER << 3 | 2])
assert pb.StreamChatRequest.SPEC_FIELD_NUMBER == pb.ChatRequest.SPEC_FIELD_NUMBER


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])


def _attempts(completed: Completed) -> dict[str, int]:
    return {attempt.attempt_id: attempt.usage.output_tokens for attempt in completed.attempts}


def _seen(number: int, event: Event) -> SeenEvent:
    digest = hashlib.sha256(event.SerializeToString(deterministic=True)).hexdigest()[:16]
    kind = str(event.WhichOneof("kind"))
    discard_from = event.restarted.discard_from
    return SeenEvent(number, kind, digest, event.text_delta.text, _attempts(event.completed), discard_from)
