"""Midstream: what becomes of an answer that breaks off after its first content.

RESTART needs nothing but an event: a new attempt answers from the beginning, and its first content comes with a
`Restarted` that voids what was sent. CONTINUE hands what was sent to a new attempt as a started message of the
assistant; what it sends is moved so that its text follows on in the same block.
"""

from collections.abc import Awaitable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from sluice.chat.v1.event_pb2 import Event
from sluice.chat.v1.message_pb2 import Message, MessageRole, Part
from sluice.chat.v1.parameters_pb2 import GenerationParameters
from sluice.gateway.v1.chat_service_pb2 import ChatSpec, MidstreamPolicy
from sluice.provider.v1.provider_service_pb2 import GenerateRequest, GenerateResponse
from sluice_gateway.config import RoutePolicy
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_gateway.pipeline.citations import CitationCollector
from sluice_gateway.pipeline.relay import Relay
from sluice_gateway.responses.log import unpack
from sluice_gateway.responses.response import Response

if TYPE_CHECKING:
    Policy: TypeAlias = MidstreamPolicy.ValueType
else:
    Policy = int

FAIL: Final = MidstreamPolicy.MIDSTREAM_POLICY_FAIL
RESTART: Final = MidstreamPolicy.MIDSTREAM_POLICY_RESTART
CONTINUE: Final = MidstreamPolicy.MIDSTREAM_POLICY_CONTINUE
_BY_NAME: Final[dict[str, Policy]] = {"fail": FAIL, "restart": RESTART, "continue": CONTINUE}
_CONTENT: Final = frozenset({"text_delta", "reasoning_delta", "tool_call_delta", "citation_delta"})
_ASSISTANT: Final = MessageRole.MESSAGE_ROLE_ASSISTANT


def policy_of(spec: ChatSpec, route: RoutePolicy) -> Policy:
    """Returns what a request says, or its route."""
    return spec.midstream_policy or _BY_NAME[route.midstream]


@dataclass(frozen=True, slots=True)
class Partial:
    """An answer that broke off, as far as it was sent."""

    text: str
    """All of it."""
    block: int
    """Index of its last block."""
    block_bytes: int
    """Length of that block in UTF-8."""

    @property
    def prefill(self) -> str:
        """What a new attempt is given: vendors refuse a started message that ends in white space."""
        return self.text.rstrip()

    @property
    def space(self) -> str:
        """The white space at its end, which was sent and which a new attempt will begin with again."""
        return self.text[len(self.prefill) :]


def partial_of(response: Response, spec: ChatSpec) -> Partial | str:
    """Returns what was sent of an answer, or why no other attempt can go on from there, in one word."""
    if spec.response_format.WhichOneof("kind") in ("json", "json_schema"):
        return "json"
    parts = response.answer().message.parts
    for part in parts:
        kind = part.WhichOneof("kind")
        if kind != "text":
            return kind or "unknown"
    indexes = [event.text_delta.block_index for event in _kept(response) if event.HasField("text_delta")]
    text = "".join(part.text for part in parts)
    if not indexes or not text.strip():
        return "no_text"
    return Partial(text, max(indexes), len(parts[-1].text.encode()))


def _kept(response: Response) -> Iterator[Event]:
    for batch in response.log.batches():
        yield from unpack(batch)


def tokens_left(parameters: GenerationParameters, records: Iterable[AttemptRecord]) -> int | None:
    """Returns how many tokens a request still allows after what its attempts generated; None: it sets no limit."""
    if not parameters.HasField("max_output_tokens"):
        return None
    return parameters.max_output_tokens - sum(record.usage.output_tokens for record in records)


def continue_from(partial: Partial, request: GenerateRequest, left: int | None) -> None:
    """Makes a request one that goes on from what was sent, with at most `left` tokens more."""
    request.messages.append(Message(role=_ASSISTANT, parts=[Part(text=partial.prefill)]))
    if left is not None:
        request.parameters.max_output_tokens = left


class ContinuedRelay(Relay):
    """The relay of an attempt that goes on from what another one sent."""

    __slots__ = ("_partial", "_shift", "_shown", "_space")

    def __init__(
        self, response: Response, record: AttemptRecord, collector: CitationCollector | None, partial: Partial
    ) -> None:
        super().__init__(response, record, collector)
        self._partial = partial
        self._space = partial.space
        """What the first text is expected to begin with though it was sent already."""
        self._shift: int | None = None
        """What is added to the index of each block; None before the first."""
        self._shown = 0
        """Bytes of the joined block before the first that this attempt sent."""

    def deliver(self, batch: GenerateResponse) -> Awaitable[None] | None:
        for event in batch.events:
            kind = event.WhichOneof("kind")
            if kind not in _CONTENT:
                continue
            delta = getattr(event, kind)
            if self._shift is None:
                # What is not text cannot join the block, and neither can what comes behind it.
                joins = kind == "text_delta" and delta.block_index == 0
                self._shift = self._partial.block if joins else self._partial.block + 1
                self._shown = self._partial.block_bytes if joins else 0
            if kind == "text_delta" and self._space:
                again = _shared(self._space, delta.text)
                self._space = ""
                delta.text = delta.text[again:]
                if self._shown:
                    self._shown -= len(self._partial.space[:again].encode())
            elif kind == "citation_delta" and delta.block_index == 0:
                delta.answer_span.start += self._shown
                delta.answer_span.end += self._shown
            delta.block_index += self._shift
        return super().deliver(batch)


def _shared(one: str, other: str) -> int:
    """Returns how many characters two texts have in common from their beginning."""
    length = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        length += 1
    return length
