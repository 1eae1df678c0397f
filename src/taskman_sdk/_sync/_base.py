"""What every sync resource does: hand the call to the async twin on the client's own event loop, and wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from taskman_sdk.resources._pages import AsyncPager, Pager

__all__ = ["Owner", "Resource"]

A = TypeVar("A")
T = TypeVar("T")
P = TypeVar("P")


class Owner(Protocol):
    """The sync client, as its resources see it."""

    def twin(self) -> Any:
        """The async client, made anew in a forked child."""
        ...

    def wait(self, make: Callable[[], Awaitable[T]]) -> T:
        """Runs what `make` answers on the private loop and waits for it."""
        ...

    def iterate(self, make: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """Walks what `make` answers on the private loop."""
        ...


class Resource(Generic[A]):
    """The base of the generated sync resources."""

    def __init__(self, owner: Owner, name: str) -> None:
        self._owner = owner
        self._name = name

    @property
    def _aio(self) -> A:
        twin: A = getattr(self._owner.twin(), self._name)
        return twin

    def _wait(self, make: Callable[[], Awaitable[T]]) -> T:
        return self._owner.wait(make)

    def _pages(self, make: Callable[[], AsyncPager[P, T]]) -> Pager[P, T]:
        return Pager(self._owner.wait, make)

    def _stream(self, make: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        return self._owner.iterate(make)
