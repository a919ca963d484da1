"""One door: calls of other services' RPCs are passed on to their owners, byte for byte.

The gateway authenticates and authorises them, and passes deadline, cancellation and identity on; it does not parse
what it forwards, except the name of a task, which says whose it is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_service_pb2, search_service_pb2
from sluice.task.v1 import task_service_pb2 as task_pb
from sluice_gateway.services.paging import decode_token, encode_token
from sluice_kit.call import Call
from sluice_kit.channels import Calling
from sluice_kit.errors import NotFoundError, SluiceError, from_rpc_error, make_error
from sluice_kit.pump import ByteQueue, Pump
from sluice_kit.rpc import Dispatcher, SendMessage, handlers_by_path, invalid_field
from sluice_kit.server import Server

RETRIEVAL: Final = "retrieval"
TASK_OWNERS: Final[Mapping[str, str]] = {"ret": RETRIEVAL}
"""The service that runs a task, by the prefix in its name."""
_RETRIEVAL_SERVICES: Final = (
    corpus_service_pb2.DESCRIPTOR.services_by_name["CorpusService"],
    search_service_pb2.DESCRIPTOR.services_by_name["SearchService"],
)
_TASK_SERVICE: Final = task_pb.DESCRIPTOR.services_by_name["TaskService"]
_QUEUE_BYTES: Final = 256 * 1024
_LIST_SECONDS: Final = 5.0
_DEFAULT_TASK_PAGE: Final = 100

Unary = Callable[[bytes, Call], Awaitable[bytes]]
Stream = Callable[[bytes, Call, SendMessage], Awaitable[None]]


class Peers:
    """Channels to the services behind the door, by their name; those not configured are absent."""

    def __init__(self, channels: Mapping[str, grpc.aio.Channel]) -> None:
        self._channels = channels

    async def unary(self, service: str, path: str, request: bytes, call: Call) -> bytes:
        """Passes a call on. Raises what the service says, or SERVICE_UNREACHABLE."""
        method: Any = self._channel(service).unary_unary(path)
        with Calling(call, path) as options:
            try:
                answer: bytes = await method(request, **options)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error, service) from None
        return answer

    async def stream(self, service: str, path: str, request: bytes, call: Call, send: SendMessage) -> None:
        """Passes a stream on, bounded, until it or the caller ends. Raises as `unary` does."""
        method: Any = self._channel(service).unary_stream(path)
        queue = ByteQueue(_QUEUE_BYTES)
        with Calling(call, path) as options:
            try:
                async with Pump[bytes](method(request, **options), queue.put) as pump:
                    pump.on_end(queue.close)
                    while messages := await queue.take():
                        for message in messages:
                            await send(message)
                    await pump.wait()
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error, service) from None

    def _channel(self, service: str) -> grpc.aio.Channel:
        channel = self._channels.get(service)
        if channel is None:
            raise make_error(
                ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE,
                f"this mesh has no {service} service",
                metadata={"service": service, "configured": "false"},
            )
        return channel


class _Forwarder(grpc.GenericRpcHandler):
    """The handlers of whole services, made once."""

    def __init__(self, handlers: Mapping[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


def register(server: Server, peers: Peers) -> None:
    """Serves the RPCs of retrieval and tasks by passing them on."""
    handlers: dict[str, Any] = {}
    for service in _RETRIEVAL_SERVICES:
        for path, method in handlers_by_path(service).items():
            handlers[path] = _handler(server.dispatcher, path, method, *_to(RETRIEVAL, path, peers))
    tasks = _Tasks(peers)
    for path, method in handlers_by_path(_TASK_SERVICE).items():
        handlers[path] = _handler(server.dispatcher, path, method, *tasks.functions(method))
    names: list[ServiceDescriptor] = [*_RETRIEVAL_SERVICES, _TASK_SERVICE]
    server.add_generic(_Forwarder(handlers), [service.full_name for service in names])


def _handler(dispatcher: Dispatcher, path: str, method: MethodDescriptor, unary: Unary, stream: Stream) -> Any:
    # The owner validates: it has the last word on its contract anyway.
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(dispatcher.stream(path, stream, check=False))
    return grpc.unary_unary_rpc_method_handler(dispatcher.unary(path, unary, check=False))


def _to(service: str, path: str, peers: Peers) -> tuple[Unary, Stream]:
    async def unary(request: bytes, call: Call) -> bytes:
        return await peers.unary(service, path, request, call)

    async def stream(request: bytes, call: Call, send: SendMessage) -> None:
        await peers.stream(service, path, request, call, send)

    return unary, stream


class _Tasks:
    """Tasks belong to several services: their names say to which."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def functions(self, method: MethodDescriptor) -> tuple[Unary, Stream]:
        """Returns what serves a method of TaskService."""
        path = f"/{_TASK_SERVICE.full_name}/{method.name}"

        async def unary(request: bytes, call: Call) -> bytes:
            return await self._peers.unary(_owner(request), path, request, call)

        async def stream(request: bytes, call: Call, send: SendMessage) -> None:
            await self._peers.stream(_owner(request), path, request, call, send)

        return (self._list if method.name == "ListTasks" else unary), stream

    async def _list(self, request: bytes, call: Call) -> bytes:
        """Asks the owners one after the other, under one token; one that is down is named and passed over."""
        query = task_pb.ListTasksRequest.FromString(request)
        owners = list(TASK_OWNERS)
        start, token = _split_token(query.page_token, owners)
        size = query.page_size or _DEFAULT_TASK_PAGE
        response = task_pb.ListTasksResponse()
        limited = call.with_timeout(_LIST_SECONDS)
        for index in range(start, len(owners)):
            owner = owners[index]
            query.page_token, query.page_size = (token if index == start else ""), size - len(response.tasks)
            try:
                async with asyncio.timeout_at(limited.deadline):
                    raw = await self._peers.unary(
                        TASK_OWNERS[owner], f"/{_TASK_SERVICE.full_name}/ListTasks", query.SerializeToString(), limited
                    )
            except (SluiceError, TimeoutError) as error:
                if isinstance(error, SluiceError) and error.reason != ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE:
                    raise
                response.unreachable.append(owner)
                continue
            answer = task_pb.ListTasksResponse.FromString(raw)
            response.tasks.extend(answer.tasks)
            if answer.next_page_token:
                response.next_page_token = _join_token(owner, answer.next_page_token)
                break
            if len(response.tasks) >= size and index + 1 < len(owners):
                response.next_page_token = _join_token(owners[index + 1], "")
                break
        return response.SerializeToString()


def _owner(request: bytes) -> str:
    """Returns the service that owns the task a request names. Get, Cancel and Watch hold the name in field 1."""
    name = task_pb.GetTaskRequest.FromString(request).name
    prefix = name.removeprefix("tasks/").partition("-")[0]
    service = TASK_OWNERS.get(prefix)
    if service is None:
        raise NotFoundError(f"no task '{name[:100]}'", metadata={"resource": name[:100]})
    return service


def _join_token(owner: str, token: str) -> str:
    return encode_token(f"{owner}|{token}")


def _split_token(token: str, owners: list[str]) -> tuple[int, str]:
    if not token:
        return 0, ""
    owner, _, inner = decode_token(token).partition("|")
    if owner not in owners:
        raise invalid_field("page_token", "not a token of an earlier response")
    return owners.index(owner), inner
