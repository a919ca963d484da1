"""The local embedding model as the service uses it: in a child of its own, started when it is first needed."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import make_error
from sluice_retrieval.children.process import Child, ChildDied
from sluice_retrieval.minilm import wire

log = logging.getLogger(__name__)

PROVIDER: Final = "local"
"""The provider that an embedder of this kind names."""
MODEL: Final = "all-MiniLM-L6-v2"
DIMENSIONS: Final = 384
_BATCH_TEXTS: Final = 16
"""Texts in one question to the child, so that a search waits for no more than these of an index."""


class LocalEmbedder:
    """Embeds texts on this machine. Searches go before indexes."""

    def __init__(self) -> None:
        self._child = Child("minilm")
        self._starting = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._queries = 0
        self._no_queries = asyncio.Event()
        self._no_queries.set()

    async def query(self, text: str) -> list[float]:
        """Returns the vector of a question. Raises INTEGRATION_MISCONFIGURED if the model is not installed."""
        self._queries += 1
        self._no_queries.clear()
        try:
            return (await self._embed([text]))[0]
        finally:
            self._queries -= 1
            if not self._queries:
                self._no_queries.set()

    async def documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Returns the vectors of texts, in order. Raises like `query`."""
        vectors: list[list[float]] = []
        for at in range(0, len(texts), _BATCH_TEXTS):
            await self._no_queries.wait()
            async with self._turn:
                vectors += await self._embed(texts[at : at + _BATCH_TEXTS])
        return vectors

    async def close(self) -> None:
        """Ends the child."""
        await self._child.close()

    async def _embed(self, texts: Sequence[str]) -> list[list[float]]:
        for attempt in (1, 2):
            try:
                await self._start()
                return (await self._child.ask(wire.Embed(list(texts)), wire.Vectors)).vectors
            except ChildDied:
                log.warning("the process of the local embedding model ended", extra={"attempt": attempt})
        raise make_error(
            ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE,
            "the process of the local embedding model keeps ending; the service's log may say why",
            metadata={"provider": PROVIDER},
        )

    async def _start(self) -> None:
        async with self._starting:
            if not self._child.running:
                await self._child.close()
                self._child = Child("minilm")
                await self._child.start()
