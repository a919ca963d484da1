"""Reads lists of models, as the servers of the OpenAI format write them: each tells more than the others, and elsewhere.

Capabilities are claimed only where the list tells them, or the configuration does, or OpenAI's documentation does for
its own models.
"""

import re
from collections.abc import Collection, Iterable
from typing import Any, Final, TypeAlias

from sluice.provider.v1 import model_pb2
from sluice_providers.failures import protocol_error
from sluice_providers.sizes import human_count, human_size

Capability: TypeAlias = model_pb2.Capability.ValueType

_STREAMING: Final = model_pb2.CAPABILITY_STREAMING
_TOOLS: Final = model_pb2.CAPABILITY_TOOLS
_STRUCTURED: Final = model_pb2.CAPABILITY_STRUCTURED_OUTPUT
_IMAGES: Final = model_pb2.CAPABILITY_IMAGES
_REASONING: Final = model_pb2.CAPABILITY_REASONING
_EMBEDDINGS: Final = model_pb2.CAPABILITY_EMBEDDINGS
_PREFILL: Final = model_pb2.CAPABILITY_ASSISTANT_PREFILL

_MAX_TOKENS: Final = 2**40
_MAX_SECONDS: Final = 2**36
_DATE: Final = r"(-\d{4}-\d\d-\d\d)?$"

_OPENAI_FAMILIES: Final[tuple[tuple[re.Pattern[str], frozenset[Capability]], ...]] = tuple(
    (re.compile(pattern), frozenset(capabilities))
    for pattern, capabilities in (
        (r"text-embedding-(3-small|3-large|ada-002)$", {_EMBEDDINGS}),
        (r"gpt-3\.5-turbo(-0125|-1106)?$", {_STREAMING, _TOOLS}),
        (r"gpt-4-turbo" + _DATE, {_STREAMING, _TOOLS, _IMAGES}),
        # Its first snapshot came before answers by a schema.
        (r"gpt-4o-2024-05-13$", {_STREAMING, _TOOLS, _IMAGES}),
        (r"gpt-4o(-mini)?" + _DATE, {_STREAMING, _TOOLS, _STRUCTURED, _IMAGES}),
        (r"gpt-4\.1(-mini|-nano)?" + _DATE, {_STREAMING, _TOOLS, _STRUCTURED, _IMAGES}),
        (r"gpt-5(\.\d+)?(-mini|-nano)?" + _DATE, {_STREAMING, _TOOLS, _STRUCTURED, _IMAGES, _REASONING}),
        (r"o3-mini" + _DATE, {_STREAMING, _TOOLS, _STRUCTURED, _REASONING}),
        (r"(o1|o3|o4-mini)" + _DATE, {_STREAMING, _TOOLS, _STRUCTURED, _IMAGES, _REASONING}),
    )
)
"""What OpenAI documents of its own families, by names in full: variants for sound, search or one interface only are
none of them."""

_PARAMETERS: Final = {"tools": _TOOLS, "structured_outputs": _STRUCTURED, "reasoning": _REASONING}
"""`supported_parameters` of OpenRouter."""
_FLAGS: Final = {
    "completion_chat": _STREAMING,  # Mistral
    "function_calling": _TOOLS,
    "vision": _IMAGES,
    "reasoning": _REASONING,
    "supports_chat": _STREAMING,  # Fireworks
    "supports_tools": _TOOLS,
    "supports_image_input": _IMAGES,
    "supports_image_in": _IMAGES,  # Moonshot
    "supports_reasoning": _REASONING,  # and LiteLLM
    "supports_function_calling": _TOOLS,
    "supports_vision": _IMAGES,
    "supports_response_schema": _STRUCTURED,
    "supports_assistant_prefill": _PREFILL,
    "tool_use": _TOOLS,  # LM Studio
}
"""Flags that some set to true for a model, on it or in `capabilities` or `model_info`."""
_KINDS: Final = {
    "chat": frozenset({_STREAMING}),  # Together, LiteLLM
    "embedding": frozenset({_EMBEDDINGS}),
    "llm": frozenset({_STREAMING}),  # LM Studio
    "vlm": frozenset({_STREAMING, _IMAGES}),
    "embeddings": frozenset({_EMBEDDINGS}),
}
"""`type` or `mode` of a model. One that is not here does not chat."""


def read_models(integration: str, body: Any, common: Collection[Capability] = ()) -> list[model_pb2.Model]:
    """Returns the models of a list: an object whose `data` they are, or the bare array.

    `common` is what every chat model here can do. Raises SluiceError if the reply is no such list.
    """
    rows = body.get("data") if isinstance(body, dict) else body
    if not isinstance(rows, list):
        raise protocol_error(integration, "the list of models is none")
    return [_model(integration, row, common) for row in rows]


def openai_capabilities(model: str) -> frozenset[Capability]:
    """Returns what OpenAI documents of one of its own models; nothing of one that is not known here."""
    return next((found for pattern, found in _OPENAI_FAMILIES if pattern.match(model)), frozenset())


def _model(integration: str, row: Any, common: Collection[Capability]) -> model_pb2.Model:
    name = _text(row, "id", "model_name") if isinstance(row, dict) else ""
    if not name:
        raise protocol_error(integration, "a model without an id")
    inner = [part for key in ("top_provider", "meta", "model_info") if isinstance(part := row.get(key), dict)]
    model = model_pb2.Model(
        id=name,
        owned_by=_text(row, "owned_by", "organization", "publisher"),
        family=_text(row, "arch"),
        source=model_pb2.MODEL_SOURCE_DISCOVERED,
    )
    title = _text(row, "display_name", "name")
    if title != name:
        model.display_name = title
    created = _number((row,), "created")
    if created is not None and created < _MAX_SECONDS:
        model.create_time.FromSeconds(created)
    window = _number(
        (row, *inner),
        "context_length",
        "context_window",
        "max_context_length",
        "max_model_len",
        "n_ctx",
        "n_ctx_train",
        "max_input_tokens",
    )
    if window is not None and window < _MAX_TOKENS:
        model.context_window = window
    output = _number((row, *inner), "max_completion_tokens", "max_output_tokens")
    if output is not None and output < _MAX_TOKENS:
        model.max_output_tokens = output
    size = _number(inner, "size")
    if size is not None and size < 2**62:
        model.size_bytes = size
        model.display_size = human_size(size)
    parameters = _number(inner, "n_params")
    if parameters is not None:
        model.parameter_size = human_count(parameters)
    model.capabilities.extend(sorted(_capabilities(row, inner, common)))
    return model


def _capabilities(row: dict[str, Any], inner: list[dict[str, Any]], common: Collection[Capability]) -> set[Capability]:
    found: set[Capability] = set()
    listed = row.get("capabilities")
    for part in (row, listed, *inner):
        if isinstance(part, dict):
            found |= {capability for flag, capability in _FLAGS.items() if part.get(flag) is True}
    if isinstance(listed, list):
        found |= {capability for flag, capability in _FLAGS.items() if flag in listed}
    parameters = row.get("supported_parameters")
    if isinstance(parameters, list):
        found |= {capability for name, capability in _PARAMETERS.items() if name in parameters}
    architecture = row.get("architecture")
    chats: bool | None = None
    if isinstance(architecture, dict):
        takes, gives = architecture.get("input_modalities"), architecture.get("output_modalities")
        if isinstance(takes, list) and "image" in takes:
            found.add(_IMAGES)
        if isinstance(gives, list):
            chats = "text" in gives
            found |= {_STREAMING} if chats else {_EMBEDDINGS} if "embeddings" in gives else set()
    kind = next((text for part in (row, *inner) if (text := _text(part, "type", "mode"))), "")
    if kind:
        found |= _KINDS.get(kind, frozenset())
        chats = _STREAMING in found
    return found | {*common} if chats is not False and _EMBEDDINGS not in found else found


def _text(row: dict[str, Any], *names: str) -> str:
    """Returns the first of some fields that holds text; a fact of another type is no fact."""
    return next((value for name in names if isinstance(value := row.get(name), str) and value), "")


def _number(rows: Iterable[dict[str, Any]], *names: str) -> int | None:
    """Returns the first positive whole number among some fields."""
    for row in rows:
        for name in names:
            value = row.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None
