"""What tests of the Responses format share: reasoning that goes back, and what events amount to."""

from __future__ import annotations

from typing import Any

from sluice.chat.v1 import event_pb2, message_pb2
from sluice.provider.v1 import provider_service_pb2 as pb

from .asked import ASSISTANT, USER
from .subject import asking


def returning(provider: str, state: bytes) -> pb.GenerateRequest:
    """A request that returns reasoning."""
    request = asking("vendor", "m")
    part = message_pb2.Part(reasoning=message_pb2.Reasoning(text="Hm.", provider=provider, state=state))
    request.messages.add(role=ASSISTANT, parts=[part, message_pb2.Part(text="Yes.")])
    request.messages.add(role=USER, parts=[message_pb2.Part(text="And?")])
    return request


def reasoning_of(events: list[event_pb2.Event]) -> tuple[str, bytes]:
    """Returns the text and the state of all reasoning."""
    deltas = [event.reasoning_delta for event in events if event.HasField("reasoning_delta")]
    return "".join(delta.text for delta in deltas), b"".join(delta.state for delta in deltas)


def joined(events: list[event_pb2.Event]) -> list[Any]:
    """Returns what events amount to, however the text was cut: each block, and the end."""
    blocks: dict[int, dict[str, Any]] = {}
    for item in events:
        kind = item.WhichOneof("kind") or ""
        if kind in ("text_delta", "reasoning_delta", "tool_call_delta"):
            delta = getattr(item, kind)
            block = blocks.setdefault(delta.block_index, {"kind": kind})
            for field, value in delta.ListFields():
                if field.name != "block_index":
                    block[field.name] = block[field.name] + value if field.name in block else value
    return [blocks, events[-1].completed]
