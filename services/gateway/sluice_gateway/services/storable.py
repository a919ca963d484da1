"""What of a request is refused because no database keeps it as it is."""

from collections.abc import Iterable, Mapping

from sluice_kit.rpc import invalid_field


def check_labels(field: str, labels: Mapping[str, str]) -> None:
    """Raises InvalidRequestError for labels that cannot be kept.

    Postgres has no NUL, not even within JSON: one such label would break every query that tells rows apart by labels.
    """
    for key, value in labels.items():
        check_texts(field, (key, value))


def check_texts(field: str, texts: Iterable[str]) -> None:
    """Raises InvalidRequestError for texts that hold the character NUL."""
    if any("\0" in text for text in texts):
        raise invalid_field(field, "must not hold the character NUL")
