"""Which adapters there are. A row leads to a class, which is imported when an integration first needs it.

Adapters of other distributions register in the entry-point group `sluice.providers` (name = "package.module:Class");
the rows here win.
"""

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Final

from sluice_providers.base import Adapter

PROVIDERS_GROUP: Final = "sluice.providers"

REGISTRY: Final[Mapping[str, str]] = {
    "anthropic": "sluice_providers.adapters.anthropic:AnthropicAdapter",
    "extractive": "sluice_providers.adapters.extractive:ExtractiveAdapter",
    "openai": "sluice_providers.adapters.openai:OpenAIAdapter",
    "scripted": "sluice_providers.adapters.scripted:ScriptedAdapter",
}


def names() -> tuple[str, ...]:
    """Returns the names of all adapters, installed ones of other distributions included."""
    return tuple(sorted({*REGISTRY, *(entry.name for entry in entry_points(group=PROVIDERS_GROUP))}))


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
