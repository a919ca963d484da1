"""Which adapters there are, and where a name in the configuration leads.

A row of REGISTRY leads to a class, which is imported when an integration first needs it. Vendors that speak the format
of one of these are rows of `vendors.VENDORS`: settings, no class. Adapters of other distributions register in the
entry-point group `sluice.providers` (name = "package.module:Class"); the rows here win.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final

from sluice_providers.base import Adapter
from sluice_providers.vendors import VENDORS

PROVIDERS_GROUP: Final = "sluice.providers"

REGISTRY: Final[Mapping[str, str]] = {
    "anthropic": "sluice_providers.adapters.anthropic:AnthropicAdapter",
    "bedrock": "sluice_providers.adapters.bedrock:BedrockAdapter",
    "copilot": "sluice_providers.adapters.copilot:CopilotAdapter",
    "extractive": "sluice_providers.adapters.extractive:ExtractiveAdapter",
    "google": "sluice_providers.adapters.google:GoogleAdapter",
    "ollama": "sluice_providers.adapters.ollama:OllamaAdapter",
    "openai": "sluice_providers.adapters.openai:OpenAIAdapter",
    "scripted": "sluice_providers.adapters.scripted:ScriptedAdapter",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What the setting `adapter` names: a class, and the settings for what its section leaves out."""

    adapter: type[Adapter]
    defaults: Mapping[str, Any]


def names() -> tuple[str, ...]:
    """Returns every name of an adapter or vendor, installed ones of other distributions included."""
    return tuple(sorted({*REGISTRY, *VENDORS, *(entry.name for entry in entry_points(group=PROVIDERS_GROUP))}))


def kind(name: str) -> Kind:
    """Returns what a name leads to. Raises like `adapter_class`."""
    vendor = VENDORS.get(name)
    if vendor is None:
        found = adapter_class(name)
        return Kind(found, found.DEFAULTS)
    return Kind(adapter_class(vendor.adapter), vendor.settings)


def adapter_class(name: str) -> type[Adapter]:
    """Returns the class of an adapter.

    Raises LookupError if there is none of that name, TypeError if it is no class of `base.Adapter`.
    """
    if name in REGISTRY:
        module, _, attribute = REGISTRY[name].partition(":")
        found: object = getattr(importlib.import_module(module), attribute)
    else:
        entries = entry_points(group=PROVIDERS_GROUP, name=name)
        if not entries:
            raise LookupError(f"no adapter '{name}'; there are: {', '.join(names())}")
        found = next(iter(entries)).load()
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise TypeError(f"'{name}' does not lead to a class of sluice_providers.base.Adapter")
    return found
