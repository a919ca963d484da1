"""Models and vectors of Gemini, as its SDK tells them."""

import re
from collections.abc import Sequence
from typing import Any, Final

from sluice.chat.v1 import usage_pb2
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb

_TASK: Final = {pb.EMBED_TASK_QUERY: "RETRIEVAL_QUERY", pb.EMBED_TASK_DOCUMENT: "RETRIEVAL_DOCUMENT"}
_PREFIX: Final = {pb.EMBED_TASK_QUERY: "task: search result | query: ", pb.EMBED_TASK_DOCUMENT: "title: none | text: "}
"""How models that know no task types are told the task: in the text, as their documentation has it."""
_WITHOUT_TASKS: Final = "gemini-embedding-2"
_SPECIAL: Final = re.compile(r"-(?:audio|computer-use|image|live|tts)\b")
"""Marks models of the Gemini family that are made for one thing, and call no tools."""


def embed_config(request: pb.EmbedRequest) -> dict[str, Any]:
    """Returns the SDK's configuration of a request for vectors."""
    config: dict[str, Any] = {}
    if request.task in _TASK and _WITHOUT_TASKS not in request.target.model:
        config["task_type"] = _TASK[request.task]
    if request.HasField("dimensions"):
        config["output_dimensionality"] = request.dimensions
    return config


def embed_contents(request: pb.EmbedRequest, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Returns texts as the SDK wants them: each a content of its own, for of bare texts it makes one for some models."""
    prefix = _PREFIX.get(request.task, "") if _WITHOUT_TASKS in request.target.model else ""
    return [{"parts": [{"text": prefix + text}]} for text in texts]


def add_usage(usage: usage_pb2.Usage, reply: Any) -> None:
    """Adds the tokens of the SDK's reply with vectors, where it tells them."""
    counted = reply.usage_metadata.prompt_token_count if reply.usage_metadata else None
    if counted is None:
        each = [row.statistics.token_count or 0 for row in reply.embeddings or () if row.statistics]
        counted = int(sum(each)) if each else None
    if counted is not None:
        usage.input_tokens += counted
        usage.source = usage_pb2.USAGE_SOURCE_PROVIDER


def model_of(row: Any) -> model_pb2.Model:
    """Returns a model of the SDK's list."""
    name = (row.name or "").rpartition("models/")[2]
    model = model_pb2.Model(
        id=name,
        display_name=row.display_name or "",
        owned_by="google",
        family=name.partition("-")[0],
        context_window=row.input_token_limit,
        max_output_tokens=row.output_token_limit,
        source=model_pb2.MODEL_SOURCE_DISCOVERED,
    )
    # Vertex AI does not tell what a model can do. The Gemini API does, but not whether it calls tools.
    actions = row.supported_actions
    embeds = "embedContent" in actions if actions else "embedding" in name
    answers = "generateContent" in actions if actions else name.startswith("gemini-") and not embeds
    if answers:
        model.capabilities.append(model_pb2.CAPABILITY_STREAMING)
        if name.startswith("gemini-") and not _SPECIAL.search(name):
            model.capabilities.extend(
                (model_pb2.CAPABILITY_TOOLS, model_pb2.CAPABILITY_STRUCTURED_OUTPUT, model_pb2.CAPABILITY_IMAGES)
            )
    if row.thinking:
        model.capabilities.append(model_pb2.CAPABILITY_REASONING)
    if embeds:
        model.capabilities.append(model_pb2.CAPABILITY_EMBEDDINGS)
    return model
