"""The wrapper around every handler, and what a handler knows of its call.

A service implements its RPCs as plain coroutines, one per method, that know nothing of grpc:

    async def GetTask(self, request: GetTaskRequest, call: Call) -> GetTaskResponse
    async def WatchTask(self, request: WatchTaskRequest, call: Call, send: SendMessage) -> None

`Dispatcher.handler` turns such an object into grpc handlers. Around each call it establishes identity, role and
deadline, validates the request against the rules in its proto, keeps the registry of what is in flight, and maps
every exception: a SluiceError becomes its status, anything else is logged under an id and leaves as INTERNAL with that
id alone, because grpc would show the exception's text to the caller.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

import grpc
import protovalidate
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit import errors
from sluice_kit.auth import Authenticator, Metadata
from sluice_kit.call import Call, current_call
from sluice_kit.errors import FieldViolation, InvalidRequestError, SluiceError, make_error
from sluice_kit.ids import new_id
from sluice_kit.peers import admit
from sluice_kit.roles import authorize
from sluice_kit.telemetry import current
from sluice_kit.telemetry.base import Served
from sluice_kit.tls import Trust

log = logging.getLogger(__name__)

_DRAIN_RETRY_SECONDS: Final = 1.0
_MAX_VIOLATIONS: Final = 16

Context = Any
"""A grpc.aio.ServicerContext; the stubs get its methods wrong."""

SendMessage = Callable[[Any], Awaitable[None]]
"""Sends one message of a stream: a protobuf message, or its bytes already serialised."""


def validate(request: Message | None) -> None:
    """Raises InvalidRequestError, naming every field at fault, if the request breaks a rule of its proto.

    None is one that could not be parsed.
    """
    if request is None:
        raise InvalidRequestError("the request cannot be read: it is of another contract, or a text in it is not UTF-8")
    violations = protovalidate.collect_violations(request)
    if not violations:
        return
    rows = [
        FieldViolation(_path(violation.proto.field), _words(violation)) for violation in violations[:_MAX_VIOLATIONS]
    ]
    first = rows[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    raise InvalidRequestError(f"{first.field or 'request'}: {first.description}{more}", violations=rows)


def _words(violation: Any) -> str:
    """Returns what is wrong, in words where protovalidate's own say it by numbers."""
    match violation.proto.rule_id, violation.rule_value:
        case "enum.not_in", [0]:
            return "must be set"
        case "string.min_len", 1:
            return "must not be empty"
    message: str = violation.proto.message
    return message


def _path(field: Any) -> str:
    """Writes protovalidate's field path the way BadRequest spells one: `spec.messages[0].role`."""
    parts: list[str] = []
    for element in field.elements if field is not None else ():
        subscript = element.subscript
        text = element.field_name
        if subscript is not None:
            value = subscript.value
            text += f'["{value}"]' if isinstance(value, str) else f"[{value}]"
        parts.append(text)
    return ".".join(parts)


def invalid_field(field: str, description: str) -> InvalidRequestError:
    """Returns the error for one field that a rule outside the proto forbids."""
    return InvalidRequestError(f"{field}: {description}", violations=[FieldViolation(field, description)])


def serialize(message: Any) -> bytes:
    """Serialises a message; bytes pass as they are, because hot paths serialise once for many receivers."""
    if type(message) is bytes:
        return message
    serialized: bytes = message.SerializeToString()
    return serialized


def _parser(type_: type[Message]) -> Callable[[bytes], Message | None]:
    read = type_.FromString

    def parse(data: bytes) -> Message | None:
        # What is raised here would leave as UNKNOWN, with the parser's words and a stack trace in the log.
        try:
            return read(data)
        except DecodeError:
            return None

    return parse


class Dispatcher:
    """Wraps the handlers of one listener and knows what is in flight on it."""

    def __init__(self, authenticator: Authenticator, trust: Trust | None = None) -> None:
        """`trust` is set where peers show certificates of services: then only these may call, and what `peers` allows."""
        self._authenticator = authenticator
        self._telemetry = current()
        self._trust = trust
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._draining = False

    @property
    def in_flight(self) -> int:
        """Number of calls being served."""
        return len(self._in_flight)

    def drain(self) -> None:
        """Refuses new calls from now on, with DRAINING."""
        self._draining = True

    async def wait_idle(self) -> None:
        """Waits until no call is in flight, those included whose transport is already gone."""
        while self._in_flight:
            await asyncio.wait(self._in_flight)

    def handler(self, service: ServiceDescriptor, implementation: object) -> grpc.GenericRpcHandler:
        """Returns the grpc handlers of a service. The implementation has a coroutine for each method, by its name.

        Raises TypeError if one is missing: an RPC is never left out silently.
        """
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for method in service.methods:
            function = getattr(implementation, method.name, None)
            if function is None:
                raise TypeError(f"{type(implementation).__name__} does not implement {method.full_name}")
            handlers[method.name] = self._method_handler(service, method, function)
        return grpc.method_handlers_generic_handler(service.full_name, handlers)

    def _method_handler(
        self, service: ServiceDescriptor, method: MethodDescriptor, function: Callable[..., Awaitable[Any]]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        path = f"/{service.full_name}/{method.name}"
        parse = _parser(message_factory.GetMessageClass(method.input_type))
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(self.stream(path, function), parse, serialize)
        return grpc.unary_unary_rpc_method_handler(self.unary(path, function), parse, serialize)

    def unary(
        self, path: str, function: Callable[[Any, Call], Awaitable[Any]], *, check: bool = True
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        """Wraps a coroutine that answers with one message. `check` False leaves validation to another service."""

        rpc = self._telemetry.rpc(path)

        async def handle(request: Any, context: Context) -> Any:
            task = self._enter()
            served = rpc.begins(context)
            try:
                call = self._open(path, context, served)
                if check:
                    validate(request)
                answer = await function(request, call)
                served.succeeded()
                return answer
            except Exception as error:  # the one seam where every exception becomes a status
                if context.done():
                    # The peer is gone (a dead one does not always end a handler by CancelledError): nobody can be told.
                    log.debug("call ended by its peer", extra={"method": path})
                    raise
                await self._abort(path, error, context, served)
            finally:
                served.ended()
                self._in_flight.discard(task)

        return handle

    def stream(
        self, path: str, function: Callable[[Any, Call, SendMessage], Awaitable[None]], *, check: bool = True
    ) -> Callable[[Any, Any], Awaitable[None]]:
        """Wraps a coroutine that sends a stream of messages. `check` False leaves validation to another service."""

        rpc = self._telemetry.rpc(path)

        async def handle(request: Any, context: Context) -> None:
            task = self._enter()
            served = rpc.begins(context)
            try:
                call = self._open(path, context, served)
                if check:
                    validate(request)
                await function(request, call, context.write)
                served.succeeded()
            except Exception as error:  # the one seam where every exception becomes a status
                if context.done():
                    # The peer is gone (a dead one does not always end a handler by CancelledError): nobody can be told.
                    log.debug("call ended by its peer", extra={"method": path})
                    raise
                await self._abort(path, error, context, served)
            finally:
                served.ended()
                self._in_flight.discard(task)

        return handle

    def _enter(self) -> asyncio.Task[Any]:
        task = asyncio.current_task()
        assert task is not None  # grpc.aio runs every handler in a task of its own
        self._in_flight.add(task)
        return task

    def _open(self, path: str, context: Context, served: Served) -> Call:
        if self._draining:
            raise make_error(
                ErrorReason.ERROR_REASON_DRAINING, "the service is shutting down", retry_after=_DRAIN_RETRY_SECONDS
            )
        metadata = cast("Metadata", context.invocation_metadata())
        peer = context.peer() if self._trust is None else admit(self._trust, path, context)
        identity = self._authenticator.authenticate(metadata, peer)
        authorize(identity, path)
        left = context.time_remaining()
        deadline = asyncio.get_running_loop().time() + left if left is not None else None
        call = Call(path, identity, deadline, metadata, served.span)
        current_call.set(call)
        return call

    async def _abort(self, path: str, error: Exception, context: Context, served: Served) -> None:
        raised = error
        if isinstance(error, grpc.aio.AioRpcError):
            # A call to another service failed and the handler had nothing to add.
            error = errors.from_rpc_error(error)
        if isinstance(error, SluiceError):
            failure = error
            log.info("call failed", extra={"method": path, "reason": failure.reason_name, "detail": failure.message})
        else:
            error_id = new_id()[:12]
            failure = errors.internal_error(error_id)
            log.error("unexpected exception", extra={"method": path, "error_id": error_id}, exc_info=error)
        served.failed(failure.code.name, failure.reason_name)
        status = errors.to_status(failure)
        trailers = ((errors.STATUS_DETAILS_KEY, status.SerializeToString()),)
        try:
            await context.abort(failure.code, status.message, trailers)
        except grpc.aio.AbortError as aborted:
            # grpc keeps it with the call, which the frames here know, and raises it again once the handler is done.
            errors.forget_frames(aborted)
        errors.forget_frames(raised)  # some of its frames hold it as the failure of what they tried


def handlers_by_path(service: ServiceDescriptor) -> Mapping[str, MethodDescriptor]:
    """Returns the methods of a service by their path on the wire."""
    return {f"/{service.full_name}/{method.name}": method for method in service.methods}
