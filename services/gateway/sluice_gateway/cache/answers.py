"""Answers from the cache: which requests ask for it, what makes two requests the same, and what is worth keeping.

Only an exact repetition is a hit: same tenant, same route with the same targets and parameters, same request but for
what does not reach the model (labels, time limits, how it is watched), and, where it is grounded, the same passages.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import Final

from sluice.chat.v1.event_pb2 import CacheHit, Completed, Event, NoticeCode
from sluice.chat.v1.passage_pb2 import Passage
from sluice.chat.v1.target_pb2 import Target
from sluice.chat.v1.usage_pb2 import FinishReason, Usage
from sluice.gateway.v1.chat_service_pb2 import CachePolicy, ChatSpec
from sluice_gateway.cache.making import Making
from sluice_gateway.cache.store import Entry, Key, Store
from sluice_gateway.config import CacheConfig
from sluice_gateway.pipeline.citations import CitationCollector
from sluice_gateway.pipeline.plan import Plan
from sluice_gateway.pipeline.prompts import Template
from sluice_gateway.responses.log import pack, unpack
from sluice_gateway.responses.response import Response
from sluice_kit.call import Call

# What does not reach the model, or is in the key in another form. Whatever else a request holds makes it another one.
_ASIDE: Final = frozenset(
    {
        "model", "fallbacks", "grounding", "labels", "background", "detach_grace", "max_duration", "midstream_policy",
        "hedge", "when_busy", "cache",
    }
)  # fmt: skip  # names read better side by side
_AGAIN: Final = frozenset({"text_delta", "reasoning_delta", "tool_call_delta", "notice"})
"""Events that a hit streams again. Citations are checked anew; the others tell of attempts and of this response."""
_HARMLESS: Final = frozenset({NoticeCode.NOTICE_CODE_OPTION_DROPPED, NoticeCode.NOTICE_CODE_NO_MODEL})
"""Notices of what would be so every time. An answer with another one is not kept: it was made in want of something."""

_WAIT_SECONDS: Final = 30.0
"""Longest wait for an answer that another request has made."""


class Lookup:
    """One request that may be answered from the cache, and whose answer may be kept."""

    def __init__(
        self, store: Store, making: Making, config: CacheConfig, plan: Plan, spec: ChatSpec, tenant: str
    ) -> None:
        self._store = store
        self._making = making
        self._mine = False
        self._config = config
        self._plan = plan
        self._spec = spec
        self._tenant = tenant
        self._key: Key | None = None

    def find(self, template: Template | None, passages: Sequence[Passage]) -> Entry | None:
        """Returns a kept answer. To be called once, when the passages are known."""
        self._key = self._key_of(template, passages)
        if self._spec.cache == _REFRESH:
            return None
        return self._store.get(self._key)

    async def find_or_wait(self, template: Template | None, passages: Sequence[Passage], call: Call) -> Entry | None:
        """Returns a kept answer; where the same one is being made, waits for it as long as that is worth it.

        To be called once, in place of `find`, and to be followed by `leave`: others wait for what is made here then.
        """
        entry = self.find(template, passages)
        assert self._key is not None  # `find` sets it
        if entry is not None:
            return entry
        self._mine = self._making.begin(self._key)
        if self._mine or self._spec.cache == _REFRESH:
            return None
        # Never longer than for a first token, and there must be time left to make it.
        left = call.time_remaining()
        most = min(self._plan.limits.ttft_seconds, _WAIT_SECONDS)
        await self._making.wait(self._key, most if left is None else min(most, left / 2))
        entry = self._store.get(self._key)
        if entry is None:
            self._mine = self._making.begin(self._key)
        return entry

    def leave(self) -> None:
        """Has nobody wait any longer for what is made here. Doing it again changes nothing."""
        if self._mine and self._key is not None:
            self._mine = False
            self._making.end(self._key)

    def keep(
        self,
        response: Response,
        last: Sequence[Event],
        target: Target,
        collector: CitationCollector | None,
        passages: Sequence[Passage],
    ) -> bool:
        """Keeps the answer of a response that is about to complete, if it is worth it. Returns whether it did.

        `last` are the events that are still to be sent, up to `Completed`.
        """
        completed = last[-1].completed
        ends = {FinishReason.FINISH_REASON_STOP}
        if self._config.tool_calls:
            ends.add(FinishReason.FINISH_REASON_TOOL_CALLS)
        if self._key is None or completed.finish_reason not in ends or response.log.first_sequence != 1:
            return False
        events = [event for batch in response.log.batches() for event in unpack(batch)]
        events += last
        kept: list[Event] = []
        for event in events:
            kind = event.WhichOneof("kind")
            if kind == "restarted" or (kind == "tool_call_delta" and not self._config.tool_calls):
                return False
            if kind == "notice" and event.notice.code not in _HARMLESS:
                return False
            if kind in _AGAIN:
                kept.append(event)
        body = pack(kept)
        size = len(body) + (sum(passage.ByteSize() for passage in passages) if collector is not None else 0)
        finish = Completed(finish_reason=completed.finish_reason, raw_finish_reason=completed.raw_finish_reason)
        entry = Entry(len(kept), body, finish, target, collector, time.time_ns(), size)
        return self._store.put(self._key, entry)

    def _key_of(self, template: Template | None, passages: Sequence[Passage]) -> Key:
        plan, spec = self._plan, ChatSpec()
        spec.CopyFrom(self._spec)
        for name in _ASIDE.intersection(spec.DESCRIPTOR.fields_by_name.keys()):
            spec.ClearField(name)  # type: ignore[arg-type]  # the names are those of fields
        targets = sorted(f"{target.provider}/{target.model}" for target in plan.targets)
        parts = [
            self._tenant.encode(),
            self._spec.model.encode(),
            # What the route leads to: a changed configuration does not give answers of the one before.
            "\n".join(targets).encode(),
            plan.parameters.SerializeToString(deterministic=True) if plan.parameters is not None else b"",
            spec.SerializeToString(deterministic=True),
            b"" if template is None else template.sha256.encode(),
            *(_identity(passage) for passage in passages),
        ]
        digest = hashlib.sha256()
        for part in parts:
            # With its length, so that nothing can move from one part to the next.
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        return Key(self._tenant, digest.digest())


class AnswerCache:
    """The kept answers. One for the whole gateway."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self.store = Store(config)
        self._making = Making()

    def lookup(self, spec: ChatSpec, plan: Plan, tenant: str) -> Lookup | None:
        """Returns how to look up a request; None if it does not want that, or goes on with a conversation."""
        policy = spec.cache
        wanted = plan.limits.cache if policy == _UNSPECIFIED else policy != _OFF
        if not wanted or not self._config.total_bytes:
            return None
        if any(field.name == "conversation" for field, _ in spec.ListFields()):
            return None  # what was said before is not in the request
        return Lookup(self.store, self._making, self._config, plan, spec, tenant)


# Looked up once: the enums of protobuf resolve a name anew each time.
_OFF: Final = CachePolicy.CACHE_POLICY_OFF
_REFRESH: Final = CachePolicy.CACHE_POLICY_REFRESH
_UNSPECIFIED: Final = CachePolicy.CACHE_POLICY_UNSPECIFIED


def completed_from(entry: Entry) -> Completed:
    """Returns the `Completed` of a hit: it used nothing and cost nothing."""
    completed = Completed(cached=CacheHit(target=entry.target), usage=Usage(), cost_nano_usd=0)
    completed.MergeFrom(entry.completed)
    completed.cached.create_time.FromNanoseconds(entry.create_time_ns)
    return completed


def _identity(passage: Passage) -> bytes:
    """Returns what of a passage reaches the model or its citations: all but how well it matched."""
    bare = Passage()
    bare.CopyFrom(passage)
    bare.ClearField("score")
    bare.ClearField("match")
    return bare.SerializeToString(deterministic=True)
