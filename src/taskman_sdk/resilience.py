"""Deadline, retries, retry budget and breaker: once, for every transport (SDK-3).

A call that succeeds at once pays for a clock reading and a few comparisons; tenacity is entered after a first failure.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from taskman_sdk.errors import (
    AbortedError,
    DeadlineExceededError,
    ResourceExhaustedError,
    TaskManError,
    UnavailableError,
)

if TYPE_CHECKING:
    import pybreaker
    from tenacity import RetryCallState

__all__ = ["Gate", "Resilience", "RetryBudget", "RetryPolicy"]

T = TypeVar("T")
CIRCUIT_OPEN: Final = "CIRCUIT_OPEN"
# A caller who gave up sooner than this learnt nothing about the server.
TELLING_TIMEOUT: Final = 1.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and how often to try again.

    Attributes:
        max_retries: attempts after the first.
        base: seconds; the wait before retry n is drawn from 0 … base * 2ⁿ ("full jitter").
        cap: the longest such wait in seconds.
    """

    max_retries: int = 2
    base: float = 0.1
    cap: float = 5.0

    def wait(self, retry: int, error: BaseException | None) -> float:
        """Seconds to wait before the retry (from 1); never less than the server asked for."""
        jitter = random.uniform(0, min(self.cap, self.base * 2**retry))
        asked = error.retry_after if isinstance(error, TaskManError) else None
        return jitter if asked is None else asked + jitter * 0.1


class RetryBudget:
    """Lets retries be a fraction of the calls, so that they do not finish off a server that is down.

    Args:
        capacity: retries that may be made at a stretch.
        ratio: what each success pays back.
    """

    def __init__(self, capacity: float = 10, ratio: float = 0.1) -> None:
        self._capacity = self._tokens = capacity
        self._ratio = ratio

    def success(self) -> None:
        """A call succeeded."""
        if self._tokens < self._capacity:
            self._tokens = min(self._capacity, self._tokens + self._ratio)

    def take(self) -> bool:
        """Whether one more retry may be made; it is paid for."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Gate:
    """A breaker for one host: pybreaker's states behind a gate of ours.

    It opens when at least half of the last calls failed (not only on failures in a row), lets exactly one call through
    to probe whether the host is back, and a cancelled call counts neither way.

    Args:
        host: its name in errors.
        window: how many of the last calls are looked at; before so many were made it stays closed.
        ratio: the share of failures that opens it.
        reset_timeout: seconds until it lets a probe through.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        host: str,
        *,
        window: int = 20,
        ratio: float = 0.5,
        reset_timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self._outcomes: deque[bool] = deque(maxlen=window)
        self._ratio = ratio
        self._reset_timeout = reset_timeout
        self._clock = clock
        self._opened = 0.0
        self._probing = False
        self._breaker: pybreaker.CircuitBreaker | None = None  # made at the first failure: most never need one

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        return "closed" if self._breaker is None else self._breaker.current_state

    def enter(self) -> bool:
        """Asks to make an attempt; answers whether it is the probe.

        Raises:
            UnavailableError: with reason `CIRCUIT_OPEN`; nothing was sent.
        """
        if self._breaker is None or self._breaker.current_state == "closed":
            return False
        left = self._opened + self._reset_timeout - self._clock()
        if self._breaker.current_state == "open" and left <= 0:
            self._breaker.half_open()
        if self._breaker.current_state == "half-open" and not self._probing:
            self._probing = True
            return True
        raise UnavailableError(
            f"{self.host} failed too often; the next attempt is made in {max(left, 0):.1f} s.",
            reason=CIRCUIT_OPEN,
            retry_after=max(left, 0.0),
        )

    def hint(self) -> None:
        """Tells of a sign that the host is back: the next attempt is the probe, now."""
        if self.state == "open":
            self._opened = self._clock() - self._reset_timeout

    def leave(self, probe: bool, success: bool | None) -> None:
        """Tells how the attempt went; None for one that says nothing, such as a cancelled one."""
        if probe:
            self._probing = False
            if success is not None and self._breaker is not None:
                self._outcomes.clear()
                self._breaker.close() if success else self._open()
            return
        if success is None or (success and not self._outcomes):
            return
        if not success and self._breaker is None:
            self._breaker = _new_breaker(self.host, self._reset_timeout)
        self._outcomes.append(success)
        if success and all(self._outcomes):
            self._outcomes.clear()  # healthy again: the next successes cost nothing
            return
        full = len(self._outcomes) == self._outcomes.maxlen
        if not success and full and self._outcomes.count(False) >= self._ratio * len(self._outcomes):
            self._open()

    def _open(self) -> None:
        assert self._breaker is not None
        self._opened = self._clock()
        self._breaker.open()


def _new_breaker(host: str, reset_timeout: float) -> pybreaker.CircuitBreaker:
    import pybreaker

    return pybreaker.CircuitBreaker(name=host, reset_timeout=reset_timeout)


def _temporary(error: TaskManError) -> bool:
    if isinstance(error, AbortedError):  # an attempt of ours that we gave up on is still at work there
        return error.reason == "IDEMPOTENCY_KEY_IN_FLIGHT"
    return isinstance(error, (UnavailableError, ResourceExhaustedError)) and error.reason != CIRCUIT_OPEN


class Resilience:
    """Makes calls of attempts.

    Args:
        host: what the breaker guards.
        policy: when to retry.
        budget: how much retrying is affordable; one for all calls of a client.
        gate: the breaker; a new one when not given.
    """

    def __init__(
        self,
        host: str,
        policy: RetryPolicy | None = None,
        *,
        budget: RetryBudget | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.policy = policy or RetryPolicy()
        self.budget = budget or RetryBudget()
        self.gate = gate or Gate(host)

    async def call(self, attempt: Callable[[float], Awaitable[T]], *, timeout: float, safe: bool) -> T:
        """Calls until it works, must not be tried again, or the time is up.

        Args:
            attempt: makes one attempt in the seconds it is given.
            timeout: seconds for everything, waits included.
            safe: a second attempt does no harm: the call only reads, or carries an idempotency key.

        Raises:
            TaskManError: of the last attempt, with `attempts`.
        """
        deadline = time.monotonic() + timeout
        try:
            answer = await self._guarded(attempt, timeout)
        except TaskManError as error:
            if not self._again(error, safe, 1, deadline):
                raise
            return await self._retry(attempt, deadline, safe, error)
        self.budget.success()
        return answer

    async def _guarded(self, attempt: Callable[[float], Awaitable[T]], timeout: float) -> T:
        probe = self.gate.enter()
        outcome: bool | None = None
        try:
            answer = await attempt(timeout)
            outcome = True
            return answer
        except DeadlineExceededError:
            outcome = False if timeout >= TELLING_TIMEOUT else None
            raise
        except TaskManError as error:
            outcome = not isinstance(error, UnavailableError)
            raise
        finally:
            self.gate.leave(probe, outcome)

    def _again(self, error: BaseException, safe: bool, made: int, deadline: float) -> bool:
        if made > self.policy.max_retries or not safe:
            return False
        if not isinstance(error, TaskManError) or not _temporary(error):
            return False
        if time.monotonic() + (error.retry_after or 0) >= deadline:
            return False
        return self.budget.take()

    async def _retry(
        self, attempt: Callable[[float], Awaitable[T]], deadline: float, safe: bool, first: TaskManError
    ) -> T:
        from tenacity import AsyncRetrying, retry_if_exception

        made = 1

        async def one() -> T:
            nonlocal made
            if made == 1:  # the attempt that brought us here
                made = 2
                raise first
            left = deadline - time.monotonic()
            if left <= 0:
                raise first
            try:
                return await self._guarded(attempt, left)
            except TaskManError as error:
                error.attempts = made
                made += 1
                raise

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome is not None else None
            planned = self.policy.wait(state.attempt_number, error)
            return max(0.0, min(planned, deadline - time.monotonic()))

        def again(error: BaseException) -> bool:
            if error is first:
                return made == 2 and deadline > time.monotonic()  # paid for by the caller of this function
            return self._again(error, safe, made - 1, deadline)

        retrying = AsyncRetrying(retry=retry_if_exception(again), wait=wait, sleep=asyncio.sleep, reraise=True)
        return await retrying(one)
