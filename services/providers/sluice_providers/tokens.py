"""Estimates of token counts, made offline from the length of texts, with a stated margin.

No tokenizer is used: vendors' tokenizers are not public, or are fetched at run time. English prose has about four
characters a token with current vocabularies, code about three, and scripts beyond Latin one to two; counting UTF-8
bytes instead of characters follows that without looking at the language.
"""

from collections.abc import Iterable
from typing import Final

from sluice.chat.v1 import message_pb2, tool_pb2, usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb

BYTES_PER_TOKEN: Final = 3.6
MARGIN: Final = 0.35
"""The true count lies within the estimate × (1 ± this)."""
_PER_MESSAGE: Final = 4
_PER_IMAGE: Final = 1000


def estimate(size: int) -> int:
    """Returns the estimated tokens of so many UTF-8 bytes; at least 1 for any text."""
    return max(1, round(size / BYTES_PER_TOKEN)) if size else 0


def estimate_text(text: str) -> int:
    """Returns the estimated tokens of a text."""
    return estimate(len(text.encode()))


def _part_tokens(part: message_pb2.Part) -> int:
    kind = part.WhichOneof("kind")
    if kind == "text":
        return estimate_text(part.text)
    if kind == "tool_call":
        call = part.tool_call
        return estimate_text(call.name + call.arguments_json + call.input_text) + _PER_MESSAGE
    if kind == "tool_result":
        return estimate_text(part.tool_result.text) + _PER_MESSAGE
    if kind == "reasoning":
        return estimate_text(part.reasoning.text)
    if kind == "file":
        return estimate(len(part.file.data))
    return _PER_IMAGE


def estimate_prompt(
    messages: Iterable[message_pb2.Message], system_instruction: str, tools: Iterable[tool_pb2.Tool]
) -> int:
    """Returns the estimated tokens of a prompt."""
    total = estimate_text(system_instruction)
    for message in messages:
        total += _PER_MESSAGE + sum(map(_part_tokens, message.parts))
    for tool in tools:
        total += estimate(tool.ByteSize())
    return total


def count_request(request: pb.CountTokensRequest) -> pb.CountTokensResponse:
    """Returns the estimated count of a prompt."""
    total = estimate_prompt(request.messages, request.system_instruction, request.tools)
    return pb.CountTokensResponse(tokens=total, kind=pb.TOKEN_COUNT_KIND_ESTIMATED, margin=MARGIN)


def estimate_usage(request: pb.GenerateRequest, output_bytes: int) -> usage_pb2.Usage:
    """Returns the estimated usage of an attempt that produced so many bytes of content."""
    read = estimate_prompt(request.messages, request.system_instruction, request.tools)
    read += sum(estimate_text(passage.text) for passage in request.passages)
    return usage_pb2.Usage(
        input_tokens=read, output_tokens=estimate(output_bytes), source=usage_pb2.USAGE_SOURCE_ESTIMATED
    )
