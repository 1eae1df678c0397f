"""`kill -9` of each of the eight processes at random moments, while clients write and consumers run."""

from __future__ import annotations

import asyncio
import random
import secrets
import time

import pytest

from tests.chaos.cluster import GATEWAY, PROCESSES, Cluster
from tests.chaos.conftest import Size


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("told")
async def test_no_acknowledged_write_is_lost_or_done_twice_whichever_process_is_killed(
    cluster: Cluster, size: Size
) -> None:
    """EVENT-1, EVENT-2, GATE-5, AUDIT-1, NOTIFY-1, OPS-2: SIGKILL of each process, most times when all are well, now
    and then while the one before still starts. The supervisor starts them again, and nobody else has to do anything."""
    seed = secrets.randbelow(10**6)
    rng = random.Random(seed)
    print(f"\nseed {seed}")
    async with cluster.run("kill -9 of each process", rate=size.rate, writers=size.writers) as run:
        for number in range(size.rounds):
            for name in rng.sample(PROCESSES, len(PROCESSES)):
                await run.wrote()
                await asyncio.sleep(rng.uniform(0.005, 0.4))
                killed = time.monotonic()
                pid = cluster.kill(name)
                assert pid, f"there was no {name} to kill"
                if number % 2:
                    continue  # the next one is killed while this one starts
                await cluster.back(name, pid)
                ready = time.monotonic() - killed
                await run.wrote(5)
                lag = await run.caught_up()
                silence = run.crew.longest_silence(killed)
                run.notes.append(
                    f"{name}: ready after {ready:.1f} s, no write for {silence:.1f} s at most,"
                    f" then events arrive within {lag:.1f} s"
                )
            await cluster.well()
        assert cluster.pid(GATEWAY)
    assert run.reckoning is not None
    assert sum(write.attempts > 1 for write in run.crew.acknowledged) > 0, (
        "no kill hit a write: the test showed nothing"
    )
