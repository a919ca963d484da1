"""How an outline becomes chunks, whatever the language.

A front end (a grammar, headings, indentation) tells where definitions lie and at which rows the lines between them may
be cut, in order; what is a chunk is decided here alone. A definition that fits stays whole. One that does not is
opened: its head and the statements between its inner definitions are packed, and each of these is looked at in turn.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from sluice_retrieval.chunking.spans import (
    MAX_CONTEXT_CHARS,
    Block,
    Chunk,
    ChunkSizes,
    Text,
    blocks_between,
    chunks_of,
    cut,
    pack,
)

MAX_NESTING: Final = 48
"""Definitions within definitions; what is nested deeper is cut by lines."""
_MAX_SCRAP_LINES: Final = 6
_MAX_SCRAP_CHARS: Final = 120
# What closes something and says nothing by itself: brackets, `end`, `#endif`, a comment beside a bracket.
_SCRAP: Final = re.compile(r"\s*(?:end\b)?[\W_]*|\s*#\s*(?:endif|else)\b.*\s*|\s*[})\]][})\];,\s]*(?://|/\*).*\s*")

# What opens something, likewise.
_OPENER: Final = re.compile(
    r"[\W_]*|\s*#\s*if(?:n?def)?\b.*\s*|\s*(?:type|extern\s+\"C\"|class\s*<<\s*self)\s*[({]?\s*"
)


@dataclass(frozen=True, slots=True)
class Definition:
    """Something with a name that owns lines [start, end)."""

    start: int
    end: int
    name: str
    opened: Callable[[], "Outline"]
    """Returns what is inside, in order."""
    head_end: int
    """Row at which its head, e.g. its signature, ends."""
    head_start: int
    """Row at which its head begins, after the comments above."""
    whole: int
    """Characters up to which it is not opened."""
    tiny: int = 0
    """Characters up to which it joins neighbours of the same parent."""
    joined: int = 0
    """Characters up to which they join."""
    has_context: bool = True
    """Whether its head is the context of what is inside."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """From here on, names are within this one: a namespace that has no braces."""

    name: str


Outline = Iterable[int | Definition | Prefix]
"""Rows before which lines may be cut, ascending, and definitions, in order and without overlap."""


def chunks_along(text: Text, outline: Outline, sizes: ChunkSizes, separator: str = ".") -> list[Chunk]:
    """Returns the chunks of a text: in order, without overlap, every line that is not blank in exactly one."""
    made = _Packer(text, sizes, separator).level(outline, 0, len(text), "", "", "", 0)
    return _without_scraps(text, made)


class _Packer:
    def __init__(self, text: Text, sizes: ChunkSizes, separator: str) -> None:
        self._text = text
        self._sizes = sizes
        self._separator = separator

    def level(
        self, outline: Outline, start: int, end: int, symbol: str, context: str, outer: str, depth: int
    ) -> Iterator[Chunk]:
        """Yields the chunks of lines [start, end). The first ones, which hold the head itself, have context `outer`."""
        at = start
        rows: list[int] = []
        run: list[Definition] = []
        for item in outline:
            if isinstance(item, int):
                rows.append(item)
                continue
            if isinstance(item, Prefix):
                symbol = self._join(symbol, item.name)
                continue
            if item.start < at or item.end > end or item.end <= item.start:
                continue
            between = not self._text.blank(at, item.start)
            if run and (between or not self._joins(run, item)):
                yield from self._run(run, symbol, context)
                run = []
            if between:
                yield from self._statements(at, item.start, rows, symbol, outer if at == start else context)
            rows = []
            at = item.end
            if self._text.size(item.start, item.end) <= item.whole:
                run.append(item)
                continue
            yield from self._run(run, symbol, context)
            run = []
            yield from self._opened(item, self._join(symbol, item.name), context, depth)
        yield from self._run(run, symbol, context)
        yield from self._statements(at, end, rows, symbol, outer if at == start else context)

    def _opened(self, found: Definition, symbol: str, context: str, depth: int) -> Iterator[Chunk]:
        if depth >= MAX_NESTING:
            blocks = cut(self._text, Block(found.start, found.end), self._sizes.target)
            yield from chunks_of(self._text, blocks, symbol, context)
            return
        inner = context
        if found.has_context:
            inner = f"{context}{self._text.head(found.head_start, found.head_end)}"[-MAX_CONTEXT_CHARS:]
        yield from self.level(found.opened(), found.start, found.end, symbol, inner, context, depth + 1)

    def _joins(self, run: list[Definition], item: Definition) -> bool:
        """Tells whether a definition goes on with those before: all are tiny, or all are one, such as overloads."""
        size, first = self._text.size, run[0]
        chars = size(first.start, item.end)
        if chars <= item.joined and size(item.start, item.end) <= item.tiny:
            return all(size(one.start, one.end) <= one.tiny for one in run)
        return chars <= item.whole and all(one.name == item.name for one in run)

    def _run(self, run: list[Definition], symbol: str, context: str) -> Iterator[Chunk]:
        if not run:
            return
        name = run[0].name
        if all(one.name == name for one in run):
            symbol = self._join(symbol, name)
        yield from chunks_of(self._text, (Block(run[0].start, run[-1].end),), symbol, context)

    def _statements(self, start: int, end: int, rows: list[int], symbol: str, context: str) -> Iterator[Chunk]:
        if start < end:
            blocks = pack(self._text, blocks_between(start, end, rows), self._sizes.target)
            yield from chunks_of(self._text, blocks, symbol, context)

    def _join(self, symbol: str, name: str) -> str:
        return f"{symbol}{self._separator}{name}" if symbol and name else symbol or name


def _without_scraps(text: Text, chunks: Iterable[Chunk]) -> list[Chunk]:
    """Gives lines that only close something to the chunk before them, and those that only open something to the next."""
    made: list[Chunk] = []
    held: Chunk | None = None
    for chunk in chunks:
        if made and held is None and _is_all(_SCRAP, text, chunk):
            last = made[-1]
            made[-1] = Chunk(last.start_line, chunk.end_line, last.symbol, last.context)
            continue
        if held is not None:
            chunk, held = Chunk(held.start_line, chunk.end_line, chunk.symbol, chunk.context), None
        if _is_all(_OPENER, text, chunk):
            held = chunk
        else:
            made.append(chunk)
    if held is not None:
        made.append(held)
    return made


def _is_all(pattern: re.Pattern[str], text: Text, chunk: Chunk) -> bool:
    if chunk.end_line - chunk.start_line >= _MAX_SCRAP_LINES:
        return False
    lines = text.lines[chunk.start_line - 1 : chunk.end_line]
    return all(len(line) < _MAX_SCRAP_CHARS and pattern.fullmatch(line) for line in lines)
