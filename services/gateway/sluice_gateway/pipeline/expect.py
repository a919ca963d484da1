"""Expect: what an attempt is taken to read when it begins, and what its tokens cost.

It is put on record with the attempt's beginning, so that whoever ends the attempt for a gateway that died can say what it
used and cost without having seen the request.
"""

from collections.abc import Sequence
from typing import Final

from sluice.chat.v1.passage_pb2 import Passage
from sluice.gateway.v1.chat_service_pb2 import ChatSpec
from sluice_gateway.conversations.history import estimate
from sluice_gateway.pipeline.prompts import Template

_SHORT_BYTES: Final = 8192
"""Of what is shorter the size says enough; in what is longer there may be images and files."""
_BYTES_PER_TOKEN: Final = 4


def tokens_of_spec(spec: ChatSpec) -> int:
    """Returns the estimated tokens of what a request itself says."""
    size = spec.ByteSize()
    if spec.labels:
        size -= sum(len(name) + len(value) for name, value in spec.labels.items())
    if size < _SHORT_BYTES:
        return -(-size // _BYTES_PER_TOKEN)
    beside = len(spec.system_instruction) + sum(tool.ByteSize() for tool in spec.tools)
    return estimate(spec.messages) + beside // _BYTES_PER_TOKEN


def tokens_of_passages(passages: Sequence[Passage], template: Template | None) -> int:
    """Returns the estimated tokens of passages, and of what a model is told of them."""
    if not passages:
        return 0
    size = sum(len(passage.text) for passage in passages)
    return (size + (0 if template is None else len(template.text))) // _BYTES_PER_TOKEN
