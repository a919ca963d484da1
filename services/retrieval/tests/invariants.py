"""What holds for the chunks of every file."""

from sluice_retrieval.chunking.spans import Chunk


def check(found: list[Chunk], lines: list[str]) -> None:
    """Every line that is not blank lies in exactly one chunk, and the order is the file's."""
    at = 0
    for chunk in found:
        assert at < chunk.start_line <= chunk.end_line <= len(lines)
        assert not "".join(lines[at : chunk.start_line - 1]).strip()
        assert lines[chunk.start_line - 1].strip()
        assert lines[chunk.end_line - 1].strip()
        at = chunk.end_line
    assert not "".join(lines[at:]).strip()
