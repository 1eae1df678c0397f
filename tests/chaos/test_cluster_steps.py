"""`kill -9` at each step of an event: commit → publish → confirm → mark, and hear → commit → acknowledge.

No step is hit by luck: the process stands still there, because the network or the database lets it wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.chaos.barrier import at_commit, before_delete
from tests.chaos.cluster import Cluster
from tests.chaos.conftest import Size
from tests.chaos.spy import spying
from tests.chaos.trial import Run
from tests.contract.waiting import eventually


@dataclass(slots=True)
class Probe:
    """A write of the test's own beside those of the others: a task with an assignee, so two events under one key."""

    run: Run
    cluster: Cluster
    number: int

    @property
    def key(self) -> str:
        """Its Idempotency-Key."""
        return f"write-{self.run.scene.run}-probe{self.number}-1"

    @property
    def mine(self) -> str:
        """A condition on rows of the outbox: its events."""
        return f"envelope LIKE '%{self.key}.%'"

    def send(self) -> asyncio.Task[None]:
        """It is sent until it is answered."""
        key, task = self.run.crew.one(self.run.scene.writers[0], f"{self.run.scene.run}-probe{self.number}")
        assert key == self.key
        return task

    async def count(self, table: str, condition: str) -> int:
        """Rows of the task service."""
        ((count,),) = await self.cluster.stores.rows("tasks", f"SELECT count(*) FROM {table} WHERE {condition}")
        return int(count)

    async def recorded(self) -> int:
        """How many commits there are of it."""
        return await self.count("idempotency", f"key = '{self.key}'")


async def before_the_commit(probe: Probe) -> int:
    cluster = probe.cluster
    async with at_commit(cluster.stores.database("tasks"), "outbox", "INSERT", f"NEW.{probe.mine}") as barrier:
        answered = probe.send()
        await barrier.reached()
        pid = cluster.kill("tasks")
        await barrier.break_up()
        assert await probe.recorded() == 0
    await cluster.back("tasks", pid)
    await answered
    return 1


async def after_the_commit_before_the_answer(probe: Probe) -> int:
    cluster = probe.cluster
    async with at_commit(cluster.stores.database("tasks"), "outbox", "INSERT", f"NEW.{probe.mine}") as barrier:
        answered = probe.send()
        await barrier.reached()
        pid = cluster.kill("tasks")
        await barrier.open()

        async def committed() -> bool:
            return await probe.recorded() == 1

        await eventually(committed, "the commit")
        assert not answered.done()
    await cluster.back("tasks", pid)
    await answered
    assert probe.run.crew.acknowledged[-1].key != probe.key or probe.run.crew.acknowledged[-1].replayed
    return 1


@asynccontextmanager
async def _on_its_way(probe: Probe) -> AsyncIterator[None]:
    """The probe's events are sent to the broker, and nothing arrives there."""
    run, way = probe.run, probe.cluster.parts.broker_way
    await run.crew.pause()

    async def empty() -> bool:
        return await probe.count("outbox", "true") == 0

    await eventually(empty, "an empty outbox", seconds=30)
    way.freeze()
    try:
        await probe.send()
        taken = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state = 'idle in transaction' AND query LIKE '%FROM outbox%'"
        )

        async def sent() -> bool:
            ((count,),) = await probe.cluster.stores.rows("tasks", taken)
            return bool(count) and await probe.count("outbox", probe.mine) >= 2

        await eventually(sent, "the relay at work")
        yield
    finally:
        way.heal()
        run.crew.up.set()


async def after_the_commit_before_the_publish(probe: Probe) -> int:
    cluster = probe.cluster
    async with _on_its_way(probe):
        pid = cluster.kill("tasks")
        cluster.parts.broker_way.cut()  # what was on its way is lost
        assert await probe.count("outbox", probe.mine) >= 2
    await cluster.back("tasks", pid)
    return 1


async def after_the_publish_before_the_confirm(probe: Probe) -> int:
    cluster = probe.cluster
    async with _on_its_way(probe):
        pid = cluster.kill("tasks")  # what was on its way arrives, and nobody hears the answer
    await cluster.back("tasks", pid)
    return 2


async def after_the_confirm_before_the_mark(probe: Probe) -> int:
    cluster = probe.cluster
    database = cluster.stores.database("tasks")
    async with _on_its_way(probe):
        # The relay has locked the first row of the key only.
        last = f"sequence = (SELECT max(sequence) FROM outbox WHERE {probe.mine})"
        async with before_delete(database, "outbox", last) as barrier:
            cluster.parts.broker_way.heal()
            await barrier.reached()
            pid = cluster.kill("tasks")
            await barrier.break_up()
            assert await probe.count("outbox", probe.mine) >= 2
    await cluster.back("tasks", pid)
    return 2


async def after_the_mark_before_its_commit(probe: Probe) -> int:
    cluster = probe.cluster
    async with at_commit(cluster.stores.database("tasks"), "outbox", "DELETE", f"OLD.{probe.mine}") as barrier:
        await probe.send()
        await barrier.reached()
        pid = cluster.kill("tasks")
        await barrier.break_up()
        assert await probe.count("outbox", probe.mine) >= 2
    await cluster.back("tasks", pid)
    return 2


async def _heard(probe: Probe, service: str, queue: str, *, commit: bool) -> int:
    cluster = probe.cluster
    async with at_commit(cluster.stores.database(service), "inbox", "INSERT", f"NEW.consumer = '{queue}'") as barrier:
        await probe.send()
        await barrier.reached()
        pid = cluster.kill(service)
        await (barrier.open() if commit else barrier.break_up())
    await cluster.back(service, pid)
    return 1


STEPS: dict[str, Callable[[Probe], Awaitable[int]]] = {
    "tasks: before the commit of a write": before_the_commit,
    "audit: heard, not committed": lambda probe: _heard(probe, "audit", "audit.all", commit=False),
    "tasks: after the commit, before the answer": after_the_commit_before_the_answer,
    "audit: committed, not acknowledged": lambda probe: _heard(probe, "audit", "audit.all", commit=True),
    "tasks: after the commit, before the publish": after_the_commit_before_the_publish,
    "notifications: heard, not committed": lambda probe: _heard(
        probe, "notifications", "notifications.people", commit=False
    ),
    "tasks: after the publish, before the confirm": after_the_publish_before_the_confirm,
    "notifications: committed, not acknowledged": lambda probe: _heard(
        probe, "notifications", "notifications.people", commit=True
    ),
    "tasks: after the confirm, before the mark": after_the_confirm_before_the_mark,
    "tasks: after the mark, before its commit": after_the_mark_before_its_commit,
}


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("told")
async def test_each_step_of_an_event_survives_the_end_of_its_process(cluster: Cluster, size: Size) -> None:
    """EVENT-1, EVENT-2, GATE-5: a step that was not seen to be done is done again, and has one effect. How often each
    event was published is counted at the broker: again where its confirm or mark was lost, else once."""
    broker = cluster.parts.rabbitmq.url(cluster.parts.vhost)
    async with (
        spying(broker, "taskman.task") as spy,
        cluster.run("kill -9 at each step", rate=size.rate, writers=size.writers) as run,
    ):
        number = 0
        for _ in range(size.rounds):
            for name, step in STEPS.items():
                number += 1
                probe = Probe(run, cluster, number)
                often = await step(probe)
                await run.caught_up()

                async def gone(probe: Probe = probe) -> bool:
                    return await probe.count("outbox", probe.mine) == 0

                await eventually(gone, "the events of the probe on their way", seconds=30)
                published = await spy.heard(probe.key)
                assert len(published) >= 2, f"{name}: {published}"
                assert set(published.values()) == {often}, f"{name}: {published}"
                run.notes.append(f"{name}: each event published {often} times, one effect")
                run.crew.check()
