"""Sizes of models as people write them."""

from typing import Final

_BYTES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_COUNT: Final = ("", "K", "M", "B", "T")


def human_size(size: int) -> str:
    """Returns a number of bytes in powers of 1024, e.g. "4.1 GiB"; whole bytes below 1 KiB, e.g. "812 B"."""
    value, unit = _scaled(size, 1024, _BYTES)
    return f"{size} {unit}" if unit == _BYTES[0] else f"{value:.1f} {unit}"


def human_count(parameters: int) -> str:
    """Returns a number of parameters in powers of 1000, e.g. "8.0B" for eight billion."""
    value, unit = _scaled(parameters, 1000, _COUNT)
    return f"{value:.1f}{unit}" if unit else str(parameters)


def _scaled(number: int, base: int, units: tuple[str, ...]) -> tuple[float, str]:
    value = float(number)
    for unit in units[:-1]:
        # What would be rounded up to the next unit is written in it: "1.0 GiB", never "1024.0 MiB".
        if round(value, 1) < base:
            return value, unit
        value /= base
    return value, units[-1]
