"""The store: entries by key, bounded in age and size, the longest unused going first."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from sluice.chat.v1.event_pb2 import Completed
from sluice.chat.v1.target_pb2 import Target
from sluice_gateway.config import CacheConfig
from sluice_gateway.pipeline.citations import CitationCollector

_OVERHEAD_BYTES = 1024
"""What an entry costs beside its events."""


@dataclass(frozen=True, slots=True)
class Key:
    """What an answer is kept under. The tenant stands beside the digest, so no two tenants ever share a key."""

    tenant: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A kept answer."""

    count: int
    """How many events."""
    body: bytes
    """The events, as the log of a response keeps them."""
    completed: Completed
    target: Target
    """Who made it."""
    collector: CitationCollector | None
    """What it cites, to be checked anew each time. None: nothing was there to be cited."""
    create_time_ns: int
    size: int
    """Bytes it holds, about."""


class Store:
    """Entries in memory. For the event loop's thread."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self._entries: OrderedDict[Key, tuple[float, Entry]] = OrderedDict()
        self.size = 0
        """Bytes held, about."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Entry | None:
        """Returns the entry of a key if there is one that is not too old."""
        found = self._entries.get(key)
        if found is None:
            return None
        if asyncio.get_running_loop().time() >= found[0]:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return found[1]

    def put(self, key: Key, entry: Entry) -> bool:
        """Keeps an entry in place of an older one. Returns whether it did: one that is too large is not kept."""
        cost = entry.size + _OVERHEAD_BYTES
        if entry.size > self._config.entry_bytes or cost > self._config.total_bytes:
            return False
        if key in self._entries:
            self._remove(key)
        until = asyncio.get_running_loop().time() + self._config.age_seconds
        self._entries[key] = (until, entry)
        self.size += cost
        while self.size > self._config.total_bytes:
            self._remove(next(iter(self._entries)))
        return True

    def _remove(self, key: Key) -> None:
        _, entry = self._entries.pop(key)
        self.size -= entry.size + _OVERHEAD_BYTES
