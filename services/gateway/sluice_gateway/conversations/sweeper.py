"""The sweeper: deletes what is no longer kept, a little at a time."""

import asyncio
import logging
import random
import time
from typing import Final

from sluice_gateway.config import RetentionConfig
from sluice_gateway.conversations.conversations import Conversations
from sluice_gateway.records.ledger import Ledger
from sluice_kit.errors import SluiceError

log = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 1.0
"""After a pass that left work behind."""
_JITTER: Final = (0.8, 1.2)


class Sweeper:
    """Sweeps conversations and the ledger, one pass after the other. Make it inside the event loop.

    A pass does a bounded amount of work; one that leaves some behind is soon followed by the next.
    """

    def __init__(self, config: RetentionConfig, conversations: Conversations, ledger: Ledger) -> None:
        self._config = config
        self._conversations = conversations
        self._ledger = ledger
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Ends, after what is being deleted."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        more = False
        while True:
            wait = _AGAIN_SECONDS if more else self._config.sweep_seconds
            await asyncio.sleep(wait * random.uniform(*_JITTER))
            more = False
            try:
                more = await self.sweep()
            except SluiceError as error:
                log.warning("nothing was swept", extra={"reason": error.reason_name})
            except Exception:
                log.exception("nothing was swept")

    async def sweep(self) -> bool:
        """Makes one pass. Returns whether it left work behind. Raises STORE_UNAVAILABLE."""
        config, now = self._config, time.time_ns()
        more = await self._conversations.sweep(config.batch)
        swept = await self._ledger.sweep(
            responses_before=_before(now, config.responses_seconds),
            attempts_before=_before(now, config.attempts_seconds),
            limit=config.batch,
        )
        return more or swept


def _before(now: int, seconds: float | None) -> int | None:
    return None if seconds is None else now - int(seconds * 1e9)
