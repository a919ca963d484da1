"""History: what was said before, made into what one model is told of it.

Nothing here waits or writes: the cut is a function of the turns, of the request, of who will read it, and of how many
tokens there are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sluice.chat.v1.message_pb2 import Message, MessageRole, Part
from sluice.provider.v1.provider_service_pb2 import GenerateRequest

MARGIN: Final = 0.35
"""The true count of tokens lies within the estimate × (1 ± this)."""
_BYTES_PER_TOKEN: Final = 3.6
_PER_MESSAGE: Final = 4
_PER_IMAGE: Final = 1500
_TOOL: Final = MessageRole.MESSAGE_ROLE_TOOL


@dataclass(frozen=True, slots=True)
class PastTurn:
    """A turn that has its answer. The messages are shared: they are never changed."""

    number: int
    question: tuple[Message, ...]
    answer: Message


@dataclass(frozen=True, slots=True)
class Group:
    """Turns that belong together, as messages: calls of tools are never parted from their results."""

    turns: int
    messages: tuple[Message, ...]
    tokens: int
    """As estimated."""


def groups(turns: Sequence[PastTurn], request: Sequence[Message], provider: str) -> list[Group]:
    """Returns the history as a provider may read it, oldest first, in groups that are kept or left out as a whole.

    A turn whose answer called tools and the turn that brought their results are one group. `request` is what comes
    next: its results, too, belong to the last group, which then is bound to it (see `is_bound`). Calls that nobody
    answered and results that nobody asked for are left out, because a vendor refuses them, and so is reasoning of
    another provider.
    """
    found: list[Group] = []
    messages: list[Message] = []
    count, asked = 0, frozenset[str]()
    for index, turn in enumerate(turns):
        following = turns[index + 1].question if index + 1 < len(turns) else request
        answered = _calls(turn.answer) & _results(following)
        messages.extend(_question(turn.question, asked))
        answer = _answer(turn.answer, answered, provider)
        if answer is not None:
            messages.append(answer)
        count += 1
        asked = answered
        if not answered or index + 1 == len(turns):
            if messages:
                found.append(Group(count, tuple(messages), estimate(messages)))
            messages, count = [], 0
    return found


def is_bound(turns: Sequence[PastTurn], request: Sequence[Message]) -> bool:
    """Whether the request brings results that the last turn asked for: then that one is not left out."""
    return bool(turns) and bool(_calls(turns[-1].answer) & _results(request))


def cut(tokens: Sequence[int], counts: Sequence[int], budget: float, room: int, *, bound: bool) -> int:
    """Returns how many of the oldest groups are left out, so that the rest fits: the fewest that do.

    `tokens` and `counts` are the groups' tokens and messages, `budget` and `room` how many of each there may be. With
    `bound` the newest group stays, whatever it takes.
    """
    kept = len(tokens)
    if bound and kept:
        kept -= 1
        budget -= tokens[kept]
        room -= counts[kept]
    while kept and tokens[kept - 1] <= budget and counts[kept - 1] <= room:
        kept -= 1
        budget -= tokens[kept]
        room -= counts[kept]
    return kept


def estimate(messages: Iterable[Message]) -> int:
    """Returns the estimated tokens of messages."""
    return sum(_PER_MESSAGE + sum(map(_part_tokens, message.parts)) for message in messages)


def estimate_request(request: GenerateRequest) -> int:
    """Returns the estimated tokens of all that a request tells the model."""
    text = len(request.system_instruction.encode()) + len(request.grounding_instruction.encode())
    text += sum(tool.ByteSize() for tool in request.tools)
    return estimate(request.messages) + _tokens(text) + estimate_passages(request)


def estimate_passages(request: GenerateRequest) -> int:
    """Returns the estimated tokens of a request's passages, which counters of vendors do not see."""
    return sum(_tokens(len(passage.text.encode()) + len(passage.path)) for passage in request.passages)


def _tokens(size: int) -> int:
    return -(-size * 10 // round(_BYTES_PER_TOKEN * 10))


def _part_tokens(part: Part) -> int:
    match part.WhichOneof("kind"):
        case "text":
            return _tokens(len(part.text.encode()))
        case "image":
            return _PER_IMAGE
        case "file":
            return _tokens(len(part.file.data)) + _PER_MESSAGE
        case _:  # calls, results, and reasoning with its sealed state: all of it is read again
            return _tokens(part.ByteSize())


def _calls(message: Message) -> frozenset[str]:
    return frozenset(part.tool_call.id for part in message.parts if part.WhichOneof("kind") == "tool_call")


def _results(messages: Sequence[Message]) -> frozenset[str]:
    """Returns the ids that the messages at the beginning bring results of."""
    ids: set[str] = set()
    for message in messages:
        if message.role != _TOOL:
            break
        ids.update(part.tool_result.call_id for part in message.parts if part.WhichOneof("kind") == "tool_result")
    return frozenset(ids)


def _question(messages: Sequence[Message], asked: frozenset[str]) -> Iterable[Message]:
    """Yields a turn's question without the results at its beginning that nobody asked for."""
    leading = True
    for message in messages:
        leading = leading and message.role == _TOOL
        if not leading or _results([message]) <= asked:
            yield message
            continue
        parts = [part for part in message.parts if part.tool_result.call_id in asked]
        if parts:
            yield Message(role=message.role, parts=parts)


def _answer(message: Message, answered: frozenset[str], provider: str) -> Message | None:
    """Returns an answer as a provider may read it; None if nothing of it is left."""
    unanswered = bool(_calls(message) - answered)
    parts = []
    for part in message.parts:
        match part.WhichOneof("kind"):
            case "tool_call":
                keep = part.tool_call.id in answered
            case "reasoning":
                # Vendors that seal reasoning check that what it led to follows it.
                keep = part.reasoning.provider == provider and (bool(answered) or not unanswered)
            case "text":
                keep = bool(part.text)
            case _:
                keep = True
        if keep:
            parts.append(part)
    said = any(part.WhichOneof("kind") != "reasoning" for part in parts)
    return Message(role=message.role, parts=parts) if said else None
