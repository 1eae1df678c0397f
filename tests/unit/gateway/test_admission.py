"""The door: who is let in when there is more to do than can be done, and in which order (GATE-9)."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from taskman_sdk import contract
from taskman_sdk.errors import DeadlineExceededError
from taskman_server.gateway.admission import FEWEST, MOST, TARGET, WINDOW, Admission, Priority, priority_of
from taskman_server.kit.clock import ManualClock
from taskman_server.kit.telemetry import Telemetry

TASKS = b"/v1/tasks?page_size=50"
LOGIN = b"/v1/auth/login"
IMPORT = b"/v1/projects/WEB/tasks:import"


_NORMAL = Priority.ORDINARY


async def _work(door: Door) -> None:
    """A request that takes longer than a turn."""
    await door.turn(_NORMAL, None)
    door.clock.advance(1)


class Door(Admission):
    """An admission with a clock of its own, and requests that take as long as they are told."""

    def __init__(self, telemetry: Telemetry | None = None) -> None:
        self.clock = ManualClock()
        super().__init__(telemetry, self.clock.monotonic)

    def window(self, seconds: float, rate: float = 1000, inside: int = MOST) -> None:
        """A tenth of a second in which requests took so long, at so many a second, with so many inside."""
        self.full(TASKS, inside)
        for _ in range(int(rate * WINDOW) - 1):
            self.answered(seconds)
        self.clock.advance(WINDOW + 1e-6)
        self.answered(seconds)


def test_the_limit_is_what_is_answered_in_the_time_that_a_request_may_take() -> None:
    """GATE-9, by Little's law; never below what is no crowd."""
    door = Door()
    for _ in range(3):
        door.window(2 * TARGET, rate=1500)
    assert door.limit == pytest.approx(1500 * TARGET, abs=2)
    assert not door.full(TASKS, door.limit - 1)
    assert door.full(TASKS, door.limit)
    door.window(50 * TARGET, rate=400)
    assert door.limit == FEWEST
    assert not door.full(TASKS, FEWEST - 1)


def test_a_limit_that_is_used_grows_while_answers_are_fast() -> None:
    """GATE-9: and one that nobody comes near stays, so that a burst finds it as it was measured."""
    door = Door()
    before = door.limit
    door.window(TARGET / 2, inside=before // 4)
    assert door.limit == before
    for _ in range(100):
        door.window(TARGET / 2, inside=door.limit)
    assert door.limit == MOST
    door.window(2 * TARGET, rate=3000)
    assert door.limit == pytest.approx(3000 * TARGET, abs=2)


def test_a_few_slow_answers_say_nothing() -> None:
    """GATE-9: nobody is refused because an export took long at night."""
    door = Door()
    before = door.limit
    door.clock.advance(60)
    for _ in range(10):
        door.answered(30)
    assert door.limit == before


def test_bulk_work_leaves_half_of_the_room_and_signing_in_is_always_possible() -> None:
    """GATE-9: priorities."""
    door = Door()
    assert not door.full(IMPORT, door.limit // 2 - 1)
    assert door.full(IMPORT, door.limit // 2)
    assert not door.full(TASKS, door.limit // 2)
    assert door.full(TASKS, door.limit)
    for target in (LOGIN, b"/healthz", b"/metrics", b"/.well-known/jwks.json"):
        assert not door.full(target, door.limit)
        assert door.full(target, MOST), "even these have an end"


def test_what_waits_apart_keeps_nobody_out() -> None:
    """GATE-9: a flood of sign-ins, or bodies that come slowly."""
    door = Door()
    with door.aside():
        assert not door.full(TASKS, door.limit)
    assert door.full(TASKS, door.limit)


async def test_who_is_let_in_begins_in_turns_the_more_important_first() -> None:
    """GATE-9: between two turns the loop looks at its sockets."""
    door = Door()
    order: list[str] = []

    async def request(name: str, priority: Priority) -> None:
        await door.turn(priority, None)
        order.append(name)
        door.clock.advance(1)  # longer than a turn

    async with asyncio.TaskGroup() as group:
        for name, priority in (
            ("first", Priority.ORDINARY),
            ("export", Priority.BULK),
            ("read", Priority.ORDINARY),
            ("write", Priority.ORDINARY),
        ):
            group.create_task(request(name, priority))
    assert order == ["first", "read", "write", "export"]


async def test_short_requests_share_a_turn() -> None:
    """GATE-9: nobody waits who need not."""
    door = Door()
    assert [await door.turn(Priority.ORDINARY, None) for _ in range(100)] == [0.0] * 100


async def test_whose_time_is_over_is_told_so_before_any_work() -> None:
    """GATE-9: nobody waits for that answer any more."""
    door = Door()
    working = asyncio.create_task(_work(door))
    late = asyncio.create_task(door.turn(_NORMAL, 0.5))
    patient = asyncio.create_task(door.turn(_NORMAL, 5))
    await working
    door.clock.advance(1)
    with pytest.raises(DeadlineExceededError) as refused:
        await late
    assert refused.value.reason == "SERVER_OVERLOADED"
    assert await patient == 1


async def test_who_goes_away_while_waiting_takes_nobodys_turn() -> None:
    """GATE-9."""
    door = Door()
    working = asyncio.create_task(_work(door))
    gone = asyncio.create_task(door.turn(_NORMAL, None))
    after = asyncio.create_task(door.turn(_NORMAL, None))
    await working
    gone.cancel()
    assert await after == 0
    with pytest.raises(asyncio.CancelledError):
        await gone


def test_every_call_of_the_contract_has_its_priority() -> None:
    """GATE-9: the same by its method as by its address."""
    names = {method.operation_id: priority_of(method) for method in contract.methods()}
    assert names["AuthenticationService.Login"] is Priority.FIRST
    assert names["TaskService.GetTask"] is Priority.ORDINARY
    bulk = {name for name, priority in names.items() if priority is Priority.BULK}
    assert bulk == {"TaskService.ImportTasks", "TaskService.ExportTasks", "AuditService.VerifyEvents"}


def test_the_metrics_say_how_much_is_let_in_and_who_was_refused() -> None:
    """OPS-5."""
    registry = CollectorRegistry()
    door = Door(Telemetry("gateway", registry))
    assert door.full(TASKS, door.limit)
    assert door.full(IMPORT, door.limit)
    labels = {"service": "gateway"}
    assert registry.get_sample_value("taskman_admission_limit", labels) == door.limit
    for priority in ("ordinary", "bulk"):
        assert registry.get_sample_value("taskman_admission_refused_total", {**labels, "priority": priority}) == 1
