"""Chooses how a file is cut."""

from collections.abc import Sequence
from typing import Final

from sluice_retrieval.chunking.grammars import GRAMMARS
from sluice_retrieval.chunking.headings import HEADINGS, headings_outline
from sluice_retrieval.chunking.indented import INDENTED, indented_outline
from sluice_retrieval.chunking.markdown import chunk_markdown
from sluice_retrieval.chunking.outline import chunks_along
from sluice_retrieval.chunking.patterns import PATTERNS, pattern_outline
from sluice_retrieval.chunking.spans import Chunk, ChunkSizes, Text, paragraph_rows
from sluice_retrieval.chunking.syntax import Syntax, parse

VERSION: Final = 3
"""Raised when the same file would be cut or weighed differently, so that what was indexed before is not reused."""
_HEADING_SEPARATOR: Final = " > "


def chunk_file(data: bytes, lines: Sequence[str], language: str, sizes: ChunkSizes) -> list[Chunk]:
    """Cuts a file into chunks: in order, without overlap, every line that is not blank in exactly one of them.

    `lines` are those of `data`.
    """
    text = Text(lines)
    if language in GRAMMARS:
        grammar = GRAMMARS[language]
        tree = parse(data, grammar)
        if tree is not None:
            syntax = Syntax(text, grammar, sizes)
            return chunks_along(text, syntax.outline(tree.root_node, len(text)), sizes)
    elif language == "markdown":
        return list(chunk_markdown(data, text, sizes))
    elif language in HEADINGS:
        return chunks_along(text, headings_outline(text, language, sizes), sizes, _HEADING_SEPARATOR)
    elif language in PATTERNS:
        return chunks_along(text, pattern_outline(text, language, sizes), sizes)
    elif language in INDENTED:
        return chunks_along(text, indented_outline(text, language, sizes), sizes)
    return chunks_along(text, paragraph_rows(text, 0, len(text)), sizes)
