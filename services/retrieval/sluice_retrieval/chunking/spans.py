"""What a chunk is, and how blocks of lines are packed into chunks."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

MAX_CONTEXT_CHARS: Final = 400


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """How large chunks are, in characters."""

    target: int = 1600
    """A chunk is closed rather than grown beyond this."""
    small: int = 400
    """A class or section up to this size stays whole, and the smallest definitions join up to it."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines of one file: `start_line` to `end_line`, inclusive, from 1."""

    start_line: int
    end_line: int
    symbol: str = ""
    """Dotted path of the enclosing definition, or the path of headings joined by ` > `."""
    context: str = ""
    """Lines around it that say where it belongs, e.g. the signature of its class. Indexed with it, not shown."""


class Block(NamedTuple):
    """Lines that are better not torn apart: [start, end) as indexes from 0."""

    start: int
    end: int


class Text:
    """The lines of a file, and how many characters lie between any two of them."""

    __slots__ = ("_offsets", "lines")

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines
        self._offsets = [0, *itertools.accumulate(map(len, lines))]

    def __len__(self) -> int:
        return len(self.lines)

    def size(self, start: int, end: int) -> int:
        """Returns the characters in lines [start, end)."""
        return self._offsets[end] - self._offsets[start]

    def blank(self, start: int, end: int) -> bool:
        """Tells whether lines [start, end) hold nothing."""
        return all(not line.strip() for line in self.lines[start:end])

    def head(self, start: int, end: int) -> str:
        """Returns lines [start, end), cut to what fits a context."""
        return "".join(self.lines[start:end])[:MAX_CONTEXT_CHARS]


def trim(text: Text, start: int, end: int) -> tuple[int, int]:
    """Returns [start, end) without blank lines at either end; empty if all are blank."""
    lines = text.lines
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return start, end


def paragraph_rows(text: Text, start: int, end: int) -> Iterator[int]:
    """Yields the rows inside [start, end) that follow a blank one."""
    lines = text.lines
    for row in range(start + 1, end):
        if lines[row].strip() and not lines[row - 1].strip():
            yield row


def blocks_between(start: int, end: int, rows: Iterable[int]) -> Iterator[Block]:
    """Yields [start, end) as the blocks between ascending rows."""
    for row in rows:
        if start < row < end:
            yield Block(start, row)
            start = row
    if start < end:
        yield Block(start, end)


def pack(text: Text, blocks: Iterable[Block], target: int) -> Iterator[Block]:
    """Joins consecutive blocks up to `target` characters, and cuts a block that is larger between its lines.

    A piece of less than an eighth of that, such as a heading, is never left alone before a larger block.
    """
    begin = end = -1
    held = 0
    for block in blocks:
        chars = text.size(block.start, block.end)
        if begin >= 0 and held + chars > target:
            if held * 8 < target:
                block, chars = Block(begin, block.end), held + chars
            else:
                yield Block(begin, end)
            begin = -1
        if chars > target:
            yield from cut(text, block, target)
            continue
        if begin < 0:
            begin, held = block.start, 0
        end = block.end
        held += chars
    if begin >= 0:
        yield Block(begin, end)


def cut(text: Text, block: Block, target: int) -> Iterator[Block]:
    """Cuts a block into pieces of at most `target` characters; a line that is longer makes a piece of its own."""
    begin, held = block.start, 0
    for index in range(block.start, block.end):
        chars = len(text.lines[index])
        if index > begin and held + chars > target:
            yield Block(begin, index)
            begin, held = index, 0
        held += chars
    if begin < block.end:
        yield Block(begin, block.end)


def chunks_of(text: Text, blocks: Iterable[Block], symbol: str, context: str = "") -> Iterator[Chunk]:
    """Makes chunks of blocks, without the blank lines around them."""
    for block in blocks:
        start, end = trim(text, block.start, block.end)
        if start < end:
            yield Chunk(start + 1, end, symbol, context)
