"""Folds a response's events into an answer."""

from collections.abc import Iterable
from copy import deepcopy

from sluice.chat.v1 import event_pb2, message_pb2, passage_pb2, target_pb2
from sluice.chat.v1.message_pb2 import Message, Part, Reasoning, ToolCall
from sluice.gateway.v1.chat_service_pb2 import Answer


class _Block:
    """One block of an answer while it grows."""

    __slots__ = ("custom", "kind", "name", "pieces", "state", "tool_id")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pieces: list[str] = []
        self.state = b""
        self.tool_id = ""
        self.name = ""
        self.custom = False


class Folder:
    """Takes events in order and gives the answer they add up to at any time.

    Blocks are ordered by their index; `Restarted` voids what came since the sequence it names.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self._citations: list[passage_pb2.Citation] = []
        self._passages: list[passage_pb2.Passage] = []
        self._notices: list[event_pb2.Notice] = []
        self._target: target_pb2.Target | None = None
        self._completed: event_pb2.Completed | None = None

    def copy(self) -> "Folder":
        """Returns a folder that goes on from here on its own."""
        return deepcopy(self)

    def add(self, events: Iterable[event_pb2.Event]) -> None:
        """Takes more events."""
        for event in events:
            kind = event.WhichOneof("kind")
            if kind == "text_delta":
                self._block(event.text_delta.block_index, "text").pieces.append(event.text_delta.text)
            elif kind == "reasoning_delta":
                block = self._block(event.reasoning_delta.block_index, "reasoning")
                block.pieces.append(event.reasoning_delta.text)
                block.state += event.reasoning_delta.state
            elif kind == "tool_call_delta":
                self._tool(event.tool_call_delta)
            elif kind == "citation":
                self._citations.append(event.citation)
            elif kind == "retrieved":
                self._passages = list(event.retrieved.passages)
            elif kind == "notice":
                self._notices.append(event.notice)
            elif kind == "accepted":
                if event.accepted.targets:
                    self._target = event.accepted.targets[0]
            elif kind == "route_changed":
                self._target = event.route_changed.target
            elif kind == "restarted":
                self._blocks.clear()
                self._citations.clear()
            elif kind == "completed":
                self._completed = event.completed

    def _block(self, index: int, kind: str) -> _Block:
        block = self._blocks.get(index)
        if block is None:
            block = self._blocks[index] = _Block(kind)
        return block

    def _tool(self, delta: event_pb2.ToolCallDelta) -> None:
        block = self._block(delta.block_index, "tool_call")
        block.tool_id = block.tool_id or delta.id
        block.name = block.name or delta.name
        if delta.WhichOneof("input") == "input_text":
            block.custom = True
            block.pieces.append(delta.input_text)
        else:
            block.pieces.append(delta.arguments_json)

    def answer(self, response: str) -> Answer:
        """Returns the answer so far. `response` is its resource name."""
        answer = Answer(
            response=response,
            citations=self._citations,
            passages=self._passages,
            notices=self._notices,
            target=self._target,
            completed=self._completed,
        )
        parts: list[Part] = []
        texts: list[str] = []
        for _, block in sorted(self._blocks.items()):
            joined = "".join(block.pieces)
            if block.kind == "text":
                texts.append(joined)
                parts.append(Part(text=joined))
            elif block.kind == "reasoning":
                provider = self._target.provider if self._target is not None else ""
                parts.append(Part(reasoning=Reasoning(text=joined, provider=provider, state=block.state)))
            elif block.custom:
                parts.append(Part(tool_call=ToolCall(id=block.tool_id, name=block.name, input_text=joined)))
            else:
                parts.append(Part(tool_call=ToolCall(id=block.tool_id, name=block.name, arguments_json=joined)))
        answer.text = "".join(texts)
        if parts:
            answer.message.CopyFrom(Message(role=message_pb2.MessageRole.MESSAGE_ROLE_ASSISTANT, parts=parts))
        return answer
