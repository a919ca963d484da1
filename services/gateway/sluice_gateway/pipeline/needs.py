"""Needs: what a request asks of a model, for whoever passes over those that are known not to have it."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sluice.chat.v1.message_pb2 import Message
from sluice.chat.v1.parameters_pb2 import ReasoningEffort
from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1.chat_service_pb2 import ChatSpec
from sluice.provider.v1.model_pb2 import Capability
from sluice_gateway.catalog import Catalog
from sluice_kit.errors import SluiceError
from sluice_kit.rpc import invalid_field

_NO_EFFORT: Final = frozenset(
    {
        ReasoningEffort.REASONING_EFFORT_UNSPECIFIED,
        ReasoningEffort.REASONING_EFFORT_NONE,
        ReasoningEffort.REASONING_EFFORT_MINIMAL,
    }
)


class Need(NamedTuple):
    """One thing that a request cannot do without."""

    option: str
    """What asks for it, by the name that adapters have for it, too."""
    capability: int
    """A value of sluice.provider.v1.Capability."""


_TOOLS: Final = Need("tools", Capability.CAPABILITY_TOOLS)
_SCHEMA: Final = Need("response_format.json_schema", Capability.CAPABILITY_STRUCTURED_OUTPUT)
_IMAGES: Final = Need("images", Capability.CAPABILITY_IMAGES)
_REASONING: Final = Need("reasoning_effort", Capability.CAPABILITY_REASONING)


def needs_of(spec: ChatSpec) -> Sequence[Need]:
    """Returns what a request needs; nothing for a plain one.

    JSON without a schema is not among it, because models need no support of their vendor's for that; nor is what a
    `lenient` request goes without.
    """
    needs = []
    if spec.tools:
        needs.append(_TOOLS)
    if spec.response_format.HasField("json_schema"):
        needs.append(_SCHEMA)
    if spec.parameters.reasoning_effort not in _NO_EFFORT and not spec.lenient:
        needs.append(_REASONING)
    if _has_image(spec.messages):
        needs.append(_IMAGES)
    return needs


def _has_image(messages: Sequence[Message]) -> bool:
    return any(part.HasField("image") for message in messages for part in message.parts)


def lacking(catalog: Catalog, target: Target, needs: Sequence[Need]) -> Need | None:
    """Returns what a target is known not to have; None where it has all, or where that is not known."""
    return next((need for need in needs if catalog.lacks(target, need.capability)), None)


def refusal(target: Target, need: Need) -> SluiceError:
    """Returns the failure of a request none of whose targets has what it needs."""
    error = invalid_field(need.option, f"{target.provider}/{target.model} cannot do this, nor can any other target")
    error.reason = ErrorReason.ERROR_REASON_UNSUPPORTED_OPTION
    error.metadata = {"option": need.option, "provider": target.provider}
    return error
