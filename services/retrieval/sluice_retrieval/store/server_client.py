"""The connection to a Qdrant server: its collections, and requests that are made again where that is safe."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

import grpc
from qdrant_client import AsyncQdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http import models

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import SluiceError, make_error
from sluice_retrieval.config import QdrantConfig
from sluice_retrieval.store import server_filters as filters

log = logging.getLogger(__name__)
T = TypeVar("T")

SPARSE: Final = "bm25"
DENSE: Final = "dense"
_PASSING: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
)
_FIRST_PAUSE_SECONDS: Final = 0.2


class ServerClient:
    """One server or cluster."""

    def __init__(self, config: QdrantConfig, client: AsyncQdrantClient | None = None) -> None:
        """`client` is used instead of one made from the configuration, by tests."""
        self._config = config
        self._given = client
        self._client: AsyncQdrantClient | None = None
        self._making = asyncio.Lock()
        self._ready: set[str] = set()

    def start(self) -> None:
        """Makes the client; it connects when first used."""
        config = self._config
        if config.api_key.missing:
            return  # named where the server is first needed, so that the rest works
        self._client = self._given or AsyncQdrantClient(
            url=config.url,
            grpc_port=config.grpc_port,
            prefer_grpc=True,
            api_key=config.api_key.reveal() or None,
            timeout=round(config.timeout_seconds),
            check_compatibility=False,
        )

    async def ping(self) -> None:
        """Raises what the client does if the server does not answer."""
        if self._client is not None:
            await self._client.collection_exists(self.name(None))

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.close()

    def name(self, dimensions: int | None) -> str:
        """Returns the name of the collection for vectors of a length; None: for points that have none."""
        return f"{self._config.collection}-{dimensions or 'words'}"

    async def where(self, dimensions: int | None) -> str:
        """Returns the collection for vectors of a length. Raises NotFoundError if there is none."""
        name = self.name(dimensions)
        if name not in self._ready:
            if not await self.call(lambda client: client.collection_exists(name)):
                raise gone()
            self._ready.add(name)
        return name

    async def collections(self) -> list[str]:
        """Returns the names of all collections of this installation."""
        found = await self.call(lambda client: client.get_collections())
        prefix = f"{self._config.collection}-"
        return [one.name for one in found.collections if one.name.startswith(prefix)]

    async def collection(self, dimensions: int | None) -> str:
        """Returns the collection for vectors of a length, and makes it unless it is there."""
        name = self.name(dimensions)
        async with self._making:
            if name not in self._ready:
                if not await self.call(lambda client: client.collection_exists(name)):
                    await self._make(name, dimensions)
                self._ready.add(name)
        return name

    async def _make(self, name: str, dimensions: int | None) -> None:
        config = self._config
        vectors = {}
        if dimensions is not None:
            vectors[DENSE] = models.VectorParams(size=dimensions, distance=models.Distance.COSINE)
        await self.call(
            lambda client: client.create_collection(
                name,
                vectors_config=vectors,
                sparse_vectors_config={SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
                shard_number=config.shards,
                replication_factor=config.replication_factor,
                write_consistency_factor=config.write_consistency,
            )
        )
        keyword = models.KeywordIndexType.KEYWORD
        indexes: dict[str, Any] = {
            # Points of one tenant are kept together on disk, and graphs are made within it.
            filters.TENANT: models.KeywordIndexParams(type=keyword, is_tenant=True),
            filters.CORPUS: models.KeywordIndexParams(type=keyword),
            filters.PATH: models.KeywordIndexParams(type=keyword),
            filters.CHUNK: models.UuidIndexParams(type=models.UuidIndexType.UUID),
            filters.SINCE: models.PayloadSchemaType.INTEGER,
            filters.UNTIL: models.PayloadSchemaType.INTEGER,
        }
        for field, schema in indexes.items():
            await self.call(partial(_index, name=name, field=field, schema=schema))

    async def call(self, call: Callable[[AsyncQdrantClient], Awaitable[T]]) -> T:
        """Asks the server, again after failures that pass. Raises SluiceError: STORE_UNAVAILABLE, or a defect."""
        if self._client is None:
            raise misconfigured(self._config.api_key.missing)
        pause = _FIRST_PAUSE_SECONDS
        for left in reversed(range(self._config.tries)):
            try:
                return await call(self._client)
            except ResourceExhaustedResponse as error:
                failure, wait = "the vector store asks to slow down", max(pause, float(error.retry_after_s))
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                    raise misconfigured() from None
                if error.code() not in _PASSING:
                    raise
                failure, wait = f"the vector store does not answer ({error.code().name})", pause
            if not left:
                raise unavailable(failure)
            log.warning("the vector store is asked again", extra={"detail": failure, "left": left})
            await asyncio.sleep(min(wait, self._config.timeout_seconds))
            pause *= 2
        raise unavailable("the vector store was not asked: retrieval.store.qdrant.tries is 0")


async def _index(client: AsyncQdrantClient, name: str, field: str, schema: Any) -> None:
    await client.create_payload_index(name, field, schema, wait=True)


def gone() -> SluiceError:
    """Returns the error for a generation that is not there."""
    return make_error(ErrorReason.ERROR_REASON_NOT_FOUND, "this generation of the index is gone")


def unavailable(message: str) -> SluiceError:
    """Returns the error for a server that cannot be used now."""
    return make_error(ErrorReason.ERROR_REASON_STORE_UNAVAILABLE, message, retry_after=1.0)


def misconfigured(variable: str | None = None) -> SluiceError:
    """Returns the error for a key that the server refuses, or whose variable is not set."""
    setting = variable or "retrieval.store.qdrant.api_key"
    what = f"needs a key: set {variable}" if variable else f"refused the key; check {setting}"
    return make_error(
        ErrorReason.ERROR_REASON_INTEGRATION_MISCONFIGURED, f"the vector store {what}", metadata={"setting": setting}
    )
