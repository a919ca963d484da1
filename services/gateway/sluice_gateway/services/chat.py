"""`ChatService`: answers."""

import asyncio
from copy import copy
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from sluice.chat.v1.tool_pb2 import ToolChoiceMode
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_gateway.pipeline.ground import check_grounding
from sluice_gateway.responses.registry import Responses
from sluice_gateway.responses.response import Response, State
from sluice_gateway.responses.store import ElsewhereError
from sluice_gateway.responses.watch import watch
from sluice_gateway.services.storable import check_labels
from sluice_kit.call import Call
from sluice_kit.errors import to_status
from sluice_kit.rpc import SendMessage, invalid_field

_STATES: Final = {
    State.RUNNING: pb.ResponseState.RESPONSE_STATE_RUNNING,
    State.COMPLETED: pb.ResponseState.RESPONSE_STATE_COMPLETED,
    State.FAILED: pb.ResponseState.RESPONSE_STATE_FAILED,
    State.CANCELLED: pb.ResponseState.RESPONSE_STATE_CANCELLED,
}
# A call that folds the whole answer is never behind.
_NEVER_BEHIND: Final = 1 << 62
_CANCEL_SECONDS: Final = 5.0


class ChatService:
    """Implements sluice.gateway.v1.ChatService."""

    def __init__(self, responses: Responses) -> None:
        self._responses = responses

    async def StreamChat(self, request: pb.StreamChatRequest, call: Call, send: SendMessage) -> None:
        _check(request.spec)
        response = self._responses.open("StreamChat", request.request_id, request.spec, call)
        try:
            await watch(response, 0, send)
        except ElsewhereError as elsewhere:
            await watch(await self._responses.find(elsewhere.metadata["resource"], call.tenant), 0, send)

    async def Chat(self, request: pb.ChatRequest, call: Call) -> pb.ChatResponse:
        _check(request.spec)
        response = self._responses.open("Chat", request.request_id, request.spec, call)
        try:
            return await _fold(response)
        except ElsewhereError as elsewhere:
            return await _fold(await self._responses.find(elsewhere.metadata["resource"], call.tenant))

    async def ResumeChat(self, request: pb.ResumeChatRequest, call: Call, send: SendMessage) -> None:
        response = await self._responses.find(request.response, call.tenant)
        call.span.link(response.span)
        await watch(response, request.after_sequence, send)

    async def CancelChat(self, request: pb.CancelChatRequest, call: Call) -> pb.CancelChatResponse:
        response = await self._responses.find(request.response, call.tenant)
        if not response.ended:
            await self._responses.cancel(response)
            await asyncio.wait((response.done,), timeout=_CANCEL_SECONDS)
        return pb.CancelChatResponse(state=_state(response))

    async def GetResponse(self, request: pb.GetResponseRequest, call: Call) -> pb.GetResponseResponse:
        return _describe(await self._responses.find(request.response, call.tenant))


async def _fold(response: Response) -> pb.ChatResponse:
    """Waits for the end of a response and returns its answer, or raises what it failed with."""
    watcher = response.attach(_NEVER_BEHIND)
    watcher.position = _NEVER_BEHIND
    try:
        # The future is the response's: this call's cancellation must not reach it.
        await asyncio.shield(response.done)
    finally:
        response.detach(watcher)
    if response.error is not None:
        raise copy(response.error)
    return pb.ChatResponse(answer=response.answer())


def _state(response: Response) -> "pb.ResponseState.ValueType":
    return _STATES[response.state if response.ended else State.RUNNING]


def _describe(response: Response) -> pb.GetResponseResponse:
    time = Timestamp()
    time.FromNanoseconds(response.accept_time_ns)
    return pb.GetResponseResponse(
        state=_state(response),
        answer=response.answer(),
        error=to_status(response.error) if response.ended and response.error is not None else None,
        last_sequence=response.log.last_sequence,
        accept_time=time,
    )


def _check(spec: pb.ChatSpec) -> None:
    """Rules over several fields, which the contract's own rules do not say."""
    if spec.HasField("tool_choice"):
        choice = spec.tool_choice
        if (choice.mode == ToolChoiceMode.TOOL_CHOICE_MODE_NAMED) != choice.HasField("name"):
            raise invalid_field("spec.tool_choice.name", "goes with mode NAMED, and only with it")
        if not spec.tools:
            raise invalid_field("spec.tool_choice", "there are no tools to choose from")
        names = {tool.function.name or tool.custom.name for tool in spec.tools}
        if choice.HasField("name") and choice.name not in names:
            raise invalid_field("spec.tool_choice.name", "no tool of that name")
    if spec.labels:
        check_labels("spec.labels", spec.labels)
    if spec.HasField("grounding"):
        check_grounding(spec)
