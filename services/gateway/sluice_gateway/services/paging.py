"""Pages over lists that are in memory and sorted by a name."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from sluice_kit.rpc import invalid_field

T = TypeVar("T")


def page(
    items: Sequence[T], name_of: Callable[[T], str], page_size: int, page_token: str, default_size: int
) -> tuple[Sequence[T], str]:
    """Returns one page of items that are sorted by name, and the token of the next page (empty: there is none).

    The token holds the last name of the page, so a page stays right when items come and go between two calls. Raises
    InvalidRequestError for a token that is not ours.
    """
    size = page_size or default_size
    start = 0
    if page_token:
        after = decode_token(page_token)
        start = next((index for index, item in enumerate(items) if name_of(item) > after), len(items))
    taken = items[start : start + size]
    if start + size >= len(items):
        return taken, ""
    return taken, encode_token(name_of(taken[-1]))


def encode_token(position: str) -> str:
    """Returns a page token for a position in a list; opaque to clients."""
    return base64.urlsafe_b64encode(position.encode()).decode()


def decode_token(token: str) -> str:
    """Returns the position in a page token. Raises InvalidRequestError for one that is not ours."""
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise invalid_field("page_token", "not a token of an earlier response") from None
