"""RabbitMQ, Redis, PostgreSQL and the network go away and come back, while clients write and consumers run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from taskman_server.settings import SERVICES
from tests.chaos.cluster import Cluster
from tests.chaos.conftest import Size

POOL = 10
"""Connections of a process at most: the setting's default."""
Step = Callable[[Cluster], None]


def _nothing(cluster: Cluster) -> None:
    """It comes back by itself."""


# What goes away, how it comes back, and whether writes are answered meanwhile.
OUTAGES: dict[str, tuple[Step, Step, bool]] = {
    "RabbitMQ stopped": (lambda c: c.parts.rabbitmq.stop(), lambda c: c.parts.rabbitmq.start(), True),
    "RabbitMQ killed": (lambda c: c.parts.rabbitmq.kill(), lambda c: c.parts.rabbitmq.start(), True),
    "the network to RabbitMQ silent": (
        lambda c: c.parts.broker_way.freeze(),
        lambda c: c.parts.broker_way.heal(),
        True,
    ),
    "Redis flushed": (lambda c: _flush(c), _nothing, True),
    "Redis stopped": (lambda c: c.parts.redis.stop(), lambda c: c.parts.redis.start(), True),
    "PostgreSQL stopped": (lambda c: c.parts.postgresql.stop(), lambda c: c.parts.postgresql.start(), False),
    "PostgreSQL killed": (lambda c: c.parts.postgresql.kill(), lambda c: c.parts.postgresql.start(), False),
    "the network to the tasks cut": (lambda c: c.tasks_way.cut(), lambda c: c.tasks_way.heal(), False),
    "the network to the tasks silent": (lambda c: c.tasks_way.freeze(), lambda c: c.tasks_way.heal(), False),
}


def _flush(cluster: Cluster) -> None:
    assert cluster.parts.redis._control.ask("FLUSHALL") == "+OK"


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("what", OUTAGES)
async def test_nothing_is_lost_or_done_twice_when_a_part_goes_and_comes_back(
    cluster: Cluster, size: Size, what: str
) -> None:
    """EVENT-1, EVENT-2, GATE-5, OPS-2, OPS-7: writes that were acknowledged stay, events that could not leave wait, no
    process has to be helped. Without RabbitMQ or Redis writes are answered all the same."""
    go, come, answered = OUTAGES[what]
    async with cluster.run(what, rate=size.rate, writers=size.writers) as run:
        before = len(run.crew.acknowledged)
        away = time.monotonic()
        await asyncio.to_thread(go, cluster)
        await run.writing_for(size.outage)
        during = len(run.crew.acknowledged) - before
        coming = time.monotonic()
        await asyncio.to_thread(come, cluster)
        there = time.monotonic()
        first = await run.wrote(3)
        lag = await run.caught_up()
        await cluster.well()
        well = time.monotonic() - there
        silence = run.crew.longest_silence(away)
        run.notes.append(
            f"away for {there - away:.1f} s: {during} writes answered, none for {silence:.1f} s at most;"
            f" after its return ({there - coming:.1f} s to start): writes within {first:.1f} s, events of now within"
            f" {lag:.1f} s, all well within {well:.1f} s"
        )
        sessions, connections = await cluster.stores.connections()
        run.notes.append(f"connections afterwards: {sessions} to PostgreSQL, {connections} to RabbitMQ")
        assert sessions <= len(SERVICES) * POOL
        assert connections <= len(SERVICES) * 2  # one to publish, one to consume
    if answered:
        assert during >= 3, f"{during} writes were answered in {size.outage} s"  # that they go on; not how quickly
