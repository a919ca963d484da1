"""Folds the events of one answer into an answer: the gateway does it for `Chat`, clients for themselves."""

from copy import deepcopy

from sluice.chat.v1 import event_pb2, message_pb2, passage_pb2, target_pb2
from sluice.chat.v1.message_pb2 import Part, Reasoning, ToolCall
from sluice.gateway.v1.chat_service_pb2 import Answer

_ASSISTANT = message_pb2.MessageRole.MESSAGE_ROLE_ASSISTANT


class _Block:
    """One block of an answer while it grows: its pieces, each with the number of its event."""

    __slots__ = ("custom", "kind", "name", "pieces", "states", "tool_id")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pieces: list[tuple[int, str]] = []
        self.states: list[tuple[int, bytes]] = []
        self.tool_id = ""
        self.name = ""
        self.custom = False

    def text(self) -> str:
        return "".join(piece for _, piece in self.pieces)


class Fold:
    """Takes events in order and gives the answer they add up to, at any time.

    Blocks are ordered by their index; `Restarted` voids the content from the number it names.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self._citations: list[tuple[int, passage_pb2.Citation]] = []
        self._passages: list[passage_pb2.Passage] = []
        self._notices: list[event_pb2.Notice] = []
        self._target: target_pb2.Target | None = None
        self._completed: event_pb2.Completed | None = None
        self._response = ""

    def copy(self) -> "Fold":
        """Returns a fold that goes on from here on its own."""
        return deepcopy(self)

    def add(self, sequence: int, event: event_pb2.Event) -> None:
        """Takes the next event and its number."""
        match event.WhichOneof("kind"):
            case "text_delta":
                delta = event.text_delta
                self._block(delta.block_index, "text").pieces.append((sequence, delta.text))
            case "reasoning_delta":
                block = self._block(event.reasoning_delta.block_index, "reasoning")
                block.pieces.append((sequence, event.reasoning_delta.text))
                block.states.append((sequence, event.reasoning_delta.state))
            case "tool_call_delta":
                self._add_tool(sequence, event.tool_call_delta)
            case "citation":
                self._citations.append((sequence, event.citation))
            case "retrieved":
                self._passages = list(event.retrieved.passages)
            case "notice":
                self._notices.append(event.notice)
            case "accepted":
                self._response = event.accepted.response
                if event.accepted.targets:
                    self._target = event.accepted.targets[0]
            case "route_changed":
                self._target = event.route_changed.target
            case "restarted":
                self._discard(event.restarted.discard_from)
            case "completed":
                self._completed = event.completed
                if event.completed.HasField("cached"):
                    self._target = event.completed.cached.target

    def _block(self, index: int, kind: str) -> _Block:
        block = self._blocks.get(index)
        if block is None:
            block = self._blocks[index] = _Block(kind)
        return block

    def _add_tool(self, sequence: int, delta: event_pb2.ToolCallDelta) -> None:
        block = self._block(delta.block_index, "tool_call")
        block.tool_id = block.tool_id or delta.id
        block.name = block.name or delta.name
        if delta.WhichOneof("input") == "input_text":
            block.custom = True
            block.pieces.append((sequence, delta.input_text))
        else:
            block.pieces.append((sequence, delta.arguments_json))

    def _discard(self, first: int) -> None:
        for index, block in list(self._blocks.items()):
            block.pieces = [piece for piece in block.pieces if piece[0] < first]
            block.states = [state for state in block.states if state[0] < first]
            if not block.pieces:
                del self._blocks[index]
        self._citations = [citation for citation in self._citations if citation[0] < first]

    def text(self) -> str:
        """Returns the text so far, all text blocks joined in their order."""
        return "".join(block.text() for _, block in sorted(self._blocks.items()) if block.kind == "text")

    def citations(self) -> list[passage_pb2.Citation]:
        """Returns the checked citations so far."""
        return [citation for _, citation in self._citations]

    def passages(self) -> list[passage_pb2.Passage]:
        """Returns the passages the answer is grounded in, best first."""
        return list(self._passages)

    def answer(self) -> Answer:
        """Returns the answer so far; `completed` is set only if it came to its end."""
        # Written in place: what is handed to a constructor is copied, level by level.
        answer = Answer(response=self._response, text=self.text())
        message = answer.message
        message.role = _ASSISTANT
        for _, block in sorted(self._blocks.items()):
            self._write(block, message.parts.add())
        answer.citations.extend(self.citations())
        answer.passages.extend(self._passages)
        answer.notices.extend(self._notices)
        if self._target is not None:
            answer.target.CopyFrom(self._target)
        if self._completed is not None:
            answer.completed.CopyFrom(self._completed)
        return answer

    def _write(self, block: _Block, part: Part) -> None:
        text = block.text()
        if block.kind == "text":
            part.text = text
        elif block.kind == "reasoning":
            provider = self._target.provider if self._target is not None else ""
            state = b"".join(state for _, state in block.states)
            part.reasoning.CopyFrom(Reasoning(text=text, provider=provider, state=state))
        elif block.custom:
            part.tool_call.CopyFrom(ToolCall(id=block.tool_id, name=block.name, input_text=text))
        else:
            part.tool_call.CopyFrom(ToolCall(id=block.tool_id, name=block.name, arguments_json=text))
