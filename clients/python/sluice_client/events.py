"""Single events with their numbers, and their fold into one answer."""

from collections.abc import Iterable
from typing import NamedTuple

from sluice.chat.v1 import event_pb2, message_pb2, passage_pb2, target_pb2
from sluice.gateway.v1 import chat_service_pb2
from sluice.task.v1 import task_service_pb2


class NumberedEvent(NamedTuple):
    """One event of an answer and its number, from 1."""

    sequence: int
    event: event_pb2.Event

    @property
    def kind(self) -> str:
        """Name of the event's kind, e.g. `text_delta`."""
        return self.event.WhichOneof("kind") or ""


class NumberedTaskEvent(NamedTuple):
    """One event of a task and its number, from 1."""

    sequence: int
    task: task_service_pb2.Task


class Fold:
    """Puts the events of one answer together.

    Feed every event in order; `answer()` and `text()` may be asked at any time.
    """

    def __init__(self) -> None:
        self._content: list[NumberedEvent] = []
        self._answer = chat_service_pb2.Answer()
        self._target = target_pb2.Target()

    def add(self, item: NumberedEvent) -> None:
        """Takes the next event."""
        event, answer = item.event, self._answer
        match event.WhichOneof("kind"):
            case "text_delta" | "reasoning_delta" | "tool_call_delta" | "citation":
                self._content.append(item)
            case "restarted":
                void_from = event.restarted.discard_from
                self._content = [one for one in self._content if one.sequence < void_from]
            case "accepted":
                answer.response = event.accepted.response
                if event.accepted.targets:
                    self._target.CopyFrom(event.accepted.targets[0])
            case "route_changed":
                self._target.CopyFrom(event.route_changed.target)
            case "retrieved":
                del answer.passages[:]
                answer.passages.extend(event.retrieved.passages)
            case "notice":
                answer.notices.append(event.notice)
            case "completed":
                answer.completed.CopyFrom(event.completed)

    def text(self) -> str:
        """Returns the text so far, all blocks joined in their order."""
        return "".join(text for _, text in sorted(self._texts().items()))

    def citations(self) -> list[passage_pb2.Citation]:
        """Returns the checked citations so far."""
        return [item.event.citation for item in self._content if item.event.HasField("citation")]

    def passages(self) -> Iterable[passage_pb2.Passage]:
        """Returns the passages the answer is grounded in, best first."""
        return list(self._answer.passages)

    def answer(self) -> chat_service_pb2.Answer:
        """Returns the answer so far; `completed` is set only if it came to its end."""
        answer = chat_service_pb2.Answer()
        answer.CopyFrom(self._answer)
        answer.message.role = message_pb2.MESSAGE_ROLE_ASSISTANT
        answer.message.parts.extend(part for _, part in sorted(self._parts().items()))
        answer.text = self.text()
        answer.citations.extend(self.citations())
        answer.target.CopyFrom(self._target)
        return answer

    def _texts(self) -> dict[int, str]:
        pieces: dict[int, list[str]] = {}
        for item in self._content:
            if item.event.HasField("text_delta"):
                pieces.setdefault(item.event.text_delta.block_index, []).append(item.event.text_delta.text)
        return {index: "".join(texts) for index, texts in pieces.items()}

    def _parts(self) -> dict[int, message_pb2.Part]:
        parts = {index: message_pb2.Part(text=text) for index, text in self._texts().items()}
        for item in self._content:
            event = item.event
            if event.HasField("reasoning_delta"):
                reasoning = parts.setdefault(event.reasoning_delta.block_index, message_pb2.Part()).reasoning
                reasoning.text += event.reasoning_delta.text
                reasoning.state += event.reasoning_delta.state
                reasoning.provider = self._target.provider
            elif event.HasField("tool_call_delta"):
                delta = event.tool_call_delta
                call = parts.setdefault(delta.block_index, message_pb2.Part()).tool_call
                call.id = call.id or delta.id
                call.name = call.name or delta.name
                if delta.HasField("input_text"):
                    call.input_text += delta.input_text
                else:
                    call.arguments_json += delta.arguments_json
        return parts
