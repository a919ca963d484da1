"""Makes an integration from its configuration: for its own process, and for a gateway that hosts it (`colocate`)."""

from sluice_kit.config import ConfigDocument
from sluice_kit.ports import Generator
from sluice_providers import registry
from sluice_providers.base import Settings
from sluice_providers.servicer import Servicer


def create(document: ConfigDocument, integration: str) -> Generator:
    """Returns the generator of one integration: section `providers.<integration>`. Raises ConfigError."""
    return make(document, integration)[0]


def make(document: ConfigDocument, integration: str) -> tuple[Servicer, Settings]:
    """Returns the servicer of an integration and its settings. Raises ConfigError."""
    path = f"providers.{integration}"
    section = document.data.get("providers", {}).get(integration) or {}
    name = str(section.get("adapter") or integration)
    try:
        kind = registry.kind(name)
    except (LookupError, TypeError) as error:
        raise document.error(f"{path}.adapter", str(error)) from None
    except ModuleNotFoundError as error:
        raise document.error(f"{path}.adapter", f"the adapter '{name}' needs the package {error.name}") from None
    settings = document.section(path, kind.adapter.Settings, kind.defaults).resolved(document.resolve)
    settings = settings.kept_in(lambda: document.state_dir() / "providers" / integration)
    try:
        adapter = kind.adapter(integration, settings)
    except ValueError as error:
        raise document.error(path, str(error)) from None
    return Servicer(integration, name, adapter), settings
