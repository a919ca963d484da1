"""From a file to points: chunks with the words of their context, and ids that depend on nothing but these."""

import hashlib
import re
import uuid
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from sluice_retrieval.chunking.chunker import VERSION, chunk_file
from sluice_retrieval.chunking.spans import Chunk, ChunkSizes
from sluice_retrieval.store.base import Payload, Point
from sluice_retrieval.text.bm25 import WEIGHING, document_vector
from sluice_retrieval.text.lines import decode, join_lines, split_lines, text_sha256

_PATH_TIMES: Final = 1
_SYMBOL_TIMES: Final = 4
_WORD_ENDS: Final = re.compile(r"_+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
MAX_EMBEDDED_CHARS: Final = 6000
"""Characters of a chunk that are embedded; more would not fit common models."""


def settings_digest(sizes: ChunkSizes) -> str:
    """Returns what, besides the text itself, decides how it is cut and weighed."""
    return f"{VERSION}:{WEIGHING}:{sizes.target}:{sizes.small}"


def points_of(
    path: str, language: str, blob_sha256: str, data: bytes, sizes: ChunkSizes
) -> Iterator[tuple[Point, str]]:
    """Yields each chunk of a file as a point, without a dense vector, and the text to embed for it."""
    lines = split_lines(decode(data))
    seen: dict[bytes, int] = {}
    stem = PurePosixPath(path).with_suffix("").as_posix()
    for chunk in chunk_file(data, lines, language, sizes):
        text = join_lines(lines, chunk.start_line, chunk.end_line)
        vector = document_vector((chunk.context, text), ((stem, _PATH_TIMES), (chunk.symbol, _SYMBOL_TIMES)))
        payload = Payload(
            path, chunk.start_line, chunk.end_line, chunk.symbol, language, blob_sha256, text_sha256(text)
        )
        embedded = _text_to_embed(path, chunk, text)
        # What is embedded is part of it, so that a vector belongs to its text also after a newer program made that.
        digest = hashlib.blake2b(f"{path}\0{chunk.symbol}\0{embedded}\0{text}".encode()).digest()
        seen[digest] = again = seen.get(digest, -1) + 1
        yield Point(_point_id(digest, again), payload, vector.indices, vector.values), embedded


def _text_to_embed(path: str, chunk: Chunk, text: str) -> str:
    """Returns what is embedded: the chunk's own name in words, where it is, then its text.

    The lines around it come last. Small models read no more than the beginning, and those lines are the same for many
    chunks, which makes their vectors alike.
    """
    symbol = chunk.symbol
    own = symbol.rpartition(" > ")[2] if " " in symbol else symbol.rpartition(".")[2]
    head = " · ".join(filter(None, (_WORD_ENDS.sub(" ", own).strip(), path, symbol)))
    return "\n".join(filter(None, (head, text, chunk.context)))[:MAX_EMBEDDED_CHARS]


def _point_id(digest: bytes, again: int) -> str:
    """Returns the id of a chunk: of what is indexed of it, not of where it stands in its file, so that what moves down
    a line is the same chunk. `again` counts equal chunks of the file."""
    return str(uuid.UUID(bytes=hashlib.blake2b(digest + again.to_bytes(4), digest_size=16).digest()))
