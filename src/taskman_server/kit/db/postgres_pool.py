"""Connections to PostgreSQL, a bounded number of them, handed out last-used first.

The driver's own pool starts tasks for each hand-over, resets each connection with a round trip, and tells nothing of
those who wait. Here a connection that is at hand costs about a microsecond; one that is in an unknown state is
cleaned in the background before anybody else gets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from taskman_server.kit.db.errors import DatabaseUnavailable, NoConnectionLeft

__all__ = ["Pool", "PoolStats", "Session"]

_CLEAN_TIMEOUT = 2.0
_CLOSE_TIMEOUT = 2.0
_FULL_PAUSE = 1.0  # seconds before a server that takes no more connections is asked for another one


class PoolStats(NamedTuple):
    """A pool at one moment: connections open, of these at rest, tasks that wait for one, and how many may be open."""

    size: int
    idle: int
    waiting: int
    max: int


class Session:
    """One connection of a pool."""

    __slots__ = ("born", "driver", "generation", "used")

    def __init__(self, driver: Any, generation: int) -> None:
        self.driver = driver
        self.generation = generation
        self.born = self.used = time.monotonic()


class Pool:
    """To be used from one event loop."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[Any]],
        *,
        size: int,
        patience: float,
        idle_lifetime: float = 300.0,
        lifetime: float = 1800.0,
    ) -> None:
        """Open up to `size` connections with `connect`, which raises DatabaseUnavailable.

        `patience` is for how many seconds one waits for a connection. One that was not used for `idle_lifetime` seconds
        or is older than `lifetime` is closed when something is given back.
        """
        self._name = name
        self._connect = connect
        self._max = size
        self._patience = patience
        self._idle_lifetime = idle_lifetime
        self._lifetime = lifetime
        self._idle: deque[Session] = deque()
        self._waiting: deque[asyncio.Future[Session | None]] = deque()
        self._size = 0
        self._generation = 0
        self._full_until = 0.0
        self._closed = False
        self._empty: asyncio.Future[None] | None = None
        self._chores: set[asyncio.Task[None]] = set()

    def stats(self) -> PoolStats:
        """The pool as it is now."""
        waiting = sum(1 for future in self._waiting if not future.done())
        return PoolStats(self._size, len(self._idle), waiting, self._max)

    async def acquire(self) -> Session:
        """A connection in a clean state, to be given back. Raises DatabaseUnavailable."""
        if self._closed:
            raise DatabaseUnavailable(f"database {self._name} is closed")
        while self._idle:
            session = self._idle.pop()
            if not session.driver.is_closed():
                return session
            self._size -= 1
        if self._size < self._max and not (self._size and time.monotonic() < self._full_until):
            self._size += 1
            return await self._open()
        return await self._wait()

    def release(self, session: Session) -> None:
        """Give back a connection that is in a clean state."""
        now = time.monotonic()
        if (
            session.driver.is_closed()
            or session.generation != self._generation
            or now - session.born > self._lifetime
            or self._closed
        ):
            self.discard(session)
            return
        session.used = now
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(session)
                return
        self._idle.append(session)
        if now - self._idle[0].used > self._idle_lifetime:
            self._size -= 1
            self._chore(self._hang_up(self._idle.popleft()))

    def discard(self, session: Session) -> None:
        """Give back a connection that nobody may use any more."""
        if not session.driver.is_closed():
            if session.driver.is_in_transaction() or session.generation != self._generation:
                session.driver.terminate()
            else:
                self._chore(self._hang_up(session))
        self._vacate()

    def clean(self, session: Session) -> None:
        """Give back a connection whose user was cancelled: what it runs is stopped, its transaction rolled back."""
        self._chore(self._clean(session))

    def flush(self) -> None:
        """Trust no connection that is open now: those at rest are dropped, the others when they are given back."""
        self._generation += 1
        while self._idle:
            self._size -= 1
            self._idle.pop().driver.terminate()

    async def close(self, patience: float) -> None:
        """Wait for those in use, up to `patience` seconds, and close all."""
        self._closed = True
        while self._idle:
            self._size -= 1
            self._chore(self._hang_up(self._idle.pop()))
        for future in self._waiting:
            if not future.done():
                future.set_exception(DatabaseUnavailable(f"database {self._name} is closed"))
        if self._size:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._empty], timeout=patience)
        if self._chores:
            await asyncio.wait(self._chores, timeout=_CLOSE_TIMEOUT)

    async def _open(self) -> Session:
        generation = self._generation
        try:
            return Session(await self._connect(), generation)
        except NoConnectionLeft:
            if self._size == 1:
                self._vacate()
                raise
            # Those that we have come back: better to wait for one than to fail.
            self._full_until = time.monotonic() + _FULL_PAUSE
            self._size -= 1
            return await self._wait()
        except BaseException:
            self._vacate()
            raise

    async def _wait(self) -> Session:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Session | None] = loop.create_future()
        self._waiting.append(future)
        timer = loop.call_later(self._patience, self._give_up, future)
        try:
            session = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                session = future.result()
                if session is None:
                    self._vacate()
                else:
                    self.release(session)
            raise
        finally:
            timer.cancel()
        return session if session is not None else await self._open()

    def _give_up(self, future: asyncio.Future[Session | None]) -> None:
        if future.done():
            return
        with contextlib.suppress(ValueError):
            self._waiting.remove(future)
        future.set_exception(
            DatabaseUnavailable(
                f"database {self._name}: pool exhausted, all {self._size} connections were in use for"
                f" {self._patience:g} s. " + self._remedy()
            )
        )

    def _remedy(self) -> str:
        if self._size < self._max:
            return "The server takes no more: raise max_connections, or lower the pool sizes"
        return "Raise the pool size, or look for long transactions"

    def _vacate(self) -> None:
        """A place is free: whoever waits may open a connection in it."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
        self._size -= 1
        if self._empty is not None and not self._size and not self._empty.done():
            self._empty.set_result(None)

    def _chore(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _hang_up(self, session: Session) -> None:
        try:
            await session.driver.close(timeout=_CLOSE_TIMEOUT)
        except Exception:
            session.driver.terminate()

    async def _clean(self, session: Session) -> None:
        driver = session.driver
        try:
            # The driver first waits until the server has stopped what was cancelled; ROLLBACK outside of a
            # transaction is a notice, and takes whatever is left of the cancelling on itself.
            await driver.execute("ROLLBACK", timeout=_CLEAN_TIMEOUT)
        except Exception:
            driver.terminate()
        except BaseException:
            driver.terminate()
            self.release(session)
            raise
        self.release(session)
