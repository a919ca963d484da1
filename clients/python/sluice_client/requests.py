"""Requests in one line."""

from collections.abc import Sequence

from sluice.chat.v1 import message_pb2
from sluice.gateway.v1 import chat_service_pb2
from sluice.retrieval.v1 import corpus_pb2


def question(
    text: str,
    *,
    model: str = "",
    system: str | None = None,
    corpora: Sequence[str] = (),
    top_k: int | None = None,
    pinned_paths: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    conversation: str | None = None,
) -> chat_service_pb2.ChatSpec:
    """Returns the spec of a single question.

    `model` is an alias or `provider/model`; empty asks the default route. `corpora` are names (`corpora/docs`, or
    `docs` for short) to ground the answer in; the arguments after it refine that and need at least one corpus.
    `conversation` names the one that it goes on with (`conversations/plans`, or `plans`).
    """
    spec = chat_service_pb2.ChatSpec(
        model=model,
        messages=[message_pb2.Message(role=message_pb2.MESSAGE_ROLE_USER, parts=[message_pb2.Part(text=text)])],
    )
    if system is not None:
        spec.system_instruction = system
    if conversation is not None:
        spec.conversation = conversation_name(conversation)
    if corpora:
        spec.grounding.corpora.extend(corpus_name(name) for name in corpora)
        spec.grounding.pinned_paths.extend(pinned_paths)
        if top_k is not None:
            spec.grounding.top_k = top_k
        if include or exclude:
            spec.grounding.filters.CopyFrom(path_filters(include, exclude))
    return spec


def path_filters(include: Sequence[str], exclude: Sequence[str]) -> corpus_pb2.PathFilters:
    """Returns filters by gitignore-style patterns; none of either means all files."""
    return corpus_pb2.PathFilters(include=include, exclude=exclude)


def corpus_name(name: str) -> str:
    """Returns the resource name of a corpus, whether it came as `docs` or `corpora/docs`."""
    return name if name.startswith("corpora/") else f"corpora/{name}"


def conversation_name(name: str) -> str:
    """Returns the resource name of a conversation, whether it came as `plans` or `conversations/plans`."""
    return name if name.startswith("conversations/") else f"conversations/{name}"
