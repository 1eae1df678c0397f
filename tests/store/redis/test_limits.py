"""Rate limits of a gateway in several processes (GATE-3)."""

from __future__ import annotations

import asyncio
import math
import time

import pytest
from prometheus_client import CollectorRegistry

from taskman_sdk.errors import ResourceExhaustedError
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.limits import Limiter, RedisBank, SharedLimiter, Verdict
from taskman_server.kit.telemetry import Telemetry
from taskman_server.settings import RateLimit
from tests.parts.proxy import TcpProxy
from tests.store.redis.conftest import Connect
from tests.store.support import until

SLOW = RateLimit(requests=100, seconds=3600)
"""So slow that nothing comes back while a test runs; blocks of one."""
BLOCKS = RateLimit(requests=1000, seconds=1)
"""Blocks of a hundred."""


async def ask(limiter: Limiter, key: str = "ann") -> Verdict:
    return limiter.take(key) or await limiter.more(key)


async def admitted(limiter: Limiter, requests: int, key: str = "ann") -> int:
    count = 0
    for _ in range(requests):
        try:
            await ask(limiter, key)
            count += 1
        except ResourceExhaustedError:
            pass
    return count


def shared(redis: object, limit: RateLimit = SLOW, **options: object) -> SharedLimiter:
    return SharedLimiter(limit, time.monotonic, RedisBank(redis, limit), **options)  # type: ignore[arg-type]


async def test_two_processes_share_one_bucket(connect: Connect) -> None:
    """GATE-3: the limit is the principal's, however many gateways it asks."""
    ours, theirs = shared(await connect("gateway")), shared(await connect("gateway"))
    let = await asyncio.gather(admitted(ours, 90), admitted(theirs, 90))
    assert sum(let) == 100
    with pytest.raises(ResourceExhaustedError) as caught:
        await ask(ours)
    assert caught.value.reason == "RATE_LIMITED"
    assert caught.value.retry_after == pytest.approx(36, abs=2)
    assert await admitted(ours, 1, "bob") == 1, "nobody pays for another"


async def test_no_more_than_a_block_for_each_process_gets_through_beyond_the_limit(connect: Connect) -> None:
    """GATE-3: the stated bound, `limit + rate * t + block * processes`, with processes that hold blocks already."""
    limiters = [shared(await connect("gateway"), BLOCKS) for _ in range(2)]
    assert [limiter.block for limiter in limiters] == [100, 100]
    for limiter in limiters:
        await ask(limiter)  # has a block from now on
    started = time.monotonic()
    let = sum(await asyncio.gather(*(admitted(limiter, 3000) for limiter in limiters)))
    seconds = time.monotonic() - started
    assert 1000 - 200 <= let <= 1000 + 1000 * seconds + 200


async def test_redis_is_asked_once_for_a_block(connect: Connect) -> None:
    """GATE-3: and not on every request."""
    redis = await connect("gateway")
    limiter = shared(redis, BLOCKS)
    await ask(limiter)
    assert sum(limiter.take("ann") is not None for _ in range(200)) == 99


async def test_many_who_wait_share_one_question(connect: Connect) -> None:
    limiter = shared(await connect("gateway"))
    verdicts = await asyncio.gather(*(ask(limiter) for _ in range(60)))
    assert sorted(verdict.remaining for verdict in verdicts) == list(range(40, 100))
    rest = await asyncio.gather(*(ask(limiter) for _ in range(60)), return_exceptions=True)
    assert sum(isinstance(each, Verdict) for each in rest) == 40


async def test_the_headers_tell_what_is_left_for_all(connect: Connect) -> None:
    """GATE-3: `RateLimit` counts what other gateways have let through."""
    ours, theirs = shared(await connect("gateway")), shared(await connect("gateway"))
    assert (await ask(ours)).remaining == 99
    assert (await ask(theirs)).remaining == 98
    verdict = await ask(ours)
    assert (verdict.remaining, verdict.reset) == (97, math.ceil(3 * 36))


async def test_what_is_left_of_a_block_goes_back(connect: Connect) -> None:
    """GATE-3: whoever asks now and then, by many gateways, does not lose what these hold."""
    clock = ManualClock()
    limit = RateLimit(requests=1000, seconds=3600)  # blocks of one: made larger, to have something to give back
    limiter = SharedLimiter(limit, clock.monotonic, RedisBank(await connect("gateway"), limit))
    limiter.block = 50
    for used in range(1, 11):
        assert (await ask(limiter)).remaining == 1000 - used
        clock.advance(2)


async def test_a_refusal_is_not_asked_for_again(connect: Connect, network: TcpProxy) -> None:
    """GATE-3: a flood of requests that are refused is no flood on Redis."""
    limiter = shared(await connect("gateway"))
    assert await admitted(limiter, 101) == 100
    network.freeze()
    for _ in range(100):
        with pytest.raises(ResourceExhaustedError):
            limiter.take("ann")


async def test_without_redis_each_process_goes_on_by_itself(connect: Connect, network: TcpProxy) -> None:
    """GATE-3: it knows what was left, and never lets more through than the limit for each process."""
    redis = await connect("gateway")
    ours, theirs = shared(redis), shared(await connect("gateway"))
    await admitted(ours, 30)
    await admitted(theirs, 30)
    network.cut()
    assert await admitted(ours, 200) == 70, "as many as were left when it asked last"
    assert await admitted(theirs, 200) == 40
    assert await admitted(ours, 200, "bob") == 100, "never heard of: a full bucket"
    network.heal()
    await until(lambda: back(redis))
    assert await admitted(ours, 200, "bob") == 100, "the shared bucket has not heard of these"


async def back(redis: object) -> bool:
    return not redis.degraded  # type: ignore[attr-defined]


async def test_a_slow_redis_holds_nobody_up_for_long(connect: Connect, network: TcpProxy) -> None:
    """GATE-3: one time-out, and then the breaker spares everybody even that."""
    redis = await connect("gateway", timeout=0.1)
    limiter = shared(redis)
    await ask(limiter)
    network.freeze()
    started = time.monotonic()
    await ask(limiter)
    assert time.monotonic() - started < 1
    while not redis.degraded:
        await ask(limiter)
    assert limiter.take("ann") is not None, "decided at once"


async def test_a_flush_fills_the_buckets_and_breaks_nothing(connect: Connect) -> None:
    redis = await connect("gateway")
    limiter = shared(redis)
    await admitted(limiter, 60)
    await redis._ask("FLUSHDB")
    assert (await ask(limiter)).remaining == 99


async def test_a_limit_in_the_shadow_refuses_nobody_and_counts(connect: Connect) -> None:
    """GATE-3: to try a limit out."""
    registry = CollectorRegistry()
    telemetry = Telemetry("gateway", registry)
    two = RateLimit(requests=2, seconds=3600)
    for limiter in (
        Limiter(two, time.monotonic, shadow=True, telemetry=telemetry),
        shared(await connect("gateway"), two, shadow=True, telemetry=telemetry),
    ):
        assert [(await ask(limiter)).remaining for _ in range(4)] == [1, 0, 0, 0]
    refused = registry.get_sample_value("taskman_rate_limit_refused_total", {"service": "gateway", "mode": "shadow"})
    assert refused == 4
