"""Vendors that speak the format of an adapter: rows of data, no code.

A row holds what a section under `providers` would say: address, the key's variable, capabilities, quirks. A server that
has no row is used by writing the same settings into the configuration.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor with its own address, key and gaps."""

    title: str
    """Its name for people."""
    settings: Mapping[str, Any]
    """Settings for what the integration's section leaves out, instead of the adapter's own; texts may hold
    placeholders."""
    setup: str
    """How to get going, in a sentence or two of Markdown."""
    adapter: str = "openai"
    """Whose format it speaks: a row of `registry.REGISTRY`."""


VENDORS: Final[Mapping[str, Vendor]] = {
    "groq": Vendor(
        title="Groq",
        settings={"base_url": "https://api.groq.com/openai/v1", "api_key": "${GROQ_API_KEY}"},
        setup="Make a key in the console and set `GROQ_API_KEY`.",
    ),
}
