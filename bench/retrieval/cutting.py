"""How fast sources are cut, without embedding: `speed_chunking`, as rows of the results."""

import msgspec

from bench.retrieval import speed_chunking


class Cut(msgspec.Struct, tag="chunking", tag_field="part"):
    """The files of one language, cut again and again: chunks per second of CPU."""

    language: str
    files: int
    bytes: int
    chunks: int
    median: float
    slowest: float
    fastest: float


def measure(rounds: int, most_bytes: int) -> list[Cut]:
    """Cuts files of every language that there are enough of, at most so many bytes of each. Blocks."""
    return [
        Cut(
            figure.language,
            figure.files,
            figure.bytes,
            figure.chunks,
            figure.per_second,
            figure.slowest,
            figure.fastest,
        )
        for figure in speed_chunking.run(rounds, most_bytes)
    ]
