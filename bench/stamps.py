"""Tokens that carry the time they were sent, so that whoever receives them on the same machine knows their lag."""

import re
import time
from typing import Final

TEXT: Final = "T0000000000000000 w%04d "
"""A token before its time is filled in. The number makes every token of an answer different: some gateways end an
answer that repeats itself."""
PLACE: Final = b"T0000000000000000"
TEMPLATE: Final = b"T%016d"
_STAMP: Final = re.compile(rb"T(\d{16})")

find: Final = _STAMP.findall
"""Returns the times of all tokens in some bytes, as digits."""
find_iter: Final = _STAMP.finditer


def now_us() -> int:
    """Returns the time in microseconds, on the clock that all processes of this machine share."""
    return time.monotonic_ns() // 1000
