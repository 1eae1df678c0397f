"""What another service answered, remembered: for how long, and how often it is asked (AUTHZ-4, AUTHN-4)."""

from __future__ import annotations

import asyncio

from taskman_server.kit.answers import AnswerCache
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.telemetry import CacheUse

TTL = 0.5


class Service:
    """Answers how often it was asked; `changes` is what its database says of itself."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.asked = 0
        self.changes = 0
        self.begun = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()

    async def __call__(self) -> int:
        self.asked += 1
        self.begun.set()
        answer = self.asked
        await self.answering.wait()
        return answer


def cache(service: Service, *, follow: bool = False) -> AnswerCache[str, int]:
    """An empty cache."""
    made: AnswerCache[str, int] = AnswerCache(100, TTL, CacheUse(), service.clock.monotonic)
    if follow:
        made.follow(lambda: service.changes)
    return made


async def get(answers: AnswerCache[str, int], service: Service, *, good: bool = True) -> int:
    """As a caller does it."""

    def wanted(value: int, asked: float) -> bool:
        return good

    return answers.get("key", wanted) or await answers.ask("key", service, wanted)


async def test_an_answer_counts_for_its_time_and_no_longer() -> None:
    """AUTHZ-4: where nobody can see whether something changed, time alone decides."""
    service = Service()
    answers = cache(service)
    assert [await get(answers, service) for _ in range(3)] == [1, 1, 1]
    service.clock.advance(TTL)
    assert [await get(answers, service) for _ in range(3)] == [2, 2, 2]


async def test_as_long_as_nothing_changes_an_answer_is_asked_for_once() -> None:
    """AUTHZ-4: a change is seen within the same time as ever."""
    service = Service()
    answers = cache(service, follow=True)
    for _ in range(10):
        assert await get(answers, service) == 1
        service.clock.advance(TTL)
    service.changes += 1
    assert await get(answers, service) == 2, "older than its time, and something has changed"
    service.changes += 1
    assert await get(answers, service) == 2
    service.clock.advance(TTL)
    assert await get(answers, service) == 3


async def test_what_changed_while_it_was_asked_for_is_not_confirmed() -> None:
    """AUTHZ-4: the answer may be from before the change, so it counts for its time only."""
    service = Service()
    answers = cache(service, follow=True)
    service.answering.clear()
    asking = asyncio.create_task(get(answers, service))
    await service.begun.wait()
    service.changes += 1
    service.answering.set()
    assert await asking == 1
    service.clock.advance(TTL)
    assert await get(answers, service) == 2


async def test_who_knows_better_has_the_last_word() -> None:
    """AUTHN-4: a session that is known to have ended is asked about anew, at any time."""
    service = Service()
    answers = cache(service)
    assert await get(answers, service) == 1
    assert await get(answers, service, good=False) == 2
    assert await get(answers, service) == 2


async def test_a_hot_key_that_has_run_out_is_asked_for_once() -> None:
    """AUTHZ-4: however many want it at that moment."""
    service = Service()
    answers = cache(service)
    await get(answers, service)
    service.clock.advance(TTL)
    service.answering.clear()
    service.begun.clear()
    waiting = [asyncio.create_task(get(answers, service)) for _ in range(100)]
    await service.begun.wait()
    await asyncio.sleep(0)  # so that all have asked
    service.answering.set()
    assert await asyncio.gather(*waiting) == [2] * 100
    assert service.asked == 2
