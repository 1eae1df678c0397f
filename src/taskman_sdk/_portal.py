"""A private event loop on a thread of its own, for code that has none (or one it must not block, as in notebooks)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final, TypeVar

__all__ = ["Portal"]

T = TypeVar("T")
_END: Final = object()


class Portal:
    """Runs coroutines on its loop; any thread may ask. The thread starts with the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def run(self, make: Callable[[], Awaitable[T]]) -> T:
        """Awaits what `make` answers (it is called on the loop) and returns its result or raises its error.

        Raises:
            RuntimeError: the portal is stopped, or it is asked from its own loop.
        """
        loop = self._started()
        if threading.current_thread() is self._thread:
            raise RuntimeError("a sync client cannot be called from its own event loop; use AsyncTaskMan there")

        async def call() -> T:
            return await make()

        future = asyncio.run_coroutine_threadsafe(call(), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C while waiting: the call is given up, not left behind
            raise

    def iterate(self, make: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """Walks an async iterator, one item each time one is asked for."""

        async def begin() -> AsyncIterator[T]:
            return make()

        async def step(items: AsyncIterator[T]) -> Any:
            return await anext(items, _END)

        async def finish(items: AsyncIterator[T]) -> None:
            if (close := getattr(items, "aclose", None)) is not None:
                await close()

        items = self.run(begin)
        try:
            while (item := self.run(lambda: step(items))) is not _END:
                yield item
        finally:
            if not self._stopped:
                self.run(lambda: finish(items))

    def stop(self) -> None:
        """Cancels what runs and ends the thread; safe to call twice and from any thread."""
        with self._lock:
            loop, self._loop, self._stopped = self._loop, None, True
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            if threading.current_thread() is not self._thread:
                self._thread.join(timeout=5)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._stopped:
                raise RuntimeError("this client is closed; make a new one")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._serve, args=(self._loop,), name="taskman", daemon=True)
                self._thread.start()
            return self._loop

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
