"""Embeddings by InvokeModel of Amazon Bedrock, whose bodies and replies have the form of each model's maker."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import msgspec

from sluice.provider.v1 import provider_service_pb2 as pb

FormName = Literal["titan-v1", "titan-v2", "cohere-v3", "cohere-v4"]
"""The forms of embedding requests."""

_TASK: Final = {
    pb.EMBED_TASK_UNSPECIFIED: "search_document",
    pb.EMBED_TASK_DOCUMENT: "search_document",
    pb.EMBED_TASK_QUERY: "search_query",
}


class _Titan(msgspec.Struct):
    embedding: list[float]
    input_text_token_count: int = msgspec.field(name="inputTextTokenCount", default=0)


class _ByType(msgspec.Struct):
    float: list[list[float]]


class _Cohere(msgspec.Struct):
    embeddings: _ByType | list[list[float]]


@dataclass(frozen=True, slots=True)
class Vectors:
    """What one call gave."""

    rows: list[list[float]]
    tokens: int | None
    """Tokens of the texts; None where the body does not tell."""


class EmbeddingForm(Protocol):
    """How a family of embedding models is asked."""

    batch: int
    """Most texts of a call."""
    sized: bool
    """Whether the length of the vectors can be chosen."""

    def body(self, texts: Sequence[str], request: pb.EmbedRequest) -> dict[str, Any]:
        """Returns the body that asks for some texts' vectors."""

    def read(self, reply: bytes) -> Vectors:
        """Returns the vectors of a reply, in order. Raises msgspec.DecodeError."""


class _TitanForm:
    """Titan text embeddings of Amazon: one text a call."""

    batch = 1

    def __init__(self, sized: bool) -> None:
        self.sized = sized

    def body(self, texts: Sequence[str], request: pb.EmbedRequest) -> dict[str, Any]:
        body: dict[str, Any] = {"inputText": texts[0]}
        if self.sized:
            body["normalize"] = True  # so that a dot product compares them; it is the vendor's default, too
            if request.HasField("dimensions"):
                body["dimensions"] = request.dimensions
        return body

    def read(self, reply: bytes) -> Vectors:
        found = msgspec.json.decode(reply, type=_Titan)
        return Vectors([found.embedding], found.input_text_token_count)


class _CohereForm:
    """Embeddings of Cohere, which differ by what a text is for."""

    batch = 96

    def __init__(self, sized: bool) -> None:
        self.sized = sized

    def body(self, texts: Sequence[str], request: pb.EmbedRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "texts": list(texts),
            "input_type": _TASK[request.task],
            "embedding_types": ["float"],
        }
        if self.sized and request.HasField("dimensions"):
            body["output_dimension"] = request.dimensions
        return body

    def read(self, reply: bytes) -> Vectors:
        found = msgspec.json.decode(reply, type=_Cohere).embeddings
        return Vectors(found.float if isinstance(found, _ByType) else found, None)


FORMS: Final[dict[FormName, EmbeddingForm]] = {
    "titan-v1": _TitanForm(sized=False),
    "titan-v2": _TitanForm(sized=True),
    "cohere-v3": _CohereForm(sized=False),
    "cohere-v4": _CohereForm(sized=True),
}

_FAMILIES: Final[tuple[tuple[str, FormName], ...]] = (
    ("amazon.titan-embed-text-v2", "titan-v2"),
    ("amazon.titan-embed-text-v1", "titan-v1"),
    ("amazon.titan-embed-g1-text", "titan-v1"),
    ("cohere.embed-v4", "cohere-v4"),
    ("cohere.embed-english-v3", "cohere-v3"),
    ("cohere.embed-multilingual-v3", "cohere-v3"),
)


def form_of(model: str) -> EmbeddingForm | None:
    """Returns how a model is asked for vectors, by its id or by what an address (ARN) says of it; None if unknown."""
    return next((FORMS[name] for part, name in _FAMILIES if part in model), None)
