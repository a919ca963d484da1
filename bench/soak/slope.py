"""How fast something grows, and how sure that is."""

import itertools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

_BLOCKS: Final = 8


class Slope(NamedTuple):
    """Growth by step of the first axis."""

    value: float
    error: float
    """Its standard error; not a number where there are too few points."""

    @property
    def grows(self) -> bool:
        """Whether it is above nothing by more than two standard errors."""
        return self.value > 2 * self.error


def slope(xs: Sequence[float], ys: Sequence[float]) -> Slope:
    """Returns the slope of the line of least squares.

    The error is a jackknife's that leaves out one of eight stretches at a time: neighbouring samples of memory are
    alike, and a formula that takes them for independent would be far too sure.
    """
    whole = _fit(xs, ys)
    size = len(xs) / _BLOCKS
    if size < 2:
        return Slope(whole, math.nan)
    bounds = [round(size * number) for number in range(_BLOCKS + 1)]
    parts = [_fit([*xs[:start], *xs[end:]], [*ys[:start], *ys[end:]]) for start, end in itertools.pairwise(bounds)]
    mean = sum(parts) / _BLOCKS
    variance = sum((part - mean) ** 2 for part in parts) * (_BLOCKS - 1) / _BLOCKS
    return Slope(whole, math.sqrt(variance))


def _fit(xs: Sequence[float], ys: Sequence[float]) -> float:
    if len(xs) < 2:
        return math.nan
    middle, level = sum(xs) / len(xs), sum(ys) / len(ys)
    below = sum((x - middle) ** 2 for x in xs)
    if not below:
        return math.nan
    return sum((x - middle) * (y - level) for x, y in zip(xs, ys, strict=True)) / below
