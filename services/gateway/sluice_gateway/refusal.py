"""What is refused because of a limit that the operator set."""

from typing import Final

from sluice_kit.errors import LimitError

_RETRY_SECONDS: Final = 1.0


def too_many(what: str, setting: str, limit: int) -> LimitError:
    """Returns the refusal of what is above a limit: TOO_MANY_IN_FLIGHT, worth trying again in a second.

    It names the limit's setting, for whoever is asked to raise it.
    """
    rule = f"gateway.{setting}"
    metadata = {"rule": rule, "limit": str(limit)}
    return LimitError(f"{what}: {limit} ({rule})", retry_after=_RETRY_SECONDS, metadata=metadata)
