"""A source of a chosen size: packages, copied as often as it takes, each copy with contents of its own."""

from collections.abc import Sequence
from pathlib import Path

from bench.retrieval.packages import Package, total_bytes, write


def write_copies(packages: Sequence[Package], copies: int, folder: Path) -> int:
    """Writes packages below a folder, so many times. Returns the bytes written.

    No two files are equal: equal ones would be kept once, and a repository has few.
    """
    written = 0
    for number in range(copies):
        for package in packages:
            text = {
                f"copy{number}/{package.folder}/{path}": f"{source}\n\nCOPY_{number} = {number}\n"
                for path, source in package.sources().items()
            }
            write(text, folder)
            written += total_bytes(text)
    return written
