"""Which requests are worked on when there are more than can be (GATE-9).

By Little's law the requests in the system, divided by how many are answered a second, are the seconds that one takes.
So once answers take longer than `TARGET`, no more are let in than are answered in that time; while they do not, the
limit grows as far as it is used. Up to `FEWEST` are always let in: so few are no crowd, and slow for another reason.

Those let in begin in turns of `TURN` seconds, the more important first. Between two turns the event loop looks at its
sockets, so that who is not let in is told at once, and whoever signs in is not behind an export.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from taskman_sdk.errors import DeadlineExceededError

if TYPE_CHECKING:
    from taskman_sdk.contract import Method
    from taskman_server.kit.telemetry import Telemetry

__all__ = ["FEWEST", "MOST", "TARGET", "Admission", "Priority", "priority_of"]

TARGET: Final = 0.1
"""Seconds that a request may take on average, waiting included."""
FEWEST: Final = 66
"""As many as 64 connections have under way, and some whose answers are just leaving."""
MOST: Final = 2048
START: Final = 256
TURN: Final = 0.005
WINDOW: Final = 0.1
"""Seconds between two looks at how long answers took …"""
SAMPLE: Final = 16
"""… and how many there must have been."""

_BULK_TARGETS: Final = (b":import", b":export", b":verify")


class Priority(IntEnum):
    """Who goes first when not all can."""

    FIRST = 0
    """Signing in and out, tokens, health: without them nothing else is possible."""
    ORDINARY = 1
    BULK = 2
    """Through many rows for one call: import, export, verification of the audit log."""


def priority_of(method: Method) -> Priority:
    """The priority of an RPC, from what the contract says of it."""
    return _priority_at(method.route.template.encode()) if method.route is not None else Priority.ORDINARY


def _priority_at(target: bytes) -> Priority:
    if not target.startswith(b"/v1/") or target.startswith(b"/v1/auth/"):
        return Priority.FIRST
    return Priority.BULK if target.partition(b"?")[0].endswith(_BULK_TARGETS) else Priority.ORDINARY


class Admission:
    """The door of one process; for its event loop's thread alone.

    Attributes:
        limit: how many requests may be in the system; bulk ones enter up to half of it.
        apart: requests in the system that do not count: sign-ins, which are slow on purpose and have a bound of their
            own, streams, and those whose body is still coming.
    """

    def __init__(self, telemetry: Telemetry | None = None, monotonic: Callable[[], float] = time.perf_counter) -> None:
        """Args:
        telemetry: gets the limit, and counts who is refused.
        monotonic: the time in seconds.
        """
        self._monotonic = monotonic
        self.limit = START
        self.apart = 0
        self._half = START // 2
        self._crowded = False
        self._rate = 0.0
        self._since = monotonic()
        self._answered = 0
        self._seconds = 0.0
        self._turn_ends = float("inf")
        self._in_turn = False
        self._waiting: list[tuple[Priority, int, asyncio.Future[None]]] = []
        self._number = 0
        self._turned_away = 0
        self._overloaded = False
        self._telemetry = telemetry
        if telemetry is not None:
            telemetry.admission(lambda: self.limit)

    def full(self, target: bytes, inside: int) -> bool:
        """Whether a request for `target` (path and query as sent) is to be refused, with `inside` requests in the
        system."""
        counting = inside - self.apart
        if counting < self._half:
            return False
        self._crowded = True
        priority = _priority_at(target)
        if priority is Priority.ORDINARY:
            refused = counting >= self.limit
        else:
            refused = priority is Priority.BULK or inside >= MOST
        if refused:
            self._turned_away += 1
            if self._telemetry is not None:
                self._telemetry.turned_away(priority.name.lower())
        return refused

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Meanwhile a request in the system does not count."""
        self.apart += 1
        try:
            yield
        finally:
            self.apart -= 1

    async def turn(self, priority: Priority, patience: float | None) -> float:
        """Returns when it is the request's turn, with the seconds that it has waited.

        Raises:
            DeadlineExceededError: that took longer than `patience`: nobody waits for the answer any more.
        """
        now = self._monotonic()
        if not self._in_turn:
            self._begin_turn(now)
        if not self._waiting and now < self._turn_ends:
            return 0.0
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._number += 1
        heapq.heappush(self._waiting, (priority, self._number, future))
        await future
        waited = self._monotonic() - now
        if patience is not None and waited >= patience:
            raise DeadlineExceededError(
                f"It was not your turn within {patience:g} s: the server has too much to do. Try again later.",
                reason="SERVER_OVERLOADED",
                retry_after=1,
            )
        return waited

    def answered(self, seconds: float) -> None:
        """A request that counts has left the system, so long after it came."""
        self._answered += 1
        self._seconds += seconds
        if self._answered >= SAMPLE:
            now = self._monotonic()
            if now - self._since >= WINDOW:
                self._look(now)

    def _look(self, now: float) -> None:
        self._rate = self._answered / (now - self._since)
        if self._seconds / self._answered > TARGET:
            self.limit = max(FEWEST, min(self.limit, int(self._rate * TARGET)))
        elif self._crowded:
            self.limit = min(MOST, self.limit + self.limit // 8)
        self._half = self.limit // 2
        self._say()
        self._since, self._answered, self._seconds, self._crowded = now, 0, 0.0, False

    def _say(self) -> None:
        refused, self._turned_away = self._turned_away, 0
        if self._overloaded == bool(refused):
            return
        self._overloaded = not self._overloaded
        if self._telemetry is not None:
            self._telemetry.log.warning(
                "overload: requests are refused" if refused else "overload is over",
                limit=self.limit,
                answered_per_second=round(self._rate),
            )

    def _begin_turn(self, now: float) -> None:
        self._in_turn = True
        self._turn_ends = now + TURN
        asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._in_turn = False
        if not self._waiting:
            return
        self._begin_turn(self._monotonic())
        for _ in range(max(1, int(self._rate * TURN))):
            while self._waiting:
                future = heapq.heappop(self._waiting)[2]
                if not future.done():  # whoever waited may have gone away
                    future.set_result(None)
                    break
