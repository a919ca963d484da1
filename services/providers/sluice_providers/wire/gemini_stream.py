"""Reads replies of the generateContent interface: the stream of chunks, and the one whole reply.

This is the token path: each chunk is decoded once, into structs that name only the fields needed, and text that one
read brought in several chunks leaves as one delta. The format has no marker of its own at the end of a stream: the
chunk that says why the answer ended is the last but for the count of tokens, which it mostly holds, too.
"""

from typing import Any, Final

import msgspec

from sluice.chat.v1 import usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_providers.failures import VendorError, protocol_error
from sluice_providers.http import printable_header
from sluice_providers.wire import gemini_state

_FILTERED: Final = usage_pb2.FINISH_REASON_CONTENT_FILTER
_FINISH: Final = {
    "STOP": usage_pb2.FINISH_REASON_STOP,
    "MAX_TOKENS": usage_pb2.FINISH_REASON_LENGTH,
    "SAFETY": _FILTERED,
    "RECITATION": _FILTERED,
    "BLOCKLIST": _FILTERED,
    "PROHIBITED_CONTENT": _FILTERED,
    "SPII": _FILTERED,
    "IMAGE_SAFETY": _FILTERED,
    "IMAGE_PROHIBITED_CONTENT": _FILTERED,
    "IMAGE_RECITATION": _FILTERED,
    "MODEL_ARMOR": _FILTERED,
}
_TEXT: Final = "text"
_THOUGHT: Final = "thought"


class _FunctionCall(msgspec.Struct, gc=False):
    id: str | None = None
    name: str | None = None
    args: msgspec.Raw = msgspec.Raw()


class _Part(msgspec.Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None


class _Content(msgspec.Struct, gc=False):
    parts: tuple[_Part, ...] | None = None


class _Candidate(msgspec.Struct, gc=False, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(msgspec.Struct, gc=False, rename="camel"):
    block_reason: str | None = None


class _Usage(msgspec.Struct, gc=False, rename="camel"):
    prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None


class _Chunk(msgspec.Struct, gc=False, rename="camel"):
    candidates: tuple[_Candidate, ...] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Chunk).decode


class GeminiStream:
    """Translates the chunks of one answer. `done` is set where its end and its count of tokens are known."""

    __slots__ = (
        "_block",
        "_blocked",
        "_calls",
        "_finish",
        "_integration",
        "_kind",
        "_pieces",
        "_response_id",
        "_started",
        "_usage",
        "alive",
        "done",
    )

    def __init__(self, integration: str) -> None:
        self._integration = integration
        self._started = False
        self._response_id = ""
        self._block = -1
        self._kind = ""  # of the block that grows
        self._pieces: list[str] = []  # of its text, not yet emitted
        self._calls = 0
        self._finish = ""
        self._blocked = False
        self._usage: _Usage | None = None
        self.done = False
        self.alive = False

    def translate(self, payloads: list[bytes]) -> pb.GenerateResponse:
        """Returns the events of the chunks. Raises VendorError, msgspec.DecodeError, SluiceError."""
        batch = pb.GenerateResponse()
        for payload in payloads:
            chunk = _decode(payload)
            self._take(batch, chunk)
            if chunk.usage_metadata is not None and self._usage is None:
                # The first count tells the input, which the ledger has then also of attempts that are cancelled.
                update = batch.events.add().usage_update.usage
                _fill(update, chunk.usage_metadata)
                update.source = usage_pb2.USAGE_SOURCE_PARTIAL
            self._usage = chunk.usage_metadata or self._usage
            if self._finish and chunk.usage_metadata is not None:
                self._complete(batch)
                return batch
        self._join(batch)
        return batch

    def ended(self) -> pb.GenerateResponse | None:
        """Returns the terminal event where the answer came to its end without a count of tokens."""
        if not self._finish:
            return None
        batch = pb.GenerateResponse()
        self._complete(batch)
        return batch

    def translate_whole(self, payload: bytes) -> pb.GenerateResponse:
        """Returns the events of a reply that came whole. Raises like `translate`."""
        batch = pb.GenerateResponse()
        reply = _decode(payload)
        self._take(batch, reply)
        if not self._finish:
            raise protocol_error(self._integration, "a reply that does not say how it ended")
        self._usage = reply.usage_metadata
        self._complete(batch)
        return batch

    def _take(self, batch: pb.GenerateResponse, chunk: _Chunk) -> None:
        """Takes all of a chunk but its count of tokens."""
        if chunk.error:
            raise VendorError({"error": chunk.error})
        if not self._started:
            self._started = True
            self._response_id = printable_header(chunk.response_id)
            started = batch.events.add().started
            started.vendor_request_id = self._response_id
            started.model = chunk.model_version or ""
        if chunk.candidates:
            candidate = chunk.candidates[0]
            if candidate.content is not None and candidate.content.parts:
                for part in candidate.content.parts:
                    self._part(batch, part)
            if candidate.finish_reason:
                self._finish = candidate.finish_reason
        elif chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason:
            self._finish = chunk.prompt_feedback.block_reason
            self._blocked = True

    def _part(self, batch: pb.GenerateResponse, part: _Part) -> None:
        signature = part.thought_signature
        if part.function_call is not None:
            if signature:
                self._state(batch, gemini_state.ahead(signature))
            self._call(batch, part.function_call)
        elif part.thought:
            if part.text:
                self._append(batch, _THOUGHT, part.text)
            if signature:
                self._state(batch, gemini_state.within(signature))
        elif part.text is not None:
            if not signature:
                if part.text:
                    self._append(batch, _TEXT, part.text)
            elif part.text and self._kind != _TEXT:
                self._state(batch, gemini_state.ahead(signature))
                self._append(batch, _TEXT, part.text)
                self._close(batch)  # nothing unsigned may join it
            else:
                # A block of its own for the end of a text would tear the text in two for whoever reads it.
                if part.text:
                    self._append(batch, _TEXT, part.text)
                self._state(batch, gemini_state.behind(signature, part.text))

    def _append(self, batch: pb.GenerateResponse, kind: str, text: str) -> None:
        if self._kind != kind:
            self._join(batch)
            self._kind = kind
            self._block += 1
        self._pieces.append(text)

    def _state(self, batch: pb.GenerateResponse, state: bytes) -> None:
        """Adds a state to the thought that grows, or as a block of its own. A block holds one state, at its end."""
        self._join(batch)
        if self._kind != _THOUGHT:
            self._block += 1
        delta = batch.events.add().reasoning_delta
        delta.block_index = self._block
        delta.state = state
        self._kind = ""

    def _call(self, batch: pb.GenerateResponse, call: _FunctionCall) -> None:
        self._close(batch)
        if not call.name:
            raise protocol_error(self._integration, "a tool call without its name")
        self._block += 1
        delta = batch.events.add().tool_call_delta
        delta.block_index = self._block
        delta.id = call.id or f"{gemini_state.MADE_UP_ID}{self._response_id or 'call'}-{self._calls}"
        delta.name = call.name
        arguments = bytes(call.args)
        delta.arguments_json = "{}" if arguments in (b"", b"null") else arguments.decode()
        self._calls += 1

    def _close(self, batch: pb.GenerateResponse) -> None:
        """Ends the block that grows."""
        self._join(batch)
        self._kind = ""

    def _join(self, batch: pb.GenerateResponse) -> None:
        """Adds the event of the text that was joined."""
        pieces = self._pieces
        if not pieces:
            return
        text = pieces[0] if len(pieces) == 1 else "".join(pieces)
        pieces.clear()
        event = batch.events.add()
        delta = event.text_delta if self._kind == _TEXT else event.reasoning_delta
        delta.block_index = self._block
        delta.text = text

    def _complete(self, batch: pb.GenerateResponse) -> None:
        self._join(batch)
        completed = batch.events.add().completed
        if self._blocked:
            completed.finish_reason = _FILTERED
        elif self._calls and self._finish == "STOP":
            completed.finish_reason = usage_pb2.FINISH_REASON_TOOL_CALLS
        else:
            completed.finish_reason = _FINISH.get(self._finish, usage_pb2.FINISH_REASON_UNSPECIFIED)
        completed.raw_finish_reason = self._finish
        if self._usage is not None:
            _fill(completed.usage, self._usage)
            completed.usage.source = usage_pb2.USAGE_SOURCE_PROVIDER
        self.done = True


def _fill(target: usage_pb2.Usage, usage: _Usage) -> None:
    """Writes the vendor's counts, whose output leaves thoughts out and whose input leaves results of its own tools."""
    target.input_tokens = (usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0)
    target.cached_input_tokens = usage.cached_content_token_count or 0
    target.reasoning_tokens = usage.thoughts_token_count or 0
    target.output_tokens = (usage.candidates_token_count or 0) + target.reasoning_tokens
