"""`scripted`: no vendor, but a script that says what the model sends, when, and how it fails. For tests and demos."""

from collections import Counter
from collections.abc import Collection
from typing import Final

import msgspec

from sluice.chat.v1 import usage_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.rpc import invalid_field
from sluice_providers import base, options, tokens
from sluice_providers.base import Adapter, Emitter
from sluice_providers.play import Play
from sluice_providers.script import SHORT_FORMS, Script, ScriptError, script_for
from sluice_providers.words import hashed_vector, terms

EMBEDDING_MODEL: Final = "embed"
RERANKING_MODEL: Final = "rerank"
_DIMENSIONS: Final = 256
_MORE: Final = {"continue": [model_pb2.CAPABILITY_ASSISTANT_PREFILL]}
"""What single models can do beside what all can."""


class ScriptedSettings(base.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the `scripted` adapter."""

    scripts: dict[str, Script] = msgspec.field(default_factory=dict)
    """Scripts by the name of the model that plays them."""
    refuse: tuple[str, ...] = ()
    """Request options that this vendor pretends not to know, e.g. `seed`."""
    missing: tuple[str, ...] = ()
    """Settings that it pretends to lack."""


class ScriptedAdapter(Adapter):
    """Plays scripts; `sluice_providers.script` has the language."""

    TITLE = "Scripted"
    SETUP = "Nothing to set up: it plays [scripts](scripted.md), faults included, for tests and demonstrations."
    Settings = ScriptedSettings
    OPTIONS = options.PARAMETERS | {
        "tools", "tools.custom", "tools.strict", "tool_choice", "images", "images.uri", "files", "files.uri",
        "response_format.json", "response_format.json_schema",
    }  # fmt: skip  # names read better side by side

    def __init__(self, integration: str, settings: ScriptedSettings) -> None:
        super().__init__(integration, settings)
        self._attempts: Counter[str] = Counter()

    def missing(self) -> tuple[str, ...]:
        missing: tuple[str, ...] = self.settings.missing
        return missing

    def unsupported(self, request: pb.GenerateRequest, options: Collection[str]) -> Collection[str]:
        return [name for name in options if name not in self.OPTIONS or name in self.settings.refuse]

    async def generate(self, request: pb.GenerateRequest, emitter: Emitter) -> None:
        model = request.target.model
        try:
            script = script_for(model, self.settings.scripts, request)
        except ScriptError as error:
            raise invalid_field("target.model", str(error)) from None
        if script is None:
            raise self.error(
                ErrorReason.ERROR_REASON_MODEL_NOT_FOUND, f"{self.integration} has no script '{model}'", model=model
            )
        self._attempts[model] += 1
        strikes = script.times is None or self._attempts[model] <= script.times
        await Play(self, script, request, emitter, strikes=strikes).run()

    async def embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        if request.target.model != EMBEDDING_MODEL:
            raise self.error(
                ErrorReason.ERROR_REASON_MODEL_NOT_FOUND,
                f"{self.integration} embeds with the model '{EMBEDDING_MODEL}' only",
                model=request.target.model,
            )
        size = request.dimensions or _DIMENSIONS
        read = sum(tokens.estimate_text(text) for text in request.texts)
        return pb.EmbedResponse(
            embeddings=[pb.Embedding(values=hashed_vector(text, size)) for text in request.texts],
            usage=usage_pb2.Usage(input_tokens=read, source=usage_pb2.USAGE_SOURCE_PROVIDER),
            model=EMBEDDING_MODEL,
        )

    async def rerank(self, request: pb.RerankRequest) -> pb.RerankResponse:
        if request.target.model != RERANKING_MODEL:
            raise self.error(
                ErrorReason.ERROR_REASON_MODEL_NOT_FOUND,
                f"{self.integration} reranks with the model '{RERANKING_MODEL}' only",
                model=request.target.model,
            )
        wanted = set(terms(request.query))
        read = tokens.estimate_text(request.query) + sum(tokens.estimate_text(text) for text in request.texts)
        return pb.RerankResponse(
            results=[
                pb.RerankResult(index=index, score=len(wanted.intersection(terms(text))) / (len(wanted) or 1))
                for index, text in enumerate(request.texts)
            ],
            usage=usage_pb2.Usage(input_tokens=read, source=usage_pb2.USAGE_SOURCE_PROVIDER),
            model=RERANKING_MODEL,
        )

    async def list_models(self) -> list[model_pb2.Model]:
        capabilities = [
            model_pb2.CAPABILITY_STREAMING,
            model_pb2.CAPABILITY_TOOLS,
            model_pb2.CAPABILITY_STRUCTURED_OUTPUT,
            model_pb2.CAPABILITY_REASONING,
            model_pb2.CAPABILITY_CITATIONS,
        ]
        found = [
            model_pb2.Model(
                id=name,
                display_name=SHORT_FORMS.get(name, "Plays a script of the configuration"),
                owned_by="sluice",
                family="scripted",
                context_window=1_000_000,
                capabilities=capabilities + _MORE.get(name, []),
                source=model_pb2.MODEL_SOURCE_STATIC,
            )
            for name in (*SHORT_FORMS, *self.settings.scripts)
        ]
        found.append(
            model_pb2.Model(
                id=EMBEDDING_MODEL,
                display_name="Embeds by hashing words",
                owned_by="sluice",
                family="scripted",
                capabilities=[model_pb2.CAPABILITY_EMBEDDINGS],
                source=model_pb2.MODEL_SOURCE_STATIC,
            )
        )
        found.append(
            model_pb2.Model(
                id=RERANKING_MODEL,
                display_name="Orders texts by the words they share with the query",
                owned_by="sluice",
                family="scripted",
                source=model_pb2.MODEL_SOURCE_STATIC,
            )
        )
        return found
