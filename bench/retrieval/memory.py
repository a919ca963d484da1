"""Whether memory is flat in the size of what is indexed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench.retrieval.copies import write_copies
from bench.retrieval.packages import Package
from bench.retrieval.service import running


class Indexed(msgspec.Struct, tag="memory", tag_field="part"):
    """One index of a new corpus by a new service: all figures at their worst while it was made."""

    round: int
    copies: int
    bytes: int
    """Of the sources."""
    chunks: int
    resident: int
    """Resident bytes of the service and its children, with what is mapped of files."""
    own: int
    """Without it."""
    before: int
    """The latter, before the index began."""
    cpu: float
    """Seconds, of the service and its children."""


async def measure(
    packages: Sequence[Package], copies: int, number: int, folder: Path, say: Callable[[Indexed], None]
) -> None:
    """Indexes so many copies of packages once."""
    size = write_copies(packages, copies, folder / "source")
    async with running(folder) as service:
        before, cpu = service.memory(), service.cpu()
        async with service.watched() as worst:
            result = await service.index("copies", folder / "source")
        used = service.cpu() - cpu
        say(Indexed(number, copies, size, result.chunks, worst[0].resident, worst[0].own, before.own, used))
