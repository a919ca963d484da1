"""Random identifiers, from the system's generator, read in blocks because a system call for each would cost more."""

import base64
import os
from typing import Final

_BLOCK_BYTES: Final = 4096


class _Pool:
    """Random bytes that were read ahead. Each is given out once."""

    __slots__ = ("_at", "_block")

    def __init__(self) -> None:
        self._block = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._block):
            self._block = os.urandom(_BLOCK_BYTES)
            self._at = 0
        start = self._at
        self._at = start + count
        return self._block[start : self._at]

    def forget(self) -> None:
        self._block = b""
        self._at = 0


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    # A child would give out the same bytes as its parent.
    os.register_at_fork(after_in_child=_pool.forget)


def new_id() -> str:
    """Returns 128 random bits as 22 letters, digits, `-` and `_`."""
    return base64.urlsafe_b64encode(_pool.take(16))[:22].decode("ascii")


def new_uuid() -> str:
    """Returns a random UUID (RFC 9562, version 4) as text."""
    text = _pool.take(16).hex()
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"
