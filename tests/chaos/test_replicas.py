"""Replicas end one by one under load, as in an upgrade of the cluster, and nobody outside notices."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pytest

from tests.chaos.cluster import PROCESSES
from tests.chaos.conftest import Size
from tests.chaos.fleet import DRAIN_SECONDS, Fleet, fleet_of
from tests.contract.receivers import HookServer

LANES = 4
"""So many services have a replica less at the same time."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, hooks: HookServer) -> Iterator[Fleet]:
    """Two replicas of each service and two gateways."""
    with fleet_of(tmp_path_factory.mktemp("fleet"), hooks) as running:
        yield running


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("told")
async def test_a_replica_that_is_stopped_fails_no_request(fleet: Fleet, size: Size) -> None:
    """OPS-7: SIGTERM of each process, one replica of a service after the other and again and again, while clients of
    both gateways read and write. No request is answered with an error, each process ends with 0 in time, and its
    successor takes its place.

    A client treats a connection that closes without an answer as a load balancer does: the request goes to the other
    gateway, under the same Idempotency-Key."""
    rounds = 20 if size.long else 2
    ends: dict[str, list[float]] = defaultdict(list)
    async with fleet.run(
        f"SIGTERM of each process {rounds} times", rate=size.rate, writers=size.writers, strict=True
    ) as run:

        async def end_and_start_again(names: Sequence[str]) -> None:
            for number in range(rounds):
                for name in names:
                    replica = fleet.replicas[name][number % 2]
                    code, seconds = await asyncio.to_thread(replica.terminate)
                    assert code == 0, f"{name} ended with {code}:\n{replica.tail()}"
                    ends[name].append(seconds)
                    await run.wrote(3)  # by the one that is left
                    replica.start()
                    await replica.ready()
                    if run.crew.failed:
                        run.notes.append(f"after the end of {name} {number % 2}: {len(run.crew.failed)} failed so far")

        async with asyncio.TaskGroup() as lanes:
            for lane in range(LANES):
                lanes.create_task(end_and_start_again(PROCESSES[lane::LANES]))
        for name, times in ends.items():
            run.notes.append(f"{name}: {len(times)} times, ended after {max(times):.1f} s at most")
        run.notes.append(f"requests answered with an error: {len(run.crew.failed)}")
    assert max(map(max, ends.values())) <= DRAIN_SECONDS
    assert run.crew.failed == []
