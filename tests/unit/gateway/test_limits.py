"""Rate limits (GATE-3)."""

from __future__ import annotations

import pytest

from taskman_sdk.errors import ResourceExhaustedError
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.limits import Limiter, SharedLimiter
from taskman_server.settings import RateLimit


def test_so_many_at_once_and_then_so_many_in_a_time() -> None:
    """GATE-3: a bucket that fills at the rate; `Retry-After` says when the next one fits."""
    clock = ManualClock()
    limiter = Limiter(RateLimit(requests=5, seconds=10), clock.monotonic)
    assert [limiter.take("ann").remaining for _ in range(5)] == [4, 3, 2, 1, 0]
    with pytest.raises(ResourceExhaustedError) as caught:
        limiter.take("ann")
    assert (caught.value.reason, caught.value.retry_after) == ("RATE_LIMITED", 2.0)
    clock.advance(1.9)
    with pytest.raises(ResourceExhaustedError) as caught:
        limiter.take("ann")
    assert caught.value.retry_after == pytest.approx(0.1)
    clock.advance(0.11)
    verdict = limiter.take("ann")
    assert (verdict.remaining, verdict.reset) == (0, 10)


def test_nobody_pays_for_another() -> None:
    """GATE-3: each principal or address has a bucket of its own."""
    clock = ManualClock()
    limiter = Limiter(RateLimit(requests=1, seconds=1), clock.monotonic)
    limiter.take("ann")
    limiter.take("bob")
    with pytest.raises(ResourceExhaustedError):
        limiter.take("ann")


def test_a_bucket_holds_no_more_than_its_size() -> None:
    """GATE-3: a quiet hour is no licence for a storm."""
    clock = ManualClock()
    limiter = Limiter(RateLimit(requests=3, seconds=1), clock.monotonic)
    limiter.take("ann")
    clock.advance(3600)
    assert [limiter.take("ann").remaining for _ in range(3)] == [2, 1, 0]
    with pytest.raises(ResourceExhaustedError):
        limiter.take("ann")


def test_refused_requests_cost_nothing() -> None:
    """GATE-3: knocking does not keep the door shut."""
    clock = ManualClock()
    limiter = Limiter(RateLimit(requests=1, seconds=1), clock.monotonic)
    limiter.take("ann")
    for _ in range(50):
        with pytest.raises(ResourceExhaustedError):
            limiter.take("ann")
    clock.advance(1.01)
    assert limiter.take("ann").remaining == 0


class _Room:
    """The first process's buckets, as a worker reaches them."""

    degraded = False

    def __init__(self, first: Limiter) -> None:
        self.first = first
        self.asked = 0

    async def lease(self, key: str, wanted: int, back: int) -> tuple[int, float]:
        self.asked += 1
        return self.first.lease(key, wanted, back)


async def _take(limiter: Limiter, key: str = "ann") -> bool:
    try:
        if limiter.take(key) is None:
            await limiter.more(key)
    except ResourceExhaustedError:
        return False
    return True


async def test_workers_and_the_first_process_share_one_bucket() -> None:
    """GATE-3: the limit is the principal's, however many processes answer; in time `limit + rate * t` and a block for
    each worker."""
    clock = ManualClock()
    limit = RateLimit(requests=200, seconds=1)
    first = Limiter(limit, clock.monotonic)
    workers = [SharedLimiter(limit, clock.monotonic, _Room(first)) for _ in range(3)]
    let = 0
    for _ in range(150):
        for limiter in (first, *workers):
            let += await _take(limiter)
    assert let == 200, "at once: not one more"
    for _ in range(2000):
        clock.advance(0.001)
        for limiter in (first, *workers):
            let += await _take(limiter)
    block = workers[0].block
    assert 200 + 400 - 3 * block <= let <= 200 + 400 + 3 * block
    assert await _take(first, "bob")


async def test_a_worker_asks_once_for_a_block() -> None:
    """GATE-3: the line between processes is not on the way of every request."""
    clock = ManualClock()
    limit = RateLimit(requests=1000, seconds=1)
    room = _Room(Limiter(limit, clock.monotonic))
    worker = SharedLimiter(limit, clock.monotonic, room)
    assert all([await _take(worker) for _ in range(500)])
    assert room.asked == 500 / worker.block
