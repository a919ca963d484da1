"""Markdown by its sections: each chunk lies within one heading, and carries the path of headings as its symbol."""

from collections.abc import Iterator
from typing import Final

from tree_sitter import Node, Parser

from sluice_retrieval.chunking.grammars import load
from sluice_retrieval.chunking.spans import Block, Chunk, ChunkSizes, Text, chunks_of, pack

SEPARATOR: Final = " > "
_MAX_HEADING_CHARS: Final = 120


def chunk_markdown(data: bytes, text: Text, sizes: ChunkSizes) -> Iterator[Chunk]:
    """Cuts Markdown. A section that is small joins the one before it under the same parent."""
    root = Parser(load("markdown", "language")).parse(data).root_node
    yield from _section(root, 0, len(text), (), text, sizes)


def _section(node: Node, start: int, end: int, path: tuple[str, ...], text: Text, sizes: ChunkSizes) -> Iterator[Chunk]:
    """Yields the chunks of lines [start, end), which are those of the node."""
    symbol = SEPARATOR.join(path)
    if path and text.size(start, end) <= sizes.small:
        yield from chunks_of(text, (Block(start, end),), symbol)
        return
    blocks: list[Block] = []
    at = start
    for child in node.named_children:
        begin = min(max(child.start_point.row, at), end)
        if child.type == "section":
            heading = _heading(child)
            stop = min(max(_end_row(child), begin), end)
            if heading is None:
                # Text before the first heading, or a section without one: it belongs to the parent.
                blocks += _own(child, begin, stop)
                at = stop
                continue
            yield from chunks_of(text, pack(text, _filled(blocks, at, begin), sizes.target), symbol)
            blocks = []
            yield from _section(child, begin, stop, (*path, heading), text, sizes)
            at = stop
        else:
            stop = min(max(_end_row(child), begin), end)
            blocks.append(Block(at, stop))
            at = stop
    yield from chunks_of(text, pack(text, _filled(blocks, at, end), sizes.target), symbol)


def _filled(blocks: list[Block], at: int, end: int) -> list[Block]:
    """Adds what lies between the last block and the end."""
    return [*blocks, Block(at, end)] if at < end else blocks


def _own(section: Node, start: int, end: int) -> list[Block]:
    blocks: list[Block] = []
    at = start
    for child in section.named_children:
        stop = min(max(_end_row(child), at), end)
        if stop > at:
            blocks.append(Block(at, stop))
            at = stop
    return _filled(blocks, at, end)


def _end_row(node: Node) -> int:
    """Returns the row after the node's last one."""
    return node.end_point.row + (1 if node.end_point.column else 0)


def _heading(section: Node) -> str | None:
    for child in section.named_children[:1]:
        if child.type in ("atx_heading", "setext_heading"):
            for part in child.named_children:
                if part.type in ("inline", "paragraph") and part.text is not None:
                    return " ".join(part.text.decode("utf-8", errors="replace").split())[:_MAX_HEADING_CHARS]
            return ""
    return None
