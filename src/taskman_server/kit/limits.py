"""Rate limits: a token bucket for each principal, or address before sign-in (GATE-3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cachebox import LRUCache

from taskman_sdk.errors import ResourceExhaustedError
from taskman_server.settings import RateLimit

__all__ = ["Limiter", "Verdict"]

SIZE: Final = 50_000


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

    def __init__(self, limit: RateLimit, monotonic: Callable[[], float]) -> None:
        self.limit = limit
        self._rate = limit.requests / limit.seconds
        # A second's worth at least, so that a page that loads ten things is not refused.
        self._capacity = float(limit.requests)
        self._monotonic = monotonic
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(SIZE)
        self.policy = f'"default";q={limit.requests};w={limit.seconds}'

    def take(self, key: str) -> Verdict:
        """Takes one request from a bucket.

        Raises:
            ResourceExhaustedError: the bucket is empty; `retry_after` says for how long.
        """
        now = self._monotonic()
        tokens, then = self._buckets.get(key, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - then) * self._rate)
        if tokens < 1:
            self._buckets[key] = (tokens, now)
            wait = (1 - tokens) / self._rate
            raise ResourceExhaustedError(
                f"Too many requests: {self.limit.requests} in {self.limit.seconds} s are allowed. "
                f"Wait {max(1, math.ceil(wait))} s and go slower.",
                reason="RATE_LIMITED",
                retry_after=max(0.001, round(wait, 3)),
            )
        tokens -= 1
        self._buckets[key] = (tokens, now)
        return Verdict(int(tokens), math.ceil((self._capacity - tokens) / self._rate))
