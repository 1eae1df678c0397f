"""Which requests are worked on when there are more than can be (GATE-9).

Three queues can grow, and each has its bound:

- The event loop's own, before any of our code runs. A request says how long it has stood there since its head was
  parsed, and a timer's drift says how late the loop is (`lag`). Calls that never wait are all in this queue.
- Requests under way: threads, locks, databases. Their number is limited so that answers take `TARGET`: by Little's law
  it follows the ratio of that to what they did take. Where the deployment itself is slow, the target follows it.
- Ours, of requests that wait for one under way to end. It takes up bursts; a queue that stands is only delay.

While there is no overload, patience is long and the queue first come, first served. When the loop is late or the queue
stands for longer than a burst, patience shrinks to some milliseconds and the newest is served first: its caller still
waits. That ends when nearly nobody is refused. Sources: CoDel (RFC 8289), "Fail at Scale" (ACM Queue 13/8) for the
two times and the order, Netflix' concurrency-limits and Envoy's adaptive concurrency for the limit, Uber's Cinnamon
for priorities. On PyPI there are limiters for clients (aioadaptive, adaptio), none for a server's admission.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from random import random
from typing import TYPE_CHECKING, Final

from taskman_sdk.errors import DeadlineExceededError, TaskManError, UnavailableError
from taskman_server.gateway.admission_figures import figures

if TYPE_CHECKING:
    from taskman_sdk.contract import Method
    from taskman_server.kit.telemetry import Telemetry

__all__ = ["Admission", "Priority", "priority_of"]

TICK: Final = 0.01
"""Seconds between two looks at the loop, while there are requests."""
INTERVAL: Final = 0.1
"""A burst is over within these seconds; a delay that lasts longer is overload."""
STANDING: Final = 0.05
"""Seconds that the loop may be late for longer than a burst."""
CALM: Final = 0.25
"""Overload is over when a smaller share than this was refused …"""
WINDOW: Final = 0.25
"""… in these seconds."""
IDLE: Final = 1.0
"""Seconds without requests after which nothing is looked at."""
TARGET: Final = 0.08
"""Seconds that an ordinary request may take on average, or twice what it takes when there are few."""
MOST_TARGET: Final = 1.0
FEWEST: Final = 16
"""Requests under way are never limited to fewer."""
MOST: Final = 1024
START: Final = 64
FIRST_MOST: Final = 16
"""Calls of the first priority under way. They do not count against the others: passwords are slow on purpose, and a
flood of sign-ins must not keep those out who are signed in, nor the other way round."""


class Priority(IntEnum):
    """Who goes first when not all can."""

    FIRST = 0
    """Signing in and out, tokens, their keys: without them nothing else is possible."""
    ORDINARY = 1
    BULK = 2
    """Through many rows for one call: search, import, export, verification, metrics."""


_FIRST, _ORDINARY, _BULK = Priority
# Seconds in the loop's queue. Longer than a burst: a process that stood still for 100 ms has not too much to do.
_LOOP: Final = (0.3, 0.15, 0.1)
# In an overload: seconds of the processor in each of the loop's turns, from the first request in it. Not since the head
# was parsed, nor of the wall's clock: what other threads and processes take would not be less if requests were refused.
_TURN: Final = (0.008, 0.004, 0.002)
_TURN_NO_BULK: Final = (*_TURN[:2], -1.0)
# Seconds in our queue. Who signs in waits rather than starts anew.
_QUEUE: Final = (0.5, 0.1, 0.1)
_QUEUE_OVERLOADED: Final = (0.5, 0.005, 0.005)
_BULK_NAMES: Final = ("Search", "Import", "Export", "Verify", "Query")


def priority_of(method: Method) -> Priority:
    """The priority of an RPC, from what the contract says of it."""
    if method.area == "authentication":
        return Priority.FIRST
    if method.streaming or method.name.startswith(_BULK_NAMES):
        return Priority.BULK
    return Priority.ORDINARY


@dataclass(slots=True, eq=False)
class _Waiter:
    # The result is why it was refused; empty: it has a place.
    future: asyncio.Future[str]
    since: float
    deadline: float | None


class Admission:
    """The door of one process; for its event loop's thread alone.

    Use, where `arrived` is the `monotonic` time when the request's head was parsed:

        started = admission.enter(priority, arrived)
        if started is None:
            started = await admission.wait(priority, arrived, deadline)
        try:
            ...
        finally:
            admission.leave(priority, started)

    Attributes:
        limit: ordinary and bulk requests that may be under way; bulk ones enter up to half of it.
        overloaded: whether patience is short.
        lag: seconds that the loop was late when last looked at.
        admitted: requests let in.
        refused: requests refused, by priority and reason: `lag`, `queue`, `deadline`.
    """

    def __init__(
        self,
        telemetry: Telemetry | None = None,
        *,
        most: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
        processor: Callable[[], float] = time.thread_time,
    ) -> None:
        """Args:
        telemetry: gets the figures, and a line in the log when an overload begins and ends.
        most: requests under way at most, fixed; 0: found by measuring.
        monotonic: the time, in seconds; what `arrived` and deadlines are measured by.
        processor: what the loop's thread has taken of the processor, in seconds.
        """
        self._monotonic = monotonic
        self._processor = processor
        self._telemetry = telemetry
        self._fixed = most > 0
        self.overloaded = False
        self.lag = 0.0
        self.admitted = 0
        self.refused: dict[tuple[Priority, str], int] = {}
        # Under way: of the first priority; of the others together.
        self._held = [0, 0]
        self._bounds = [FIRST_MOST, 0, 0]
        self._set_limit(most or START)
        self._turn, self._turn_began, self._turn_spent = _TURN, 0.0, 0.0
        self._queues: tuple[deque[_Waiter], ...] = (deque(), deque(), deque())
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._on_time = self._queue_empty = self._used = 0.0
        self._trickle = False
        # What the limit is found by: times of ordinary requests, and how many were under way together.
        self._times, self._answers, self._peak, self._measured, self._base = 0.0, 0, 0, 0.0, 0.0
        # What the end of an overload is found by.
        self._looked, self._seen, self._turned_away, self._ordinary_away = 0.0, 0, 0, 0
        if telemetry is not None:
            figures(telemetry.registry).doors[telemetry.service] = self

    def enter(self, priority: Priority, arrived: float) -> float | None:
        """Takes a place if there is one: the time from which it is held, for `leave`; else None, await `wait`."""
        now = self._monotonic()
        if (
            self._held[priority > 0] >= self._bounds[priority]
            or now - arrived > _LOOP[priority]
            or (self.overloaded and self._late(priority, arrived, now))
        ):
            return None
        self._take(priority)
        if self._timer is None:
            self._arm(now)
        return now

    async def wait(self, priority: Priority, arrived: float, deadline: float | None = None) -> float:
        """Waits for a place, where `enter` had none; answers as `enter`. Refusing costs a few µs.

        Args:
            priority: of the call.
            arrived: when the request's head was parsed.
            deadline: when its caller gives up, by the same clock.

        Raises:
            UnavailableError: there is more to do than can be done; `retry_after` says when to try again.
            DeadlineExceededError: the caller has given up already.
        """
        now = self._monotonic()
        if self._timer is None:
            self._arm(now)
        if deadline is not None and now >= deadline:
            raise self._refuse(priority, "deadline")
        if now - arrived > _LOOP[priority] or (self.overloaded and self._late(priority, arrived, now)):
            # Whatever keeps the loop busy, it need not be requests: a few get through in any case.
            if not self._trickle or priority is _BULK:
                raise self._refuse(priority, "lag")
            self._trickle = False
        if self._held[priority > 0] < self._bounds[priority]:
            self._take(priority)
            return now
        if len(self._queues[priority]) >= self._bounds[priority]:
            if not self.overloaded:
                raise self._refuse(priority, "queue")
            self._dismiss(self._queues[priority].popleft(), "queue")
        return await self._queue(priority, now, deadline)

    def leave(self, priority: Priority, started: float) -> None:
        """Gives the place back."""
        pool = priority > 0
        self._held[pool] -= 1
        if priority == 1:
            self._times += self._monotonic() - started
            self._answers += 1
        if self._waiting:
            self._hand_over()

    def pause(self, priority: Priority) -> None:
        """Gives the place back while the client keeps us waiting: slow bodies must not fill the house."""
        self._held[priority > 0] -= 1
        if self._waiting:
            self._hand_over()

    def resume(self, priority: Priority) -> float:
        """Takes a place again, be there one or not, as what is begun is ended; answers as `enter`."""
        self._take(priority)
        return self._monotonic()

    @property
    def inflight(self) -> int:
        """Requests under way."""
        return sum(self._held)

    def queued(self) -> Mapping[Priority, int]:
        """Requests that wait for a place."""
        return {priority: len(queue) for priority, queue in zip(Priority, self._queues, strict=True)}

    def _late(self, priority: Priority, arrived: float, now: float) -> bool:
        # All heads of a turn are parsed before the first of its requests comes here.
        if arrived > self._turn_began:
            self._turn_began, self._turn_spent = now, self._processor()
            return self._turn[priority] < 0
        return self._processor() - self._turn_spent > self._turn[priority]

    def _take(self, priority: Priority) -> None:
        pool = priority > 0
        self._held[pool] = held = self._held[pool] + 1
        if held > self._peak and pool:
            self._peak = held
        self.admitted += 1

    async def _queue(self, priority: Priority, now: float, deadline: float | None) -> float:
        waiter = _Waiter(asyncio.get_running_loop().create_future(), now, deadline)
        self._queues[priority].append(waiter)
        self._waiting += 1
        try:
            reason = await waiter.future
        except asyncio.CancelledError:
            if waiter in self._queues[priority]:
                self._queues[priority].remove(waiter)
                self._waiting -= 1
            elif not waiter.future.cancelled() and not waiter.future.result():
                # It had just been given a place.
                self._held[priority > 0] -= 1
                self._hand_over()
            raise
        if reason:
            raise self._refuse(priority, reason)
        return self._monotonic()

    def _dismiss(self, waiter: _Waiter, reason: str) -> None:
        # Ends the waiting of one who is out of its queue already.
        self._waiting -= 1
        if not waiter.future.done():
            waiter.future.set_result(reason)

    def _hand_over(self) -> None:
        now = self._monotonic()
        for priority in Priority:
            queue = self._queues[priority]
            while queue and self._held[priority > 0] < self._bounds[priority]:
                newest = self.overloaded and priority is not _FIRST
                waiter = queue.pop() if newest else queue.popleft()
                reason = self._expired(priority, waiter, now)
                if not reason and not waiter.future.done():
                    self._take(priority)
                self._dismiss(waiter, reason)

    def _expired(self, priority: Priority, waiter: _Waiter, now: float) -> str:
        if waiter.deadline is not None and now >= waiter.deadline:
            return "deadline"
        patience = (_QUEUE_OVERLOADED if self.overloaded else _QUEUE)[priority]
        return "queue" if now - waiter.since > patience else ""

    def _refuse(self, priority: Priority, reason: str) -> TaskManError:
        self.refused[priority, reason] = self.refused.get((priority, reason), 0) + 1
        if reason == "deadline":
            return DeadlineExceededError(
                "The time that the call was given was over before its turn came. Give it more, or try again later.",
                reason="DEADLINE_EXCEEDED",
            )
        self._turned_away += 1
        self._ordinary_away += priority <= 1
        # Not all at the same moment again.
        wait = 1.0 if random() < 0.5 else 2.0
        return UnavailableError(
            f"The server has more to do than it can. Try again in {wait:.0f} s.",
            reason="SERVER_OVERLOADED",
            retry_after=wait,
        )

    def _arm(self, now: float) -> None:
        self._on_time = self._queue_empty = self._measured = self._looked = self._used = now
        self._seen = self.admitted
        self._next(now)

    def _next(self, now: float) -> None:
        self._due = now + TICK
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _tick(self) -> None:
        now = self._monotonic()
        self.lag = max(0.0, now - self._due)
        self._trickle = True
        if self.lag < STANDING:
            self._on_time = now
        if self._waiting:
            self._sweep(now)
        if not self._queues[_ORDINARY]:
            self._queue_empty = now
        if not self.overloaded and now - min(self._on_time, self._queue_empty) > INTERVAL:
            self._change(True, now)
        if now - self._looked >= WINDOW:
            self._look(now)
        if now - self._measured >= INTERVAL:
            self._measure(now)
        if self.inflight or self._waiting:
            self._used = now
        if now - self._used > IDLE:
            self._timer = None
            return
        self._next(now)

    def _sweep(self, now: float) -> None:
        for priority in Priority:
            queue = self._queues[priority]
            expired = [(each, reason) for each in queue if (reason := self._expired(priority, each, now))]
            for waiter, reason in expired:
                queue.remove(waiter)
                self._dismiss(waiter, reason)

    def _change(self, overloaded: bool, now: float) -> None:
        self.overloaded = overloaded
        self._turn = _TURN
        self._looked, self._seen, self._turned_away, self._ordinary_away = now, self.admitted, 0, 0
        self._on_time = self._queue_empty = now
        if self._telemetry is not None:
            log = self._telemetry.log
            (log.warning if overloaded else log.info)(
                "overload begins: what cannot be answered in time is refused" if overloaded else "overload is over",
                lag_ms=round(self.lag * 1000),
                inflight=self.inflight,
                limit=self.limit,
                refused=sum(self.refused.values()),
            )

    def _look(self, now: float) -> None:
        admitted = self.admitted - self._seen
        if admitted or self._turned_away:
            self._used = now
        if self.overloaded:
            if self._turned_away <= CALM * (admitted + self._turned_away):
                self._change(False, now)
                return
            # While ordinary calls are refused, none that costs as much as many of them.
            self._turn = _TURN_NO_BULK if self._ordinary_away else _TURN
        self._looked, self._seen, self._turned_away, self._ordinary_away = now, self.admitted, 0, 0

    def _measure(self, now: float) -> None:
        if self._fixed or (self._answers < 10 and now - self._measured < 1.0):
            return
        answers, mean, peak = self._answers, self._times / max(1, self._answers), self._peak
        self._answers, self._times, self._peak, self._measured = 0, 0.0, self._held[1], now
        if not answers:
            return
        if peak <= FEWEST:
            self._base += (mean - self._base) * 0.2
        target = min(MOST_TARGET, max(TARGET, 2 * self._base))
        if mean > target:
            self._set_limit(max(FEWEST, int(self.limit * max(0.7, target / mean))))
        elif peak >= self.limit:
            self._set_limit(min(MOST, 1 + int(self.limit * min(1.5, target / max(mean, 1e-6)))))
            self._hand_over()

    def _set_limit(self, limit: int) -> None:
        self.limit = limit
        self._bounds[1:] = limit, max(1, limit // 2)
