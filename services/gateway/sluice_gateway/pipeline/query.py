"""Query: what to search for, made of the question and, for one that goes on with a dialogue, of what was said before."""

from collections.abc import Sequence
from typing import Final

from sluice.chat.v1.message_pb2 import Message, MessageRole

_MAX_QUERY_CHARS: Final = 65536


def question_of(messages: Sequence[Message]) -> tuple[str, int]:
    """Returns the text of the last user message that has text, and its place; nothing and 0 where there is none."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == MessageRole.MESSAGE_ROLE_USER:
            text = text_of(messages[index])
            if text:
                return text, index
    return "", 0


def text_of(message: Message) -> str:
    """Returns the text of a message, without what else it holds."""
    return "\n".join(part.text for part in message.parts if part.WhichOneof("kind") == "text").strip()


def search_query(messages: Sequence[Message]) -> str:
    """Returns what to search for."""
    return question_of(messages)[0][:_MAX_QUERY_CHARS]
