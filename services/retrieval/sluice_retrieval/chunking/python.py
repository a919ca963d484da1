"""Python by its definitions: a chunk is a function, a method, the head of a class, or statements between them.

Decorators and the comments right above a definition belong to it. What is small stays whole (a class of a few lines is
one chunk); what is large is cut between its inner statements, never inside a line.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import tree_sitter_python
from tree_sitter import Language, Node, Parser

from sluice_retrieval.chunking.spans import Block, Chunk, ChunkSizes, chunks_of, cut, pack, size

_LANGUAGE: Final = Language(tree_sitter_python.language())
_DEFINITIONS: Final = ("function_definition", "class_definition")
_MAX_CONTEXT_CHARS: Final = 400
_MAX_NESTING: Final = 64


@dataclass(frozen=True, slots=True)
class _Definition:
    start: int
    end: int
    name: str
    node: Node


def chunk_python(data: bytes, lines: Sequence[str], sizes: ChunkSizes) -> Iterator[Chunk]:
    """Cuts Python source. Source with syntax errors is cut as far as the parser understands it."""
    root = Parser(_LANGUAGE).parse(data).root_node
    yield from _Cutter(lines, sizes).body(root, 0, len(lines), "", "", 0)


class _Cutter:
    def __init__(self, lines: Sequence[str], sizes: ChunkSizes) -> None:
        self._lines = lines
        self._sizes = sizes

    def body(self, node: Node, start: int, end: int, symbol: str, context: str, depth: int) -> Iterator[Chunk]:
        """Yields the chunks of lines [start, end), which hold the statements of the node."""
        at = start
        for found in self._definitions(node, start, end):
            # Statements before it, such as imports and constants, or the head of the class.
            yield from self._statements(node, at, found.start, symbol, context)
            at = found.end
            name = f"{symbol}.{found.name}" if symbol else found.name
            yield from self._definition(found, name, context, depth)
        yield from self._statements(node, at, end, symbol, context)

    def _definition(self, found: _Definition, symbol: str, context: str, depth: int) -> Iterator[Chunk]:
        lines, target = self._lines, self._sizes.target
        chars = size(lines, found.start, found.end)
        is_class = found.node.type == "class_definition"
        if chars <= (self._sizes.small if is_class else target) or depth >= _MAX_NESTING:
            yield from chunks_of(lines, cut(lines, Block(found.start, found.end), target), symbol, context)
            return
        inner = found.node.child_by_field_name("body")
        if inner is None:
            yield from chunks_of(lines, cut(lines, Block(found.start, found.end), target), symbol, context)
            return
        signature = self._signature(found, inner)
        yield from self.body(
            inner, found.start, found.end, symbol, f"{context}{signature}"[-_MAX_CONTEXT_CHARS:], depth + 1
        )

    def _statements(self, node: Node, start: int, end: int, symbol: str, context: str) -> Iterator[Chunk]:
        """Yields lines [start, end) cut between the statements of the node, or inside one that is too large."""
        if start >= end:
            return
        rows: set[int] = set()
        _inner_rows(node, start, end, self._sizes.target, self._lines, rows, 0)
        edges = sorted({start, end, *rows})
        blocks = [Block(a, b) for a, b in itertools.pairwise(edges)]
        yield from chunks_of(self._lines, pack(self._lines, blocks, self._sizes.target), symbol, context)

    def _definitions(self, node: Node, start: int, end: int) -> Iterator[_Definition]:
        """Yields the definitions that own their lines, in order. `a = 1; def f(): ...` on one line is none of them."""
        at = start
        children = node.named_children
        for index, child in enumerate(children):
            inner: Node | None = child
            if child.type == "decorated_definition":
                inner = child.child_by_field_name("definition")
            if inner is None or inner.type not in _DEFINITIONS:
                continue
            name = inner.child_by_field_name("name")
            begin, stop = child.start_point.row, child.end_point.row + (1 if child.end_point.column else 0)
            begin = self._with_comments(children, index, begin, at)
            stop = min(stop, end)
            if name is None or name.text is None or begin < at or stop <= begin:
                continue
            yield _Definition(begin, stop, name.text.decode("utf-8", errors="replace"), inner)
            at = stop

    def _with_comments(self, siblings: Sequence[Node], index: int, begin: int, at: int) -> int:
        """Returns the row of the first of the comment lines that stand directly above row `begin`."""
        for sibling in reversed(siblings[:index]):
            row = sibling.start_point.row
            alone = sibling.type == "comment" and self._lines[row].lstrip().startswith("#")
            if not alone or row != begin - 1 or row < at:
                break
            begin = row
        return begin

    def _signature(self, found: _Definition, inner: Node) -> str:
        """Returns the lines of the definition up to its body: decorators, name, parameters."""
        first = found.node.start_point.row
        last = max(inner.start_point.row, first + 1)
        return "".join(self._lines[first:last])[:_MAX_CONTEXT_CHARS]


def _inner_rows(
    node: Node, start: int, end: int, target: int, lines: Sequence[str], rows: set[int], depth: int
) -> None:
    """Collects rows at which lines [start, end) may be cut: before statements, and inside those that are too large."""
    for child in node.named_children:
        first, last = child.start_point.row, child.end_point.row
        if last < start or first >= end:
            continue
        if start < first < end:
            rows.add(first)
        if last > first and depth < _MAX_NESTING and size(lines, max(first, start), min(last + 1, end)) > target:
            _inner_rows(child, start, end, target, lines, rows, depth + 1)
