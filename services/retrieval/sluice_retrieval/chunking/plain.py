"""Texts without a grammar: packed by paragraphs, else by lines."""

from collections.abc import Iterator, Sequence

from sluice_retrieval.chunking.spans import Chunk, ChunkSizes, chunks_of, pack, paragraphs


def chunk_plain(lines: Sequence[str], sizes: ChunkSizes) -> Iterator[Chunk]:
    """Cuts any text. Paragraphs (lines between blank lines) stay together where they fit."""
    yield from chunks_of(lines, pack(lines, paragraphs(lines, 0, len(lines)), sizes.target), "")
