"""Deadline, retries, budget, breaker (SDK-3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from taskman_sdk.client import AsyncTaskMan
from taskman_sdk.errors import (
    AbortedError,
    DeadlineExceededError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    TaskManError,
    UnavailableError,
)
from taskman_sdk.proto.taskman.authentication.v1.authentication_pb import TokenResponse
from taskman_sdk.proto.taskman.task.v1.task_pb import ExportTasksResponse, Task
from taskman_sdk.resilience import Gate, Resilience, RetryBudget, RetryPolicy
from tests.unit.sdk.stage import TRANSPORTS, Message, Seen, Stage, reach

QUICK = RetryPolicy(base=0.001)


def failing(*errors: TaskManError) -> Callable[[Seen], Awaitable[Message]]:
    """Raises these errors, one a call, then answers."""
    left = list(errors)

    async def answer(seen: Seen) -> Message:
        if left:
            raise left.pop(0)
        if seen.method.name == "Login":
            return TokenResponse(access_token="a", refresh_token="r", expires_in=900)
        return Task(key="WEB-1")

    return answer


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_a_write_keeps_its_idempotency_key_through_its_retries(kind: str) -> None:
    """SDK-3: made once per call, another for the next call."""
    stage = Stage(failing(UnavailableError("1"), UnavailableError("2")))
    async with reach(stage, kind) as transport, AsyncTaskMan(transport=transport, retry=QUICK) as client:
        await client.tasks.create(project="WEB", title="one")
        await client.tasks.create(project="WEB", title="two")
    keys = [seen.metadata["idempotency-key"] for seen in stage.seen]
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]
    assert len({seen.metadata["x-request-id"] for seen in stage.seen}) == 2


async def test_a_read_is_retried_and_carries_no_key() -> None:
    """SDK-3"""
    stage = Stage(failing(UnavailableError("1")))
    async with reach(stage, "local") as transport, AsyncTaskMan(transport=transport, retry=QUICK) as client:
        assert (await client.tasks.get("WEB-1")).key == "WEB-1"
    assert [("idempotency-key" in seen.metadata) for seen in stage.seen] == [False, False]


async def test_a_sensitive_call_is_made_once() -> None:
    """SDK-3: its answer is never kept for a replay, so a second attempt would be a second sign-in."""
    stage = Stage(failing(UnavailableError("gone")))
    async with reach(stage, "local") as transport, AsyncTaskMan(transport=transport, retry=QUICK) as client:
        with pytest.raises(UnavailableError):
            await client.auth.login(email="ada@example.org", password="x")
    assert len(stage.seen) == 1
    assert "idempotency-key" not in stage.seen[0].metadata


@pytest.mark.parametrize(
    "error", [NotFoundError("no"), InternalError("no"), AbortedError("no", reason="ETAG_MISMATCH")]
)
async def test_what_will_not_get_better_is_not_retried(error: TaskManError) -> None:
    """SDK-3"""
    stage = Stage(failing(error))
    async with reach(stage, "local") as transport, AsyncTaskMan(transport=transport, retry=QUICK) as client:
        with pytest.raises(type(error)):
            await client.tasks.get("WEB-1")
    assert len(stage.seen) == 1


async def test_an_attempt_that_is_still_at_work_is_waited_for() -> None:
    """SDK-3: our own first attempt holds the idempotency key."""
    stage = Stage(failing(AbortedError("at work", reason="IDEMPOTENCY_KEY_IN_FLIGHT", retry_after=0.001)))
    async with reach(stage, "local") as transport, AsyncTaskMan(transport=transport, retry=QUICK) as client:
        assert (await client.tasks.create(project="WEB", title="x")).key == "WEB-1"


async def test_the_last_error_says_how_many_attempts_were_made() -> None:
    """SDK-4"""
    stage = Stage(failing(*[UnavailableError(str(n)) for n in range(9)]))
    async with reach(stage, "local") as transport, AsyncTaskMan(transport=transport, retry=QUICK) as client:
        with pytest.raises(UnavailableError) as caught:
            await client.tasks.get("WEB-1")
    assert (caught.value.message, caught.value.attempts, len(stage.seen)) == ("2", 3, 3)
    assert caught.value.request_id == stage.seen[0].metadata["x-request-id"]


async def test_a_server_that_asks_for_more_time_than_there_is_is_not_waited_for() -> None:
    """SDK-3: `Retry-After` is kept, the deadline too."""
    stage = Stage(failing(ResourceExhaustedError("slow down", retry_after=60)))
    async with reach(stage, "local") as transport, AsyncTaskMan(transport=transport, timeout=2) as client:
        async with asyncio.timeout(1):
            with pytest.raises(ResourceExhaustedError):
                await client.tasks.get("WEB-1")
    assert len(stage.seen) == 1


def test_a_wait_is_random_up_to_a_doubling_bound_and_never_less_than_asked() -> None:
    """SDK-3: full jitter."""
    policy = RetryPolicy(base=1, cap=5)
    for retry, bound in ((1, 2), (2, 4), (3, 5)):
        waits = [policy.wait(retry, UnavailableError("x")) for _ in range(300)]
        assert max(waits) <= bound
        assert min(waits) < bound * 0.2
        assert max(waits) > bound * 0.8
    assert policy.wait(1, ResourceExhaustedError("x", retry_after=3)) >= 3


async def test_the_deadline_is_for_all_attempts_together() -> None:
    """SDK-3"""
    given: list[float] = []

    async def attempt(left: float) -> None:
        given.append(left)
        await asyncio.sleep(0.05)
        raise UnavailableError("x")

    with pytest.raises(UnavailableError):
        await Resilience("h", RetryPolicy(max_retries=50, base=0.001)).call(attempt, timeout=0.2, safe=True)
    assert 2 <= len(given) <= 5
    assert given == sorted(given, reverse=True)


async def test_retries_are_a_fraction_of_the_calls() -> None:
    """SDK-3: a server that is down is not finished off by its clients."""
    made = 0

    async def attempt(left: float) -> None:
        nonlocal made
        made += 1
        raise UnavailableError("x")

    gate = Gate("h", window=10_000)
    resilience = Resilience("h", QUICK, budget=RetryBudget(capacity=10, ratio=0.1), gate=gate)
    for _ in range(100):
        with pytest.raises(UnavailableError):
            await resilience.call(attempt, timeout=5, safe=True)
    assert made == 110

    budget = RetryBudget(capacity=10, ratio=0.25)
    while budget.take():
        pass
    for _ in range(4):
        budget.success()
    assert budget.take()
    assert not budget.take()


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_a_stream_is_retried_until_its_first_item(kind: str) -> None:
    """SDK-3, SDK-5: after that the items cannot be unsaid."""
    attempts = 0

    async def answers(seen: Seen) -> AsyncIterator[Message]:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise UnavailableError("not yet")
        yield ExportTasksResponse(task=Task(title="one"))
        raise UnavailableError("broken")

    async with (
        reach(Stage(answers=answers), kind) as transport,
        AsyncTaskMan(transport=transport, retry=QUICK) as client,
    ):
        pieces = aiter(client.tasks.export())
        assert (await anext(pieces)).task is not None
        with pytest.raises(UnavailableError, match="broken"):
            await anext(pieces)
    assert attempts == 2


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def attempt(gate: Gate, success: bool | None) -> None:
    gate.leave(gate.enter(), success)


def opened(clock: Clock) -> Gate:
    gate = Gate("h", window=10, reset_timeout=5, clock=clock)
    for _ in range(10):
        attempt(gate, False)
    assert gate.state == "open"
    return gate


def test_the_breaker_opens_when_half_of_the_calls_fail_though_never_many_in_a_row() -> None:
    """SDK-3: a counter of consecutive failures would stay at one."""
    gate = Gate("h", window=10)
    for _ in range(5):
        attempt(gate, False)
        assert gate.state == "closed"
        attempt(gate, True)
    attempt(gate, False)
    assert gate.state == "open"
    with pytest.raises(UnavailableError, match="failed too often") as caught:
        gate.enter()
    assert caught.value.reason == "CIRCUIT_OPEN"


def test_rare_failures_leave_the_breaker_closed() -> None:
    """SDK-3"""
    gate = Gate("h", window=10)
    for _ in range(100):
        attempt(gate, False)
        for _ in range(2):
            attempt(gate, True)
    assert gate.state == "closed"


def test_one_probe_at_a_time_finds_out_whether_the_host_is_back() -> None:
    """SDK-3"""
    clock = Clock()
    gate = opened(clock)
    clock.now = 4.9
    with pytest.raises(UnavailableError):
        gate.enter()
    clock.now = 5
    probe = gate.enter()
    assert probe
    with pytest.raises(UnavailableError):
        gate.enter()
    gate.leave(probe, True)
    assert gate.state == "closed"
    attempt(gate, False)
    assert gate.state == "closed"  # what was before is forgotten


def test_a_failed_probe_opens_again_for_the_whole_time() -> None:
    """SDK-3"""
    clock = Clock()
    gate = opened(clock)
    clock.now = 5
    attempt(gate, False)
    clock.now = 9.9
    with pytest.raises(UnavailableError):
        gate.enter()
    clock.now = 10
    attempt(gate, True)
    assert gate.state == "closed"


def test_a_cancelled_call_counts_neither_way() -> None:
    """SDK-3: it says nothing about the host; a cancelled probe leaves the next caller to probe."""
    clock = Clock()
    gate = Gate("h", window=10, clock=clock)
    for _ in range(100):
        attempt(gate, None)
    assert gate.state == "closed"
    gate = opened(clock)
    clock.now = 5
    attempt(gate, None)
    assert gate.state == "half-open"
    assert gate.enter()


async def test_only_a_timeout_that_says_something_counts_against_the_host() -> None:
    """SDK-3: an impatient caller does not shut the door for the others."""

    async def attempt(left: float) -> None:
        raise DeadlineExceededError("x")

    for timeout, state in ((0.01, "closed"), (5, "open")):
        gate = Gate("h")
        for _ in range(20):
            with pytest.raises(DeadlineExceededError):
                await Resilience("h", gate=gate).call(attempt, timeout=timeout, safe=True)
        assert gate.state == state
