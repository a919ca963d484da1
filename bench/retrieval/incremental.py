"""What an index costs after one file changed, as a share of the full one."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.retrieval.copies import write_copies
from bench.retrieval.packages import Package
from bench.retrieval.service import running

_SETTLED_SECONDS: Final = 2.5
"""How old a file must be for its times to be trusted (see sluice_retrieval/sources/local.py), and a little more."""


class Changed(msgspec.Struct, tag="incremental", tag_field="part"):
    """A full index of a corpus, and the next one after one file had changed, in the same service."""

    round: int
    bytes: int
    chunks: int
    dense: bool
    """Whether chunks have vectors by meaning, too, from the local model."""
    full: float
    """Seconds of CPU of the service and its children, those that ended included."""
    changed: float
    """The same for the index after the change."""
    unchanged: float
    """The same for one more, with nothing to do."""

    @property
    def share(self) -> float:
        """What the change cost of the full index."""
        return self.changed / self.full


async def measure(
    packages: Sequence[Package],
    copies: int,
    number: int,
    folder: Path,
    say: Callable[[Changed], None],
    *,
    dense: bool = False,
) -> None:
    """Indexes copies of packages, changes a file, and indexes again, once each."""
    source = folder / "source"
    size = write_copies(packages, copies, source)
    changed = next(path for path in sorted(source.rglob("*.py")) if path.stat().st_size > 4096)
    async with running(folder) as service:

        async def cost() -> tuple[float, int]:
            # Younger files are read again to be sure, which is not what is measured here.
            await asyncio.sleep(_SETTLED_SECONDS)
            before = service.cpu()
            result = await service.index("copies", source, dense=dense)
            return service.cpu() - before, result.chunks

        full, chunks = await cost()
        with changed.open("a", encoding="utf-8") as file:
            file.write("\n\ndef added_by_the_benchmark(left, right):\n    return left + right\n")
        again, more = await cost()
        assert more > chunks  # what was added is there
        nothing, _ = await cost()
    say(Changed(number, size, chunks, dense, full, again, nothing))
