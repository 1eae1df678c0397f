"""Overload (GATE-9): what is admitted stays fast, the rest is refused at once, and it is over when the load is.

The server of these tests is an event loop whose time is simulated: a callback that works moves the clock by what the
work would take, and waiting moves it to the next timer. Tasks, timers, turns and queues are asyncio's own.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from taskman_sdk import contract
from taskman_sdk.errors import DeadlineExceededError, TaskManError, UnavailableError
from taskman_server.gateway.admission import FEWEST, FIRST_MOST, MOST, START, Admission, Priority, priority_of
from taskman_server.kit.telemetry import Telemetry

T = TypeVar("T")
PARSE = 0.00002  # of CPU, to read a head from the socket
REFUSE = 0.00003
SERVE = 0.001
CAPACITY = 1 / (SERVE + PARSE)


class _Selector(selectors.SelectSelector):
    """Does not wait: time passes instead."""

    loop: SimulatedLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("everybody waits for what will never come")
        self.loop.now += max(0.0, timeout)
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, in simulated time."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.now = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        """Something holds the loop for so long."""
        self.now += seconds


def simulate(story: Callable[[SimulatedLoop], Coroutine[Any, Any, T]]) -> T:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, SimulatedLoop)
        return runner.run(story(loop))


@dataclass
class Threads:
    """Work beside the loop: so many at once, the others in line."""

    loop: SimulatedLoop
    number: int
    free_at: list[float] = field(default_factory=list)

    async def run(self, seconds: float) -> None:
        self.free_at = self.free_at or [0.0] * self.number
        self.free_at.sort()
        self.free_at[0] = max(self.free_at[0], self.loop.now) + seconds
        done = self.loop.create_future()
        self.loop.call_at(self.free_at[0], done.set_result, None)
        await done


@dataclass
class Answer:
    priority: Priority
    sent: float
    took: float
    ok: bool


class Server:
    """Requests that come at given times, as the gateway would treat them."""

    def __init__(self, loop: SimulatedLoop, admission: Admission | None, threads: Threads | None = None) -> None:
        self.loop, self.admission, self.threads = loop, admission, threads
        self.answers: list[Answer] = []
        self._tasks: list[asyncio.Task[None]] = []

    def load(
        self, rate: float, begin: float, end: float, *, priority: Priority = Priority.ORDINARY, serve: float = SERVE
    ) -> None:
        """Requests at random, so many a second, whether they are answered or not."""
        chance, at = random.Random(f"{rate}{begin}{priority}"), begin
        while (at := at + chance.expovariate(rate)) < end:
            self.loop.call_at(at, self._read, at, priority, serve)

    async def until(self, time: float) -> None:
        await asyncio.sleep(time - self.loop.now)
        await asyncio.gather(*self._tasks)

    def _read(self, sent: float, priority: Priority, serve: float) -> None:
        self.loop.work(PARSE)
        self._tasks.append(self.loop.create_task(self._answer(sent, self.loop.now, priority, serve)))

    async def _answer(self, sent: float, arrived: float, priority: Priority, serve: float) -> None:
        door, started = self.admission, None
        try:
            if door is not None:
                started = door.enter(priority, arrived)
                if started is None:
                    started = await door.wait(priority, arrived)
            try:
                if self.threads is not None:
                    await self.threads.run(serve)
                else:
                    self.loop.work(serve)
            finally:
                if door is not None and started is not None:
                    door.leave(priority, started)
        except TaskManError:
            self.loop.work(REFUSE)
        self.answers.append(Answer(priority, sent, self.loop.now - sent, door is None or started is not None))

    def times(self, begin: float, end: float, *, ok: bool, priority: Priority | None = None) -> list[float]:
        """What the answers to requests of that time took, sorted."""
        return sorted(
            each.took
            for each in self.answers
            if begin <= each.sent < end and each.ok is ok and priority in (None, each.priority)
        )


def p99(times: list[float]) -> float:
    return times[len(times) * 99 // 100]


@pytest.mark.parametrize("factor", [1.2, 2, 4])
def test_past_capacity_the_admitted_stay_fast_and_the_rest_is_refused_at_once(factor: float) -> None:
    """GATE-9: goodput holds, answers come in time, refusals sooner, and a second later all is as it was."""

    async def story(loop: SimulatedLoop) -> tuple[Server, Admission]:
        door = Admission(monotonic=loop.time, processor=loop.time)
        server = Server(loop, door)
        server.load(factor * CAPACITY, 0, 3)
        server.load(0.7 * CAPACITY, 3.2, 5)
        await server.until(6)
        return server, door

    server, door = simulate(story)
    good, away = server.times(0, 3, ok=True), server.times(1, 3, ok=False)
    # What refusing costs is gone, whoever refuses.
    floor = 0.9 if factor <= 2 else 0.8
    assert len(server.times(1, 3, ok=True)) / 2 >= floor * CAPACITY
    assert p99(good) < 0.2
    assert p99(server.times(1, 3, ok=True)) < (0.2 if factor < 2 else 0.05)
    assert p99(away) < (0.1 if factor < 2 else 0.02)
    assert not server.times(3.5, 5, ok=False)
    assert p99(server.times(3.5, 5, ok=True)) < 0.05
    assert not door.overloaded
    assert door.inflight == 0


def test_without_it_everybody_waits_for_the_whole_queue() -> None:
    """GATE-9: the simulated server does fall over when nobody is refused."""

    async def story(loop: SimulatedLoop) -> Server:
        server = Server(loop, None)
        server.load(2 * CAPACITY, 0, 3)
        await server.until(8)
        return server

    assert p99(simulate(story).times(0, 3, ok=True)) > 1


def test_work_beside_the_loop_is_bounded_too() -> None:
    """GATE-9: where the loop is never late, the requests under way and the queue before them are what is limited."""

    async def story(loop: SimulatedLoop) -> tuple[Server, Admission]:
        door = Admission(monotonic=loop.time, processor=loop.time)
        server = Server(loop, door, Threads(loop, 2))
        server.load(800, 0, 3, serve=0.005)
        server.load(200, 3.2, 5, serve=0.005)
        await server.until(6)
        return server, door

    server, door = simulate(story)
    assert len(server.times(1, 3, ok=True)) / 2 >= 0.9 * 400
    assert p99(server.times(0, 3, ok=True)) < 0.3
    assert p99(server.times(1, 3, ok=True)) < 0.2
    assert p99(server.times(1, 3, ok=False)) < 0.02
    assert not server.times(4, 5, ok=False)
    assert FEWEST <= door.limit < START
    assert (door.inflight, door.overloaded) == (0, False)


def test_what_is_slow_without_being_full_is_not_throttled() -> None:
    """GATE-9: a database that takes 300 ms, and would for ever more at once, gets them."""

    async def story(loop: SimulatedLoop) -> tuple[Server, Admission]:
        door = Admission(monotonic=loop.time, processor=loop.time)
        server = Server(loop, door, Threads(loop, 500))
        server.load(20, 0, 3, serve=0.3)
        server.load(600, 3, 8, serve=0.3)
        await server.until(9)
        return server, door

    server, door = simulate(story)
    assert len(server.times(6, 8, ok=False)) <= 0.01 * 1200
    assert START < door.limit <= MOST


def test_a_burst_is_no_overload() -> None:
    """GATE-9: sixty requests at one moment are answered, all of them."""

    async def story(loop: SimulatedLoop) -> Server:
        server = Server(loop, Admission(monotonic=loop.time, processor=loop.time))
        for second in range(5):
            for _ in range(60):
                loop.call_at(second, server._read, float(second), Priority.ORDINARY, SERVE)
        await server.until(6)
        return server

    server = simulate(story)
    assert len(server.times(0, 6, ok=True)) == 300


def test_people_who_wait_for_their_answers_are_no_overload() -> None:
    """GATE-9: 32 clients that each send one request after the other get no refusal, though the server is busy."""

    async def story(loop: SimulatedLoop) -> tuple[int, Admission]:
        door = Admission(monotonic=loop.time, processor=loop.time)
        server = Server(loop, door)

        async def client() -> None:
            while loop.now < 3:
                read = asyncio.Event()
                loop.call_soon(read.set)
                await read.wait()
                await server._answer(loop.now, loop.now, Priority.ORDINARY, SERVE)

        await asyncio.gather(*(client() for _ in range(32)))
        return len(server.times(0, 3, ok=True)), door

    answered, door = simulate(story)
    assert not door.refused
    assert answered > 2900


def test_ordinary_calls_go_before_bulk_and_signing_in_before_both() -> None:
    """GATE-9: at three times the capacity, exports are refused first, sign-ins last."""

    async def story(loop: SimulatedLoop) -> Server:
        server = Server(loop, Admission(monotonic=loop.time, processor=loop.time))
        server.load(0.1 * CAPACITY, 0, 3, priority=Priority.FIRST)
        server.load(1.9 * CAPACITY, 0, 3)
        server.load(1 * CAPACITY, 0, 3, priority=Priority.BULK)
        await server.until(4)
        return server

    server = simulate(story)
    share = {
        each: len(good) / (len(good) + len(server.times(1, 3, ok=False, priority=each)))
        for each in Priority
        if (good := server.times(1, 3, ok=True, priority=each)) is not None
    }
    assert share[Priority.FIRST] > 0.95
    assert 0.35 < share[Priority.ORDINARY] < 0.6
    assert share[Priority.BULK] < 0.05


def test_bulk_work_leaves_room_for_ordinary_calls() -> None:
    """GATE-9: a flood of searches takes half of the places; a call beside it is let in, and soon."""

    async def story(loop: SimulatedLoop) -> Server:
        server = Server(loop, Admission(monotonic=loop.time, processor=loop.time), Threads(loop, 2))
        server.load(1000, 0, 3, priority=Priority.BULK, serve=0.004)
        server.load(50, 0, 3, serve=0.001)
        await server.until(4)
        return server

    server = simulate(story)
    assert not server.times(0, 3, ok=False, priority=Priority.ORDINARY)
    assert p99(server.times(1, 3, ok=True, priority=Priority.ORDINARY)) < 0.2


def test_a_flood_of_sign_ins_keeps_nobody_out_who_is_signed_in() -> None:
    """GATE-9: passwords are slow on purpose; their places are their own."""

    async def story(loop: SimulatedLoop) -> tuple[bool, bool]:
        door = Admission(monotonic=loop.time, processor=loop.time)
        held = [door.enter(Priority.FIRST, loop.now) for _ in range(FIRST_MOST)]
        assert None not in held
        full = door.enter(Priority.FIRST, loop.now) is None
        return full, door.enter(Priority.ORDINARY, loop.now) is not None

    assert simulate(story) == (True, True)


def test_something_else_that_holds_the_loop_does_not_shut_everybody_out() -> None:
    """GATE-9: the loop is late for a reason that is no request; some are let in all the same."""

    async def story(loop: SimulatedLoop) -> tuple[Server, Admission]:
        door = Admission(monotonic=loop.time, processor=loop.time)
        server = Server(loop, door)
        server.load(300, 0, 3)

        def hold() -> None:
            loop.work(0.12)
            if loop.now < 3:
                loop.call_soon(hold)

        loop.call_soon(hold)
        await server.until(4)
        return server, door

    server, door = simulate(story)
    assert door.refused[Priority.ORDINARY, "lag"] > 100
    assert len(server.times(1, 3, ok=True)) >= 8


def full(loop: SimulatedLoop, number: int = 1) -> tuple[Admission, list[float]]:
    door = Admission(most=number, monotonic=loop.time, processor=loop.time)
    places = [door.enter(Priority.ORDINARY, loop.now) for _ in range(number)]
    return door, [place for place in places if place is not None]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_refusal_says_when_to_come_again_and_comes_without_waiting() -> None:
    """GATE-9: 503 SERVER_OVERLOADED with Retry-After."""

    async def story(loop: SimulatedLoop) -> tuple[UnavailableError, float]:
        door, _ = full(loop)
        assert door.enter(Priority.ORDINARY, -1.0) is None
        with pytest.raises(UnavailableError) as caught:
            await door.wait(Priority.ORDINARY, -1.0)
        return caught.value, loop.now

    error, now = simulate(story)
    assert (error.http_status, error.reason, error.retry_after in (1.0, 2.0)) == (503, "SERVER_OVERLOADED", True)
    assert now == 0


def test_whose_deadline_is_over_is_refused_before_any_work() -> None:
    """GATE-9: at once when it is over already, and while it waits when it ends then."""

    async def story(loop: SimulatedLoop) -> tuple[float, Admission]:
        door, (place,) = full(loop)
        with pytest.raises(DeadlineExceededError):
            await door.wait(Priority.ORDINARY, loop.now, deadline=loop.now)
        with pytest.raises(DeadlineExceededError):
            await door.wait(Priority.ORDINARY, loop.now, deadline=loop.now + 0.03)
        late = loop.now
        door.leave(Priority.ORDINARY, place)
        return late, door

    late, door = simulate(story)
    assert 0.03 <= late <= 0.05
    assert door.refused == {(Priority.ORDINARY, "deadline"): 2}
    assert (door.inflight, door.queued()[Priority.ORDINARY]) == (0, 0)


def test_first_come_first_served_until_there_is_too_much_then_the_newest() -> None:
    """GATE-9: in an overload the oldest have waited in vain already."""

    async def story(loop: SimulatedLoop) -> tuple[list[int], list[int]]:
        orders: list[list[int]] = []
        for overloaded in (False, True):
            door, places = full(loop, 4)
            door.overloaded = overloaded
            order: list[int] = []

            async def one(number: int, door: Admission = door, order: list[int] = order) -> None:
                started = await door.wait(Priority.ORDINARY, loop.now)
                order.append(number)
                door.leave(Priority.ORDINARY, started)

            tasks = [asyncio.create_task(one(number)) for number in range(4)]
            await settle()
            door.leave(Priority.ORDINARY, places[0])
            await asyncio.gather(*tasks)
            orders.append(order)
        return orders[0], orders[1]

    assert simulate(story) == ([0, 1, 2, 3], [3, 2, 1, 0])


def test_a_place_that_becomes_free_goes_to_the_highest_priority() -> None:
    """GATE-9: an ordinary call goes before bulk that has waited longer."""

    async def story(loop: SimulatedLoop) -> list[Priority]:
        door, places = full(loop, 2)
        order: list[Priority] = []

        async def one(priority: Priority) -> None:
            started = await door.wait(priority, loop.now)
            order.append(priority)
            door.leave(priority, started)

        tasks = [asyncio.create_task(one(each)) for each in (Priority.BULK, Priority.ORDINARY)]
        await settle()
        for place in places:
            door.leave(Priority.ORDINARY, place)
        await asyncio.gather(*tasks)
        return order

    assert simulate(story) == [Priority.ORDINARY, Priority.BULK]


@pytest.mark.parametrize("moment", ["waiting", "given a place", "refused"])
def test_who_goes_away_takes_no_place_along(moment: str) -> None:
    """GATE-9: a client that disconnects while it waits leaves nothing behind, whatever had just happened to it."""

    async def story(loop: SimulatedLoop) -> Admission:
        door, (place,) = full(loop)
        task = asyncio.create_task(door.wait(Priority.ORDINARY, loop.now))
        await settle()
        assert door.queued()[Priority.ORDINARY] == 1
        if moment == "given a place":
            door.leave(Priority.ORDINARY, place)
        elif moment == "refused":
            loop.work(1)
            door.leave(Priority.ORDINARY, place)
        task.cancel()
        if moment == "waiting":
            # Its place in the queue is offered before it knows that it is cancelled.
            door.leave(Priority.ORDINARY, place)
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        return door

    door = simulate(story)
    assert (door.inflight, door.queued()[Priority.ORDINARY], door._waiting) == (0, 0, 0)


def test_a_body_that_comes_slowly_holds_no_place() -> None:
    """GATE-9, GATE-4: whoever sends a byte a second keeps nobody out, and gets a place again when it is done."""

    async def story(loop: SimulatedLoop) -> list[int]:
        door, (_,) = full(loop)
        counts = []
        task = asyncio.create_task(door.wait(Priority.ORDINARY, loop.now))
        await settle()
        door.pause(Priority.ORDINARY)
        other = await task
        counts.append(door.inflight)
        started = door.resume(Priority.ORDINARY)
        counts.append(door.inflight)
        assert door.enter(Priority.ORDINARY, loop.now) is None
        door.leave(Priority.ORDINARY, other)
        assert door.enter(Priority.ORDINARY, loop.now) is None
        door.leave(Priority.ORDINARY, started)
        return [*counts, door.inflight]

    assert simulate(story) == [1, 2, 0]


def test_an_idle_server_is_not_woken() -> None:
    """GATE-9: nothing is looked at when nothing happens."""

    async def story(loop: SimulatedLoop) -> asyncio.TimerHandle | None:
        door = Admission(monotonic=loop.time, processor=loop.time)
        started = door.enter(Priority.ORDINARY, loop.now)
        assert started is not None
        door.leave(Priority.ORDINARY, started)
        await asyncio.sleep(3)
        return door._timer

    assert simulate(story) is None


def test_every_call_of_the_contract_has_its_priority() -> None:
    """GATE-9: a call that goes through many rows is bulk; whoever adds one looks here."""
    of = {each.operation_id: priority_of(each) for each in contract.methods() if each.route is not None}
    assert {name for name, priority in of.items() if priority is Priority.BULK} == {
        "TaskService.SearchTasks",
        "TaskService.ImportTasks",
        "TaskService.ExportTasks",
        "AuditService.VerifyEvents",
        "AuditService.QueryMetrics",
    }
    assert {name.partition(".")[0] for name, priority in of.items() if priority is Priority.FIRST} == {
        "AuthenticationService"
    }
    assert set(Counter(of.values())) == set(Priority)


def test_the_metrics_say_how_full_it_is_and_who_was_refused() -> None:
    """GATE-9, OPS-5: read when the metrics are, of all doors of a process."""
    registry = CollectorRegistry()

    async def story(loop: SimulatedLoop) -> None:
        door = Admission(Telemetry("gateway", registry), monotonic=loop.time, processor=loop.time)
        Admission(Telemetry("other", registry), monotonic=loop.time, processor=loop.time)
        assert door.enter(Priority.ORDINARY, loop.now) is not None
        with pytest.raises(UnavailableError):
            await door.wait(Priority.BULK, loop.now - 1)

    simulate(story)
    text = generate_latest(registry).decode()
    assert 'taskman_admission_inflight{service="gateway"} 1.0' in text
    assert f'taskman_admission_limit{{service="other"}} {START}.0' in text
    assert 'taskman_admission_refused_total{priority="bulk",reason="lag",service="gateway"} 1.0' in text
    assert 'taskman_admission_queued{priority="first",service="gateway"} 0.0' in text
    assert 'taskman_admission_overloaded{service="gateway"} 0.0' in text
