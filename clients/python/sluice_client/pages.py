"""Lists that come in pages."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Generic, Protocol, TypeVar


class Page(Protocol):
    """What every list response has."""

    @property
    def next_page_token(self) -> str:
        """Where to go on; empty after the last page."""


P = TypeVar("P", bound=Page)
T = TypeVar("T")


class Pager(Generic[P, T]):
    """A list, fetched page by page as it is read.

    `async for item in pager` gives the items, `async for page in pager.pages()` the responses, for what stands beside
    the items (`unreachable`). Each iteration starts from the first page. Failures are raised where they happen.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[P]], items: Callable[[P], Iterable[T]]) -> None:
        self._fetch = fetch
        self._items = items

    async def pages(self) -> AsyncIterator[P]:
        """Yields each page."""
        token = ""
        while True:
            page = await self._fetch(token)
            yield page
            token = page.next_page_token
            if not token:
                return

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in self._items(page):
                yield item

    async def all(self) -> list[T]:
        """Returns every item."""
        return [item async for item in self]
