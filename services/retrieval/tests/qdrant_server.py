"""A Qdrant server for tests: the grpc interface of one, over the engine inside the client, so far as the store asks."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.grpc import collections_pb2, collections_service_pb2_grpc, points_pb2, points_service_pb2_grpc

_DONE = points_pb2.PointsOperationResponse(
    result=points_pb2.UpdateResult(status=points_pb2.UpdateStatus.Completed, operation_id=1)
)


class QdrantServer(points_service_pb2_grpc.PointsServicer, collections_service_pb2_grpc.CollectionsServicer):
    """Answers what indexing, moving and searching ask."""

    def __init__(self, engine: AsyncQdrantClient) -> None:
        self.engine = engine

    async def CollectionExists(self, request: Any, context: Any) -> Any:
        exists = await self.engine.collection_exists(request.collection_name)
        return collections_pb2.CollectionExistsResponse(result=collections_pb2.CollectionExists(exists=exists))

    async def Create(self, request: Any, context: Any) -> Any:
        vectors = {
            name: models.VectorParams(size=params.size, distance=models.Distance.COSINE)
            for name, params in request.vectors_config.params_map.map.items()
        }
        sparse = {
            name: models.SparseVectorParams(modifier=models.Modifier.IDF) for name in request.sparse_vectors_config.map
        }
        await self.engine.create_collection(request.collection_name, vectors, sparse)
        return collections_pb2.CollectionOperationResponse(result=True)

    async def List(self, request: Any, context: Any) -> Any:
        found = (await self.engine.get_collections()).collections
        names = [collections_pb2.CollectionDescription(name=one.name) for one in found]
        return collections_pb2.ListCollectionsResponse(collections=names)

    async def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        return _DONE

    async def Upsert(self, request: Any, context: Any) -> Any:
        points = [GrpcToRest.convert_point_struct(point) for point in request.points]
        await self.engine.upsert(request.collection_name, points)
        return _DONE

    async def SetPayload(self, request: Any, context: Any) -> Any:
        payload = GrpcToRest.convert_payload(request.payload)
        only = GrpcToRest.convert_filter(request.points_selector.filter)
        await self.engine.set_payload(request.collection_name, payload, only)
        return _DONE

    async def DeletePayload(self, request: Any, context: Any) -> Any:
        only = GrpcToRest.convert_filter(request.points_selector.filter)
        await self.engine.delete_payload(request.collection_name, list(request.keys), only)
        return _DONE

    async def Delete(self, request: Any, context: Any) -> Any:
        only = GrpcToRest.convert_filter(request.points.filter)
        await self.engine.delete(request.collection_name, models.FilterSelector(filter=only))
        return _DONE

    async def Count(self, request: Any, context: Any) -> Any:
        only = GrpcToRest.convert_filter(request.filter)
        found = await self.engine.count(request.collection_name, only, exact=True)
        return points_pb2.CountResponse(result=points_pb2.CountResult(count=found.count))

    async def QueryBatch(self, request: Any, context: Any) -> Any:
        queries = [GrpcToRest.convert_query_points(query) for query in request.query_points]
        answers = await self.engine.query_batch_points(request.collection_name, queries)
        return points_pb2.QueryBatchResponse(
            result=[
                points_pb2.BatchResult(result=[RestToGrpc.convert_scored_point(point) for point in answer.points])
                for answer in answers
            ]
        )

    async def Scroll(self, request: Any, context: Any) -> Any:
        following: Any
        records, following = await self.engine.scroll(
            request.collection_name,
            GrpcToRest.convert_filter(request.filter),
            limit=request.limit,
            offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
            with_payload=True,
            with_vectors=True,
        )
        return points_pb2.ScrollResponse(
            result=[RestToGrpc.convert_record(record) for record in records],
            next_page_offset=RestToGrpc.convert_extended_point_id(following) if following is not None else None,
        )


@contextlib.asynccontextmanager
async def qdrant_server() -> AsyncIterator[tuple[int, AsyncQdrantClient]]:
    """Runs one on a free port; yields it, and the engine that has the points."""
    engine = AsyncQdrantClient(":memory:")
    running = grpc.aio.server()
    service = QdrantServer(engine)
    points_service_pb2_grpc.add_PointsServicer_to_server(service, running)
    collections_service_pb2_grpc.add_CollectionsServicer_to_server(service, running)
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    yield port, engine
    await running.stop(None)
    await engine.close()
