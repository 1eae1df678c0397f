"""Rate limits: a token bucket for each principal, or address before sign-in (GATE-3).

One process keeps the buckets itself. Several share them in a bank: Redis, or the first of the processes that a server
without Redis has. From there each takes tokens in blocks and spends them without asking, so that the bank is asked ten
times a second for a busy principal and not for every request. In any t seconds a principal gets at most what one
process would let through, `limit + rate * t`, and beyond that one block for each process that asks: what it held when
they began. Without the bank each process goes on with what it last knew of the bucket: at worst the limit counts for
each process by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from cachebox import LRUCache

from taskman_sdk.errors import ResourceExhaustedError
from taskman_server.kit.coalesce import Coalescer
from taskman_server.settings import RateLimit

if TYPE_CHECKING:
    from taskman_server.kit.redis import Redis, Script
    from taskman_server.kit.telemetry import Telemetry

__all__ = ["Bank", "Limiter", "RedisBank", "SharedLimiter", "Verdict"]

SIZE: Final = 50_000
LEASE: Final = 1.0
"""Seconds in which a block is to be spent; what is left then goes back at the next question."""
BLOCK_SECONDS: Final = 0.1
"""A block is what the bucket gains in this time, and a tenth of the bucket at most."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is left.

    Attributes:
        remaining: requests that would be let through at once.
        reset: seconds until the bucket is full again.
    """

    remaining: int
    reset: int


class Limiter:
    """Buckets in this process. The least recently used are forgotten, which fills them."""

    def __init__(
        self,
        limit: RateLimit,
        monotonic: Callable[[], float],
        *,
        shadow: bool = False,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Args:
        limit: how many requests in which time.
        monotonic: the time, in seconds.
        shadow: only count who would be refused, to try a limit out.
        telemetry: counts refusals.
        """
        self.limit = limit
        self._rate = limit.requests / limit.seconds
        # A second's worth at least, so that a page that loads ten things is not refused.
        self._capacity = float(limit.requests)
        self._monotonic = monotonic
        self._shadow = shadow
        self._telemetry = telemetry
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(SIZE)
        self.policy = f'"default";q={limit.requests};w={limit.seconds}'

    def take(self, key: str, *, refuse: bool = True) -> Verdict | None:
        """Takes one request from a bucket; None: that cannot be said here, await `more`.

        Args:
            key: the bucket.
            refuse: whether to refuse; None otherwise, and somebody else takes it up.

        Raises:
            ResourceExhaustedError: the bucket is empty; `retry_after` says for how long.
        """
        granted, tokens = self.lease(key, 1, 0)
        if granted:
            return self._verdict(tokens)
        return self._refuse((1 - tokens) / self._rate) if refuse else None

    def lease(self, key: str, wanted: int, back: int) -> tuple[int, float]:
        """Takes a block out of a bucket for another process; see `Bank.lease`."""
        now = self._monotonic()
        tokens, then = self._buckets.get(key, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - then) * self._rate + back)
        granted = min(wanted, int(tokens))
        tokens -= granted
        self._buckets[key] = (tokens, now)
        return granted, tokens

    async def more(self, key: str) -> Verdict:
        """The same, where `take` could not say.

        Raises:
            ResourceExhaustedError: as `take`.
        """
        verdict = Limiter.take(self, key)
        assert verdict is not None
        return verdict

    def _verdict(self, tokens: float) -> Verdict:
        return Verdict(int(tokens), math.ceil((self._capacity - tokens) / self._rate))

    def _refuse(self, wait: float) -> Verdict:
        if self._telemetry is not None:
            self._telemetry.refused("shadow" if self._shadow else "enforced")
        if self._shadow:
            return self._verdict(0)
        raise ResourceExhaustedError(
            f"Too many requests: {self.limit.requests} in {self.limit.seconds} s are allowed. "
            f"Wait {max(1, math.ceil(wait))} s and go slower.",
            reason="RATE_LIMITED",
            retry_after=max(0.001, round(wait, 3)),
        )


class Bank(Protocol):
    """Where the buckets are that several processes share."""

    @property
    def degraded(self) -> bool:
        """It is known not to answer now."""

    async def lease(self, key: str, wanted: int, back: int) -> tuple[int, float] | None:
        """Takes a block out of a bucket.

        Args:
            key: the bucket.
            wanted: how many tokens at most.
            back: how many of the last block go back before.

        Returns:
            How many there were, and what is left in the bucket; None: it does not answer.
        """


class RedisBank:
    """Buckets in Redis. Implements `Bank`."""

    def __init__(self, redis: Redis, limit: RateLimit) -> None:
        self._redis = redis
        self._script = _script()
        self._rate = limit.requests / limit.seconds
        self._capacity = float(limit.requests)
        # Milliseconds after which a bucket is full anyway.
        self._kept = math.ceil(self._capacity / self._rate * 1000) + 1000

    @property
    def degraded(self) -> bool:
        """See `Bank.degraded`."""
        return self._redis.degraded

    async def lease(self, key: str, wanted: int, back: int) -> tuple[int, float] | None:
        """See `Bank.lease`."""
        # What is given back is lost where the answer is: rather too little than twice.
        answer = await self._redis.eval(
            self._script, [f"limit:{key}"], self._capacity, self._rate / 1000, wanted, back, self._kept
        )
        return None if answer is None else (int(answer[0]), float(answer[1]))


@dataclass(slots=True)
class _Lease:
    """A block of a bucket, and what was left in the bucket when it was taken out."""

    tokens: int
    left: float
    then: float
    until: float
    refused: bool


class SharedLimiter(Limiter):
    """Buckets in a bank, spent in blocks."""

    def __init__(
        self,
        limit: RateLimit,
        monotonic: Callable[[], float],
        bank: Bank,
        *,
        shadow: bool = False,
        telemetry: Telemetry | None = None,
    ) -> None:
        """As `Limiter`, with the bank that all processes of the gateway share."""
        super().__init__(limit, monotonic, shadow=shadow, telemetry=telemetry)
        self._bank = bank
        self._leases: LRUCache[str, _Lease] = LRUCache(SIZE)
        self._asking: Coalescer[str, bool] = Coalescer()
        self._waiting: dict[str, int] = {}
        self.block = max(1, int(min(self._rate * BLOCK_SECONDS, self._capacity / 10)))

    def take(self, key: str, *, refuse: bool = True) -> Verdict | None:
        """See `Limiter.take`. A refusal holds for as long as the bank said, without asking again."""
        now = self._monotonic()
        lease: _Lease | None = self._leases.get(key)
        if lease is not None and now < lease.until:
            if lease.tokens > 0:
                lease.tokens -= 1
                shared = lease.left + (now - lease.then) * self._rate
                return self._verdict(min(self._capacity, lease.tokens + shared))
            if lease.refused:
                return self._refuse(lease.until - now) if refuse else None
        return super().take(key, refuse=refuse) if self._bank.degraded else None

    async def more(self, key: str) -> Verdict:
        """See `Limiter.more`. Waits for the bank for one time-out at most, if that does not answer."""
        self._waiting[key] = self._waiting.get(key, 0) + 1
        try:
            while await self._asking.get(key, lambda: self._ask(key)):
                if (verdict := self.take(key)) is not None:
                    return verdict
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
        return await super().more(key)

    async def _ask(self, key: str) -> bool:
        """Takes a block, large enough for all who wait; whether the bank has answered."""
        old: _Lease | None = self._leases.pop(key, None)
        back = old.tokens if old is not None else 0
        wanted = max(self.block, self._waiting.get(key, 1))
        answer = await self._bank.lease(key, wanted, back)
        if answer is None:
            return False
        (granted, left), now = answer, self._monotonic()
        wait = LEASE if granted else max(0.001, (1 - left) / self._rate)
        self._leases[key] = _Lease(granted, left, now, now + wait, refused=not granted)
        self._buckets[key] = (left, now)
        return True


def _script() -> Script:
    from taskman_server.kit.redis import Script

    return Script(
        "local t = redis.call('TIME') local now = t[1] * 1000 + t[2] / 1000 "
        "local capacity, rate, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]) "
        "local tokens, found = capacity, redis.call('GET', KEYS[1]) "
        "if found then local left, since = string.match(found, '^(.-):(.+)$') "
        "local gained = math.max(0, now - tonumber(since)) * rate + tonumber(ARGV[4]) "
        "tokens = math.min(capacity, tonumber(left) + gained) end "
        "local granted = math.min(wanted, math.floor(tokens)) "
        "local rest = string.format('%.17g', tokens - granted) "
        "redis.call('SET', KEYS[1], rest .. ':' .. string.format('%.17g', now), 'PX', ARGV[5]) "
        "return {granted, rest}"
    )
