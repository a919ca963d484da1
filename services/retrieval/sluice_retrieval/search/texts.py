"""Lines of kept files, read once and remembered for a while."""

import asyncio
from collections import OrderedDict
from typing import Final

from sluice_retrieval.kept_texts import KeptTexts
from sluice_retrieval.text.lines import decode, split_lines

_CACHE_BYTES: Final = 32 * 1024 * 1024


class Texts:
    """Files of every tenant by the hash of their bytes."""

    def __init__(self, kept: KeptTexts, cache_bytes: int = _CACHE_BYTES) -> None:
        self._kept = kept
        self._room = cache_bytes
        self._cache: OrderedDict[tuple[str, str], tuple[list[str], int]] = OrderedDict()

    async def lines(self, tenant: str, blob_sha256: str) -> list[str] | None:
        """Returns the lines of a file, or None if its text is not kept any more. The list is shared: never change it."""
        key = (tenant, blob_sha256)
        held = self._cache.get(key)
        if held is not None:
            self._cache.move_to_end(key)
            return held[0]
        data = await self._kept.get(tenant, blob_sha256)
        if data is None:
            return None
        read = await asyncio.to_thread(_lines, data)
        if key not in self._cache:
            self._cache[key] = read
            self._room -= read[1]
            while self._room < 0 and self._cache:
                _, (_, size) = self._cache.popitem(last=False)
                self._room += size
        return read[0]


def _lines(data: bytes) -> tuple[list[str], int]:
    lines = split_lines(decode(data))
    # A line is an object of its own, about as large as a short line's text again.
    return lines, len(data) + 64 * len(lines)
