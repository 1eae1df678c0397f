"""Rate limits (GATE-3)."""

from __future__ import annotations

import pytest

from taskman_sdk.errors import ResourceExhaustedError
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.limits import Limiter
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
