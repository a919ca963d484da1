"""Secrets in the configuration: never printed, and nameable when missing."""

from typing import Final


class Secret:
    """A credential from the configuration.

    It prints as `***`. A placeholder whose variable is not set makes a *missing* secret: the service starts, and its
    status names the variable.
    """

    __slots__ = ("_missing", "_value")

    def __init__(self, value: str | None, missing: str | None = None) -> None:
        self._value: Final = value
        self._missing: Final = missing

    @property
    def missing(self) -> str | None:
        """Name of the environment variable that must be set; None if the secret is there."""
        return self._missing

    def reveal(self) -> str:
        """Returns the secret itself, for the one place that sends it.

        Raises ValueError if it is missing: callers check `missing` first, because they know what to tell the user.
        """
        if self._value is None:
            raise ValueError(f"{self._missing} is not set")
        return self._value

    def __bool__(self) -> bool:
        return self._value is not None

    def __repr__(self) -> str:
        return "Secret(***)" if self._value is not None else f"Secret(missing {self._missing})"

    __str__ = __repr__
