"""Form: what an answer has to look like where the request says so, and the relay that holds it to that."""

import asyncio
import sys
from collections.abc import Awaitable
from typing import Final

import msgspec

from sluice.chat.v1.event_pb2 import Event
from sluice.chat.v1.usage_pb2 import FinishReason
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1.chat_service_pb2 import ChatSpec
from sluice.provider.v1.provider_service_pb2 import GenerateResponse
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_gateway.pipeline.citations import CitationCollector
from sluice_gateway.pipeline.relay import Relay
from sluice_gateway.pipeline.schema import Schema, Violation
from sluice_gateway.responses.response import Response
from sluice_kit.errors import SluiceError, make_error

MAX_CHARACTERS: Final = 1024 * 1024
"""A longer answer is not checked, and so not taken."""
_MAX_STEPS: Final = 250_000_000
"""Characters of an answer times objects of its schema: about a second at the worst."""
_STEPS_ON_LOOP: Final = 200_000
"""What is smaller is checked at once; what may take longer, in a thread."""
_COMPILED_ON_LOOP: Final = 4096
"""Characters of a schema that is compiled at once; larger ones, and those with patterns, are compiled in a thread."""
_STEPS_LOCATED: Final = 2_000_000
"""Where it breaks its schema is looked for in what is smaller."""
_WHAT: Final = {
    "json": "is not JSON",
    "size": "is too long to be checked by its schema",
    "time": "could not be checked by its schema in time",
}
_LENGTH: Final = FinishReason.FINISH_REASON_LENGTH
_NO_TEXT: Final = frozenset({FinishReason.FINISH_REASON_TOOL_CALLS, FinishReason.FINISH_REASON_CONTENT_FILTER})
"""Answers that end so are no texts of the form, and say so themselves."""


class Form:
    """JSON, and its schema if there is one."""

    def __init__(self, schema: Schema | None) -> None:
        self._schema = schema

    async def violation(self, text: str) -> Violation | None:
        """Returns where a text breaks the form; None if it does not."""
        schema = self._schema
        steps = len(text) * (1 if schema is None else schema.nodes + 1)
        if len(text) > MAX_CHARACTERS or steps > _MAX_STEPS:
            return Violation("", "size")
        if steps <= _STEPS_ON_LOOP and (schema is None or not schema.refers):
            return self._check(text, steps)
        return await asyncio.to_thread(self._check, text, steps)

    def _check(self, text: str, steps: int) -> Violation | None:
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            return Violation("", "json")
        return None if self._schema is None else self._schema.check(value, locate=steps <= _STEPS_LOCATED)


async def form_of(spec: ChatSpec) -> Form | None:
    """Returns the form that a request asks for, None for free text. Raises InvalidRequestError for a bad schema."""
    match spec.response_format.WhichOneof("kind"):
        case "json_schema":
            text = spec.response_format.json_schema.schema_json
            if len(text) <= _COMPILED_ON_LOOP and "attern" not in text:
                return Form(Schema(text))
            return Form(await asyncio.to_thread(Schema, text))
        case "json":
            return Form(None)
        case _:
            return None


class FormRelay(Relay):
    """The relay of an attempt whose answer has a form.

    It passes the text on as it comes, because who asked for a stream wants one, but keeps back what came last until the
    whole is checked. For a caller who reads the answer only when it is whole nothing is passed on before.
    """

    __slots__ = ("_form", "_others", "_size", "_texts", "_unseen")

    def __init__(
        self,
        response: Response,
        record: AttemptRecord,
        collector: CitationCollector | None,
        form: Form,
        *,
        whole: bool,
    ) -> None:
        super().__init__(response, record, collector)
        self._form = form
        self._texts: dict[int, list[str]] = {}
        self._size = 0
        self._others = False
        """Whether it calls tools."""
        self._unseen = False
        """Whether all of it came at once, so that nothing of it was shown."""
        if whole:
            self.prove_chars = sys.maxsize

    def deliver(self, batch: GenerateResponse) -> Awaitable[None] | None:
        for event in batch.events:
            if event.HasField("text_delta"):
                delta = event.text_delta
                self._size += len(delta.text)
                if self._size <= MAX_CHARACTERS:
                    self._texts.setdefault(delta.block_index, []).append(delta.text)
            elif event.HasField("tool_call_delta"):
                self._others = True
        committed = self.committed
        room = super().deliver(batch)
        self._unseen = self._unseen or (self.committed and not committed and self.completed is not None)
        return room

    def _pass_on(self, events: list[Event]) -> Awaitable[None] | None:
        if self.completed is not None:
            self.tail = events
            return None
        return super()._pass_on(events)

    async def verify(self) -> None:
        """Raises OUTPUT_INVALID unless the answer has its form."""
        assert self.completed is not None  # it is asked for after the end
        finish = self.completed.finish_reason
        if self._others or finish in _NO_TEXT:
            return
        if finish == _LENGTH:
            failure = self._failure("was cut off at its limit of tokens", {"path": "", "finish": "length"})
        else:
            violation = Violation("", "size")
            if self._size <= MAX_CHARACTERS:
                text = "".join("".join(pieces) for _, pieces in sorted(self._texts.items()))
                found = await self._form.violation(text)
                if found is None:
                    return
                violation = found
            what = _WHAT.get(
                violation.keyword, f"breaks its schema at {violation.path or 'its top'}: {violation.keyword}"
            )
            failure = self._failure(what, violation._asdict())
        if self._unseen:
            # Nobody has seen any of it, so that another attempt has nothing to make void.
            self.committed = False
            self.tail = []
        raise failure

    def _failure(self, what: str, metadata: dict[str, str]) -> SluiceError:
        provider = self.record.target.provider
        return make_error(
            ErrorReason.ERROR_REASON_OUTPUT_INVALID,
            f"the answer of {provider} {what}",
            metadata={"provider": provider, **metadata},
        )
