"""Query: what to search for, made of the question and, for one that goes on with a dialogue, of what was asked before.

A question such as "and its timeout?" names little that could be found. So it is followed by earlier questions, the
newest first, until there are words enough to search for; one that says enough by itself stays alone, because every word
more draws a search by words away from it. Answers are left out: measured with `tests/e2e/test_dialogues.py`, even the
last sentences of one find less than nothing, because they share their words with the passages that are known already.
"""

import re
from collections.abc import Sequence
from itertools import chain
from typing import Final

from sluice.chat.v1.message_pb2 import Message, MessageRole

_MAX_QUERY_CHARS: Final = 65536
_ENOUGH_WORDS: Final = 6
"""Distinct words from which on a question is searched for alone."""
_WORD: Final = re.compile(r"\w{4,}")
"""Shorter ones say little in most languages."""
_MAX_TURN_CHARS: Final = 300
_MAX_TURNS: Final = 4


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


def search_query(messages: Sequence[Message], past: Sequence[Message] = ()) -> str:
    """Returns what to search for: the question first, then as many questions before it as are needed.

    `past` is what was said before the messages, oldest first. The same dialogue gives the same query.
    """
    question, place = question_of(messages)
    query = question[:_MAX_QUERY_CHARS]
    words = _words(query)
    turns = 0
    for message in chain(reversed(messages[:place]), reversed(past)):
        if len(words) >= _ENOUGH_WORDS or turns == _MAX_TURNS:
            break
        if message.role == MessageRole.MESSAGE_ROLE_USER and (text := _beginning(text_of(message))):
            query += "\n" + text
            words |= _words(text)
            turns += 1
    return query


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


def _beginning(text: str) -> str:
    """Returns the beginning of a text, cut between two words where it is cut."""
    if len(text) <= _MAX_TURN_CHARS:
        return text
    cut = text[: _MAX_TURN_CHARS + 1]
    return cut.rsplit(None, 1)[0][:_MAX_TURN_CHARS]
