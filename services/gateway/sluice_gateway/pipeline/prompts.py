"""Prompt templates: versioned files by use and language, read once at the start."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from sluice.gateway.v1.chat_service_pb2 import ChatSpec

GROUNDED: Final = "grounded/v1"
_LANGUAGES: Final = ("en", "de")
_DEFAULT_LANGUAGE: Final = "en"


@dataclass(frozen=True, slots=True)
class Template:
    """A template: its id (`use/version.language`), the SHA-256 of its text as lower-case hex, and the text."""

    id: str
    sha256: str
    text: str


@cache
def template(use: str, language: str) -> Template:
    """Returns a template of a use (`grounded/v1`) in the language, or in English where there is none in it.

    `language` is a BCP 47 tag; only its primary part counts.
    """
    primary = language.partition("-")[0].lower()
    chosen = primary if primary in _LANGUAGES else _DEFAULT_LANGUAGE
    text = files("sluice_gateway").joinpath("templates", f"{use}.{chosen}.md").read_text(encoding="utf-8")
    return Template(f"{use}.{chosen}", hashlib.sha256(text.encode()).hexdigest(), text)


def template_for(spec: ChatSpec) -> Template | None:
    """Returns the template a request's grounding uses; None without grounding."""
    if not spec.HasField("grounding"):
        return None
    return template(GROUNDED, spec.answer_language or "en")
