"""Lists that fetch their pages as one walks them (AIP-158)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Generic, TypeVar

__all__ = ["AsyncPager", "Pager"]

P = TypeVar("P")
T = TypeVar("T")


class AsyncPager(Generic[P, T]):
    """The items of a list, page after page: `async for task in client.tasks.list(): …`.

    Walking it again asks the server again.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[P]], items: str) -> None:
        self._fetch = fetch
        self._items = items

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in getattr(page, self._items):
                yield item

    async def pages(self) -> AsyncIterator[P]:
        """The pages, each as the server answered it."""
        page = await self._fetch("")
        yield page
        while token := str(getattr(page, "next_page_token", "")):
            page = await self._fetch(token)
            yield page

    async def first_page(self) -> P:
        """The first page alone, with its `next_page_token`."""
        return await self._fetch("")

    async def to_list(self, limit: int | None = None) -> list[T]:
        """All items, or the first `limit`."""
        found: list[T] = []
        if limit is not None and limit <= 0:
            return found
        async for item in self:
            found.append(item)
            if limit is not None and len(found) >= limit:
                break
        return found


class Pager(Generic[P, T]):
    """The items of a list, page after page: `for task in client.tasks.list(): …`."""

    def __init__(self, wait: Callable[[Callable[[], Any]], Any], make: Callable[[], AsyncPager[P, T]]) -> None:
        self._wait = wait
        self._make = make
        self._items = make()._items

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            yield from getattr(page, self._items)

    def pages(self) -> Iterator[P]:
        """The pages, each as the server answered it."""
        token = ""
        while True:
            page: P = self._wait(partial(self._fetch, token))
            yield page
            if not (token := str(getattr(page, "next_page_token", ""))):
                return

    def first_page(self) -> P:
        """The first page alone, with its `next_page_token`."""
        page: P = self._wait(partial(self._fetch, ""))
        return page

    def _fetch(self, token: str) -> Awaitable[P]:
        return self._make()._fetch(token)

    def to_list(self, limit: int | None = None) -> list[T]:
        """All items, or the first `limit`."""
        found: list[T] = []
        if limit is not None and limit <= 0:
            return found
        for item in self:
            found.append(item)
            if limit is not None and len(found) >= limit:
                break
        return found
