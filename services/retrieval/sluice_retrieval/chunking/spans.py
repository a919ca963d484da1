"""What a chunk is, and how blocks of lines are packed into chunks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """How large chunks are, in characters."""

    target: int = 1600
    """A chunk is closed rather than grown beyond this."""
    small: int = 400
    """A definition or section up to this size joins its neighbours of the same parent."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines of one file: `start_line` to `end_line`, inclusive, from 1."""

    start_line: int
    end_line: int
    symbol: str = ""
    """Dotted path of the enclosing definition, or the path of headings joined by ` > `."""
    context: str = ""
    """Lines around it that say where it belongs, e.g. the signature of its class. Indexed with it, not shown."""


@dataclass(frozen=True, slots=True)
class Block:
    """Lines that are better not torn apart: [start, end) as indexes from 0."""

    start: int
    end: int


def size(lines: Sequence[str], start: int, end: int) -> int:
    """Returns the characters in lines [start, end)."""
    return sum(map(len, lines[start:end]))


def trim(lines: Sequence[str], start: int, end: int) -> tuple[int, int]:
    """Returns [start, end) without blank lines at either end; empty if all are blank."""
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return start, end


def paragraphs(lines: Sequence[str], start: int, end: int) -> list[Block]:
    """Returns lines [start, end) as blocks that each end before a line that follows blank ones."""
    blocks: list[Block] = []
    begin = start
    for index in range(start + 1, end):
        if lines[index].strip() and not lines[index - 1].strip():
            blocks.append(Block(begin, index))
            begin = index
    if begin < end:
        blocks.append(Block(begin, end))
    return blocks


def pack(lines: Sequence[str], blocks: Sequence[Block], target: int) -> Iterator[Block]:
    """Joins consecutive blocks up to `target` characters, and cuts a block that is larger between its lines.

    A piece of less than an eighth of that, such as a heading, is never left alone before a larger block.
    """
    begin = end = -1
    held = 0
    for block in blocks:
        chars = size(lines, block.start, block.end)
        if begin >= 0 and held + chars > target:
            if held * 8 < target:
                block, chars = Block(begin, block.end), held + chars
            else:
                yield Block(begin, end)
            begin = -1
        if chars > target:
            yield from cut(lines, block, target)
            continue
        if begin < 0:
            begin, held = block.start, 0
        end = block.end
        held += chars
    if begin >= 0:
        yield Block(begin, end)


def cut(lines: Sequence[str], block: Block, target: int) -> Iterator[Block]:
    """Cuts a block into pieces of at most `target` characters; a line that is longer makes a piece of its own."""
    begin, held = block.start, 0
    for index in range(block.start, block.end):
        chars = len(lines[index])
        if index > begin and held + chars > target:
            yield Block(begin, index)
            begin, held = index, 0
        held += chars
    if begin < block.end:
        yield Block(begin, block.end)


def chunks_of(lines: Sequence[str], blocks: Iterator[Block], symbol: str, context: str = "") -> Iterator[Chunk]:
    """Makes chunks of blocks, without the blank lines around them."""
    for block in blocks:
        start, end = trim(lines, block.start, block.end)
        if start < end:
            yield Chunk(start + 1, end, symbol, context)
