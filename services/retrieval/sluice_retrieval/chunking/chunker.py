"""Chooses how a file is cut."""

from collections.abc import Sequence
from typing import Final

from sluice_retrieval.chunking.markdown import chunk_markdown
from sluice_retrieval.chunking.plain import chunk_plain
from sluice_retrieval.chunking.python import chunk_python
from sluice_retrieval.chunking.spans import Chunk, ChunkSizes

VERSION: Final = 2
"""Raised when the same file would be cut or weighed differently, so that what was indexed before is not reused."""


def chunk_file(data: bytes, lines: Sequence[str], language: str, sizes: ChunkSizes) -> list[Chunk]:
    """Cuts a file into chunks: in order, without overlap, every line that is not blank in exactly one of them.

    `lines` are those of `data`.
    """
    if language == "python":
        return list(chunk_python(data, lines, sizes))
    if language == "markdown":
        return list(chunk_markdown(data, lines, sizes))
    return list(chunk_plain(lines, sizes))
