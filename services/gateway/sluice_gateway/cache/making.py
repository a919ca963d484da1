"""Making: who is about to make an answer that others want, too, so that a vendor is asked for it once."""

import asyncio

from sluice_gateway.cache.store import Key


class Making:
    """The answers that are being made and may be kept, by key. For the event loop's thread."""

    def __init__(self) -> None:
        self._ends: dict[Key, asyncio.Future[None]] = {}

    def begin(self, key: Key) -> bool:
        """Says that an answer is being made. Returns False if another one with this key is; `end` follows on True."""
        if key in self._ends:
            return False
        self._ends[key] = asyncio.get_running_loop().create_future()
        return True

    def end(self, key: Key) -> None:
        """Says that it is there, or will not be."""
        self._ends.pop(key).set_result(None)

    async def wait(self, key: Key, seconds: float) -> None:
        """Waits for the end of the one that is being made, at most so long."""
        end = self._ends.get(key)
        if end is not None:
            await asyncio.wait((end,), timeout=seconds)
