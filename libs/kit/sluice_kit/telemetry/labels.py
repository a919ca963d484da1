"""Values of labels that callers choose: only so many of them are told apart, because each costs memory for good."""

from typing import Final

OTHER: Final = "other"
MAX_MODELS: Final = 200
"""Models, each with its provider. What comes later is counted as `other`."""
_MAX_CHARS: Final = 120


class Targets:
    """The targets that metrics tell apart, in the order they were seen."""

    def __init__(self, limit: int = MAX_MODELS) -> None:
        self._limit = limit
        self._known: dict[tuple[str, str], tuple[str, str]] = {}

    def labels(self, provider: str, model: str) -> tuple[str, str]:
        """Returns provider and model as labels."""
        key = (provider, model)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= self._limit:
                return OTHER, OTHER
            known = self._known[key] = provider[:_MAX_CHARS], model[:_MAX_CHARS]
        return known
