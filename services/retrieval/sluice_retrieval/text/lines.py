"""Lines of a text, as editors, git and citations count them.

A line ends with a line feed; a carriage return before it belongs to the line. Lines are numbered from 1, and a text
that ends with a line feed has no further, empty line after it.
"""

import hashlib
from collections.abc import Sequence


def decode(data: bytes) -> str:
    """Returns a file's text. Bytes that are not UTF-8 read as U+FFFD, always the same way, so that hashes hold."""
    return data.decode("utf-8", errors="replace")


def split_lines(text: str) -> list[str]:
    """Returns the lines with their ends; joined, they are the text again."""
    lines = text.split("\n")
    last = lines.pop()
    lines = [line + "\n" for line in lines]
    if last:
        lines.append(last)
    return lines


def join_lines(lines: Sequence[str], start_line: int, end_line: int) -> str:
    """Returns lines `start_line` to `end_line`, inclusive, from 1."""
    return "".join(lines[start_line - 1 : end_line])


def text_sha256(text: str) -> str:
    """Returns the lower-case hex SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def estimate_tokens(text: str) -> int:
    """Returns about how many tokens a model sees: one for every four bytes, which is near for prose and code."""
    return (len(text.encode()) + 3) // 4
