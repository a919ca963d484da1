"""Requests in one line."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sluice.chat.v1 import message_pb2
from sluice.gateway.v1 import chat_service_pb2
from sluice.retrieval.v1 import corpus_pb2

_URL: Final = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


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
    repository: chat_service_pb2.Repository | None = None,
    query: str | None = None,
    token_budget: int | None = None,
    best_effort: bool = False,
    language: str | None = None,
) -> chat_service_pb2.ChatSpec:
    """Returns the spec of a single question.

    `model` is an alias or `provider/model`; empty asks the default route. `corpora` are names (`corpora/docs`, or
    `docs` for short) to ground the answer in, and `repository` is one that is indexed on demand (see `repository`). Of
    what they hold, `include` and `exclude` are the files that count, `pinned_paths` come first, `top_k` and
    `token_budget` limit the passages, `query` is what to search for in place of the text, and with `best_effort` the
    answer goes on where nothing can be searched. These need a corpus or a repository.
    `conversation` names the one that it goes on with (`conversations/plans`, or `plans`). `language` is that of the
    answer, as a BCP 47 tag.
    """
    spec = chat_service_pb2.ChatSpec(
        model=model,
        messages=[message_pb2.Message(role=message_pb2.MESSAGE_ROLE_USER, parts=[message_pb2.Part(text=text)])],
    )
    if system is not None:
        spec.system_instruction = system
    if conversation is not None:
        spec.conversation = conversation_name(conversation)
    if language is not None:
        spec.answer_language = language
    if corpora or repository is not None:
        spec.grounding.corpora.extend(corpus_name(name) for name in corpora)
        spec.grounding.pinned_paths.extend(pinned_paths)
        if top_k is not None:
            spec.grounding.top_k = top_k
        if include or exclude:
            spec.grounding.filters.CopyFrom(path_filters(include, exclude))
        if repository is not None:
            spec.grounding.repository.CopyFrom(repository)
        if query is not None:
            spec.grounding.query = query
        if token_budget is not None:
            spec.grounding.token_budget = token_budget
        if best_effort:
            spec.grounding.policy = chat_service_pb2.GROUNDING_POLICY_BEST_EFFORT
    return spec


def repository(
    source: str,
    *,
    revision: str | None = None,
    credential: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_age: float | None = None,
) -> chat_service_pb2.Repository:
    """Returns a repository that is indexed for the request that names it, where it has no index yet or too old a one.

    `source` is an address, or a path of the retrieval service's machine; `revision` a branch, tag or commit id;
    `credential` the name of a configured one. `include` and `exclude` say which files are indexed: another choice makes
    another index. `max_age` is how old the index may be, in seconds, 0: it is brought up to date; unset: an hour.
    """
    made = chat_service_pb2.Repository(source=source_of(source, revision=revision, credential=credential))
    if include or exclude:
        made.files.CopyFrom(path_filters(include, exclude))
    if max_age is not None:
        made.max_age.FromMilliseconds(round(max_age * 1000))
    return made


def source_of(source: str, *, revision: str | None = None, credential: str | None = None) -> corpus_pb2.Source:
    """Returns the source at an address, or at a path: a git repository where a revision is named, else a folder."""
    if _URL.match(source):
        return corpus_pb2.Source(git=corpus_pb2.GitSource(url=source, revision=revision, credential=credential))
    folder = str(Path(source).expanduser().resolve())
    if revision is not None:
        return corpus_pb2.Source(git=corpus_pb2.GitSource(url=f"file://{folder}", revision=revision))
    return corpus_pb2.Source(local=corpus_pb2.LocalSource(path=folder))


def path_filters(include: Sequence[str], exclude: Sequence[str]) -> corpus_pb2.PathFilters:
    """Returns filters by gitignore-style patterns; none of either means all files."""
    return corpus_pb2.PathFilters(include=include, exclude=exclude)


def corpus_name(name: str) -> str:
    """Returns the resource name of a corpus, whether it came as `docs` or `corpora/docs`."""
    return name if name.startswith("corpora/") else f"corpora/{name}"


def conversation_name(name: str) -> str:
    """Returns the resource name of a conversation, whether it came as `plans` or `conversations/plans`."""
    return name if name.startswith("conversations/") else f"conversations/{name}"
